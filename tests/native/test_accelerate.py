"""Kontext: Accelerate inside a real ComfyUI: KSampler and Kontext: Sampler alike, and nothing left behind.

scripts/saving_work.py computes all of it inside the host, with 8 steps of a small random network.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from native_host import native_hosts, run_in_host

SCRIPT = Path(__file__).with_name("scripts") / "saving_work.py"
RUNS = (
    "cfg 3",
    "cfg 3, batch of 2",
    "batch of 2",
    "heun",
    "dpm_2",
    "ancestral",
    "img2img",
    "noise mask",
)


@pytest.fixture(scope="module", params=native_hosts())
def found(request: pytest.FixtureRequest) -> dict[str, Any]:
    return run_in_host(request.param, SCRIPT)


def test_off_changes_nothing(found: dict[str, Any]) -> None:
    assert found["off"] == 0 and found["told nothing"] == []
    assert found["theirs off"] == 0


def test_presets_leave_work_out_and_say_so(found: dict[str, Any]) -> None:
    for preset, case in found["presets"].items():
        [said] = case["told"]
        assert said.startswith(f"{preset}: 8 model calls: "), said
        assert "100% of the work" not in said
        # Measured: 0.05 and more, of latents with a mean size of 3 to 6.
        assert case["difference"] > 1e-3


def test_kontext_sampler_and_ksampler_do_the_same(found: dict[str, Any]) -> None:
    case = found["sampler"]
    assert case["difference"] == 0
    assert case["told"][0] == case["told"][1]
    assert case["told"][1] in case["notes"]
    assert found["again plain"] == 0


@pytest.mark.parametrize("name", RUNS)
def test_runs_of_every_kind(name: str, found: dict[str, Any]) -> None:
    case = found["runs"][name]
    assert case["finite"] and case["effect"] > 1e-3
    assert case["again"] == 0 and case["plain again"] == 0
    first, region, second = case["told"]
    assert first == second and " 0 with references reused" not in first
    if name == "noise mask":
        assert " 0 regional" not in region and case["region"] > 0


def test_texts_in_one_call_or_in_two(found: dict[str, Any]) -> None:
    """The host decides by the memory there is, at every step."""
    together, apart = found["apart"]["told"]
    assert together.startswith("custom: 8 model calls") and apart.startswith(
        "custom: 16 model calls"
    )
    # Measured: 1.2e-5 at cfg 3.
    assert found["apart"]["difference"] < 4e-5


def test_a_stopped_run_leaves_nothing(found: dict[str, Any]) -> None:
    case = found["stopped"]
    assert case["raised"] and case["left"]
    assert case["plain again"] == case["other size"] == 0


def test_the_host_is_told_of_the_memory_and_reloads_nothing(found: dict[str, Any]) -> None:
    assert found["same weights"]
    # 24 tokens at two timesteps, keys and values, 96 channels, 4 blocks, float32; or a byte each, and a
    # float32 for each of 3 heads.
    assert found["memory"] == [2 * 24 * 2 * 96 * 4 * 4, 2 * 24 * 2 * (96 + 4 * 3) * 4]


def test_a_model_that_the_host_has_loaded(found: dict[str, Any]) -> None:
    assert "Kontext: Load Model" in found["theirs"] and "EasyCache" in found["theirs"]
