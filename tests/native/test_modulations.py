"""Modulation layers off the device: a run reads their weights once for many steps, and gives the same.

scripts/modulations.py computes all of it inside the host, with plain weights and Q8_0 blocks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from native_host import native_hosts, run_in_host

SCRIPT = Path(__file__).with_name("scripts") / "modulations.py"
KINDS = ("plain", "Q8_0")
# Latents have a mean size of 3 to 6. Measured: 2.0e-5 at cfg 3 (rows are made 16 at a time: other rounding).
SAME = 4e-5
# How often a layer is asked in a run: 16 rows are made at a time.
CALLS = {
    "4 steps": 1,
    "cfg 3": 1,
    "batch of 2, cfg 3": 1,
    "20 steps": 2,
    # One for the steps' own timesteps, one for each between them.
    "dpm_2": 4,
    # Timestep 0 is one more.
    "references at timestep 0": 2,
    # Evaluated in turn.
    "two texts, two guidances": 2,
    "no guidance": 1,
    "one after another": 2,
}


@pytest.fixture(scope="module", params=native_hosts())
def found(request: pytest.FixtureRequest) -> dict[str, Any]:
    return run_in_host(request.param, SCRIPT)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CALLS)
def test_same_latent_with_fewer_readings(found: dict[str, Any], kind: str, name: str) -> None:
    case = found[kind]["runs"][name]
    assert case["difference"] < SAME
    assert case["calls"] == [CALLS[name]]


@pytest.mark.parametrize("kind", KINDS)
def test_patches_and_hooks_are_in_what_is_kept(found: dict[str, Any], kind: str) -> None:
    rows = found[kind]["changes"]
    assert len(rows) == 4
    for name, (difference, effect) in rows.items():
        assert difference < SAME and effect > 0.01, name


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_left_off_first_and_taken_off_first(found: dict[str, Any], kind: str) -> None:
    case = found[kind]["partial"]
    most, half, few, less = case["rooms"]
    for on, layers, others, all_others in (most, half, few):
        assert 0 < layers - on and others == all_others
    assert most[0] > half[0] > few[0] >= less[0] == 0
    assert less[2] < less[3]
    mine, others = case["unloaded"]
    assert mine > 0 and others == 0


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_when_a_run_is_over(found: dict[str, Any], kind: str) -> None:
    assert found[kind]["left"] == 0
