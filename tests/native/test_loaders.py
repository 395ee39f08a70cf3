"""What the loaders give on a real ComfyUI: copies for several devices, and beside other kinds of models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from native_host import native_hosts, run_in_host

SCRIPT = Path(__file__).with_name("scripts") / "loaders.py"

CLIPS = {
    "SD1": "Stable Diffusion 1's CLIP (features of 768 numbers, pooled 768)",
    "SDXL": "SDXL's CLIP (features of 2048 numbers, pooled 1280)",
    "SD3": "Stable Diffusion 3's CLIP (features of 4096 numbers, pooled 2048)",
}


@pytest.fixture(scope="module", params=native_hosts())
def found(request: pytest.FixtureRequest) -> dict[str, Any]:
    return run_in_host(request.param, SCRIPT, timeout=3600)


def test_what_belongs_together_runs(found: dict[str, Any]) -> None:
    assert found["refused"]["nothing"] == ""


@pytest.mark.parametrize("kind", CLIPS)
@pytest.mark.parametrize(
    ("node", "what"), [("Edit", "the prompt"), ("Sampler", "positive"), ("KSampler", "the text")]
)
def test_the_hosts_clip_of_another_kind(
    found: dict[str, Any], kind: str, node: str, what: str
) -> None:
    said = found["refused"][f"{kind} CLIP, {node}"]
    assert said.startswith(f"ShapeError: {what} was made by {CLIPS[kind]}, this MODEL takes")
    assert "DualCLIPLoader and type flux" in said


@pytest.mark.parametrize("node", ["Edit", "Reference", "Finish"])
def test_the_hosts_vae_of_another_kind(found: dict[str, Any], node: str) -> None:
    said = found["refused"][f"SD1 VAE, {node}"]
    assert said.startswith("InputError: this VAE makes latents of 4 channels and 2 dimensions")
    assert "ae.safetensors" in said


def test_the_hosts_model_of_another_kind(found: dict[str, Any]) -> None:
    refused = found["refused"]
    assert "this MODEL is a BaseModel" in refused["other MODEL, Edit"]
    assert "runs FLUX.1 models only" in refused["other MODEL, Edit"]
    assert "this MODEL is a BaseModel" in refused["other MODEL, LoRA"]


def test_ours_that_do_not_belong_together(found: dict[str, Any]) -> None:
    refused = found["refused"]
    said = refused["FLUX.1 CLIP, embedded MODEL"]
    assert "made by FLUX.1's T5-XXL and CLIP-L" in said and "the embedded text encoder" in said
    said = refused["embedded CLIP, FLUX.1 MODEL"]
    assert "made by the embedded text encoder" in said and "FLUX.1's T5-XXL and CLIP-L" in said
    assert "vae is not connected" in refused["no VAE, FLUX.1 MODEL"]


def test_copies_for_several_devices(found: dict[str, Any]) -> None:
    """Loaded once more from the same file with the same options; older hosts never ask."""
    copies = found["copies"]
    if "model" not in copies:
        assert copies == {"known": [False, False, False]}
        return
    assert copies["known"] == [True, True, False]
    assert copies["model"] == [0, True, True, True]
    # With the LoRA and its strength, and the first MODEL without, as it was.
    assert copies["lora"] == [True, 0, 0, 0]
    assert copies["vae"] == [0, True, True]
    # What the host's node for the device of a CLIP then logs, passing it through.
    assert "cached_patcher_init is not initialized" in copies["clip"]
    for state in ("changed", "gone"):
        assert copies[state].startswith("InputError: copied.safetensors has changed or gone")
