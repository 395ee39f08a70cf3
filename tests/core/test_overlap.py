"""Images on each other's places are found, whatever placed them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kontext_core.overlap import Overlap, overlaps
from kontext_core.stitcher import METHODS, Position, Reference, stitch

TARGET = (1, 16, 8, 8)


def found(*positions: Position | None, method: str = "offset", **more: Any) -> list[Overlap]:
    latent = torch.zeros(1, 16, 8, 8)
    references = [Reference(latent, position=position, **more) for position in positions]
    return overlaps(stitch(TARGET, references, method=method).layout)


@pytest.mark.parametrize("method", METHODS)
def test_no_method_puts_images_on_each_other(method: str) -> None:
    assert found(None, None, None, method=method) == []


def test_places_of_their_own_may_meet() -> None:
    assert found(None, (1, 0, 0)) == [Overlap(1, 2, 16)]
    assert found(None, (1, 2, 3)) == [Overlap(1, 2, 2)]
    assert found((0, 2, 3)) == [Overlap(0, 1, 2)]
    assert found((1, 0.5, 0), (1, 4, 0)) == [Overlap(1, 2, 2)]


def test_edge_to_edge_and_at_another_time_they_don_t() -> None:
    assert found(None, (1, 4, 0)) == []
    assert found(None, (1, 0, -4)) == []
    assert found(None, (2, 0, 0)) == []


def test_one_that_is_left_out_is_in_nobodys_way() -> None:
    assert found((1, 0, 0), (1, 0, 0), strength=0.0) == []
