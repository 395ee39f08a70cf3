"""Figures of two pictures inside and outside a mask, and the heat map."""

from __future__ import annotations

import pytest
import torch

from kontext_core.comparing import HEAT, compare, heat_map, in_words, paired
from kontext_core.errors import InputError, ShapeError
from kontext_core.metrics import psnr, ssim


def picture(seed: int, batch: int = 1, height: int = 40, width: int = 56) -> torch.Tensor:
    return torch.rand(batch, height, width, 3, generator=torch.Generator().manual_seed(seed))


def test_figures_are_those_of_the_metrics() -> None:
    a, b = picture(1), picture(2)
    [found] = compare(a, b)
    planes = a.movedim(-1, 1), b.movedim(-1, 1)
    assert found.whole.psnr == pytest.approx(float(psnr(*planes)), abs=1e-4)
    assert found.whole.ssim == pytest.approx(float(ssim(*planes)), abs=1e-6)
    assert found.whole.changed > 0.99
    assert found.inside is found.outside is None


def test_what_changed_in_the_mask_is_told_from_what_changed_outside() -> None:
    before = picture(1)
    after = before.clone()
    after[:, 10:20, 10:30] = 1 - after[:, 10:20, 10:30]
    mask = torch.zeros(1, 40, 56)
    mask[:, 8:22, 8:32] = 1
    [found] = compare(before, after, mask)
    assert found.outside is not None and found.inside is not None
    assert found.outside.psnr == 100 and found.outside.changed == 0
    # 200 pixels of 336; few random ones happen to stay.
    assert 0.5 < found.inside.changed <= 200 / 336
    assert found.inside.psnr < found.whole.psnr < 100
    assert "outside: identical" in in_words(found)
    # Half the size says the same.
    [again] = compare(before, after, mask[:, ::2, ::2])
    assert again.outside is not None and again.outside.psnr == 100


def test_a_mask_of_everything_has_no_outside() -> None:
    a = picture(1)
    [found] = compare(a, a, torch.ones(1, 40, 56))
    assert found.outside is None
    assert in_words(found) == "whole: identical; in the mask: identical"


def test_rounding_to_8_bits_is_no_change() -> None:
    a = picture(1)
    [found] = compare(a, (a * 255).round() / 255)
    assert found.whole.changed == 0
    assert found.whole.psnr < 100


def test_a_batch_beside_one_and_beside_as_many() -> None:
    one, three = picture(1), picture(2, 3)
    a, b = paired(one, three)
    assert a.shape == b.shape == (3, 40, 56, 3)
    assert len(compare(a, b)) == 3
    assert paired(three, one)[1].shape == (3, 40, 56, 3)
    with pytest.raises(ShapeError, match="batch of 3"):
        paired(three, picture(3, 2))


def test_sizes_and_shapes() -> None:
    large = picture(1, height=80, width=112)
    a, b = paired(picture(1), large)
    assert b.shape == a.shape
    with pytest.raises(InputError, match="56 x 40 and after 56 x 56"):
        paired(picture(1), picture(2, height=56))
    with pytest.raises(InputError, match="another shape"):
        compare(picture(1), picture(2), torch.ones(1, 40, 40))
    # Too small for SSIM's window is no error.
    tiny = picture(1, height=16, width=16)[:, :9, :9]
    assert compare(tiny, tiny)[0].whole.ssim is None


def test_the_heat_map() -> None:
    a = torch.zeros(1, 16, 16, 3)
    b = a.clone()
    b[0, 0, 0, 1] = 0.25
    b[0, 0, 1, 2] = 0.0625
    b[0, 0, 2] = 1.0
    heat = heat_map(a, b)
    assert heat[0, 1].eq(0).all()
    assert heat[0, 0, 0].tolist() == heat[0, 0, 2].tolist() == [1, 1, 1]
    # Measured: 0.
    assert torch.allclose(heat[0, 0, 1], torch.tensor(HEAT[1]), atol=1e-6)
    # The more, the lighter.
    ramp = heat_map(
        torch.zeros(1, 16, 101, 3),
        torch.linspace(0, 1, 101)[None, None, :, None].expand(1, 16, 101, 3),
        1.0,
    )
    light = ramp[0, 0] @ torch.tensor([0.2126, 0.7152, 0.0722])
    assert bool((light.diff() > 0).all())
    for wrong in (0, 2, float("nan")):
        with pytest.raises(InputError, match="full"):
            heat_map(a, b, wrong)
