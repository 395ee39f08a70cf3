"""Metrics against values worked out by hand."""

import pytest
import torch

from kontext_core.errors import ShapeError
from kontext_core.metrics import mse, psnr, ssim


def test_psnr_of_a_constant_offset():
    a = torch.full((2, 3, 16, 16), 0.5)
    b = a.clone()
    b[0] += 0.1
    b[1] += 0.01
    # 20 log10(1 / offset): 20 dB and 40 dB.
    assert torch.allclose(psnr(a, b), torch.tensor([20.0, 40.0]), atol=1e-3)


def test_mask_limits_the_area():
    a, b = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    b[:, :, :4] = 1
    mask = torch.zeros(1, 1, 8, 8)
    assert float(mse(a, b)) == 0.5
    mask[:, :, 4:] = 1
    assert float(mse(a, b, mask)) == 0
    assert float(mse(a, b, 1 - mask)) == 1


def test_ssim_is_one_for_equal_and_falls_with_noise():
    torch.manual_seed(0)
    a = torch.rand(1, 3, 32, 32)
    assert float(ssim(a, a)) == pytest.approx(1.0, abs=1e-5)
    low, high = (float(ssim(a, a + s * torch.randn_like(a))) for s in (0.05, 0.3))
    assert 1 > low > high > 0


def test_shapes_must_agree():
    with pytest.raises(ShapeError, match="equal"):
        psnr(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 9))
