"""Rectified flow against its formulas."""

import torch

from kontext_core.errors import InputError
from kontext_core.schedule import mu_for, time_shift
from kontext_lab.training.flow import flow_loss, noised, sample_timesteps, velocity_target


def test_velocity_is_the_derivative_of_the_path():
    x, eps = torch.randn(3, 4, 5).double(), torch.randn(3, 4, 5).double()
    t = torch.tensor([0.1, 0.5, 0.9]).double()
    step = 1e-3
    slope = (noised(x, eps, t + step) - noised(x, eps, t)) / step
    # The path is linear, so the difference quotient is exact up to rounding (measured 5e-13).
    assert (slope - velocity_target(x, eps)).abs().max() < 1e-10


def test_path_runs_from_picture_to_noise():
    x, eps = torch.randn(2, 6), torch.randn(2, 6)
    assert torch.equal(noised(x, eps, torch.zeros(2)), x)
    assert torch.equal(noised(x, eps, torch.ones(2)), eps)


def test_following_the_true_velocity_down_gives_the_picture():
    x, eps = torch.randn(1, 8), torch.randn(1, 8)
    z = eps
    for _ in range(4):
        z = z - 0.25 * velocity_target(x, eps)
    assert torch.allclose(z, x, atol=1e-6)  # measured 2.4e-7


def test_loss_is_per_sample_and_zero_only_for_the_right_sign():
    x, eps = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    assert flow_loss(eps - x, x, eps).tolist() == [0.0, 0.0]
    wrong = flow_loss(x - eps, x, eps)
    assert wrong.shape == (2,) and bool((wrong > 1).all())


def test_timesteps_are_logit_normal_and_shifted_by_resolution():
    count = 200_000
    generator = torch.Generator().manual_seed(0)
    t = sample_timesteps(count, 4096, extra=0.0, std=1.0, generator=generator)
    logit = torch.logit(t.double())
    # Standard error of a mean over 200000 is 0.0022.
    assert abs(float(logit.mean()) - 1.15) < 0.01
    assert abs(float(logit.std()) - 1.0) < 0.01


def test_shift_equals_the_samplers_time_shift():
    draw = torch.randn(64, generator=torch.Generator().manual_seed(4))
    mine = sample_timesteps(64, 16, extra=0.0, std=1.0, generator=torch.Generator().manual_seed(4))
    assert torch.allclose(mine, time_shift(mu_for(16), torch.sigmoid(draw)), atol=1e-6)


def test_more_tokens_mean_more_noise():
    small, large = (
        sample_timesteps(4000, tokens, generator=torch.Generator().manual_seed(1)).mean()
        for tokens in (16, 4096)
    )
    assert large > small + 0.05


def test_std_must_be_positive():
    try:
        sample_timesteps(4, 16, std=0)
    except InputError as error:
        assert "std" in str(error)
    else:
        raise AssertionError("std 0 was accepted")
