"""Trained sizes against the published choice for some pictures."""

from __future__ import annotations

import pytest

from kontext_core import InputError
from kontext_core.resolutions import KONTEXT_RESOLUTIONS, check_size, nearest_resolution


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1024, 1024), (1024, 1024)),
        ((1920, 1080), (1392, 752)),
        ((1080, 1920), (752, 1392)),
        ((16, 16384), (672, 1568)),
        ((16384, 16), (1568, 672)),
        ((3000, 2000), (1248, 832)),
        # Nearest by width over height; by height over width it would be 1248x832.
        ((1420, 1000), (1184, 880)),
        ((17, 17), (1024, 1024)),
    ],
)
def test_nearest(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert nearest_resolution(*size) == expected


def test_every_trained_size_is_its_own_nearest() -> None:
    assert len(set(KONTEXT_RESOLUTIONS)) == 17
    for width, height in KONTEXT_RESOLUTIONS:
        assert nearest_resolution(width, height) == (width, height)
        assert (height, width) in KONTEXT_RESOLUTIONS
        assert check_size(width, height) == (width, height)
        assert abs(width * height / 1024**2 - 1) < 0.05


def test_of_equals_the_narrowest() -> None:
    assert nearest_resolution(5, 5, [(64, 64), (32, 32)]) == (32, 32)


@pytest.mark.parametrize("side", [0, -16, 8, 100, 16400, 64.0, True, "64"])
def test_unusable_sides(side: object) -> None:
    with pytest.raises(InputError, match="width is .*multiple of 16 from 16 to 16384"):
        check_size(side, 64)
    with pytest.raises(InputError, match="height is"):
        check_size(64, side)
