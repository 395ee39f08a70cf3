"""The timesteps beside diffusers' FlowMatchEulerDiscreteScheduler with FLUX.1's settings."""

from __future__ import annotations

import numpy as np
import pytest
from diffusers import FlowMatchEulerDiscreteScheduler

from kontext_core.schedule import flux_schedule, make_timesteps


def published_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Settings of FLUX.1 Kontext [dev]'s scheduler_config.json."""
    return FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=1000,
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )


@pytest.mark.parametrize("steps", [1, 4, 20, 28, 50])
@pytest.mark.parametrize("tokens", [16, 256, 1024, 4080, 4096, 8192])
def test_sigmas(steps: int, tokens: int) -> None:
    scheduler = published_scheduler()
    mu = 0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    # Measured: 1.2e-7, the last bit; the published float32 formula is met exactly, see tests/core.
    assert (flux_schedule(steps, tokens) - scheduler.sigmas).abs().max() < 5e-6
    assert make_timesteps(steps, tokens).equal(flux_schedule(steps, tokens))
