"""Kontext: Accelerate, LoRAs for few steps, and lists of noise levels, on the embedded host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from small_models import draw

STEPS = 8


@pytest.fixture
def inputs(model: Any) -> dict[str, Any]:
    """Of Kontext: Sampler, with one reference of the target's size."""
    words = [[draw(1, 1, 5, 40), {"pooled_output": draw(2, 1, 24)}]]
    words[0][1]["reference_latents"] = [draw(3, 1, 16, 8, 8)]
    latent = {"samples": torch.zeros(1, 16, 8, 8)}
    return {"model": model, "positive": words, "latent_image": latent, "steps": STEPS, "seed": 3}


def sampled(pack: Any, inputs: dict[str, Any], **changes: Any) -> tuple[torch.Tensor, list[str]]:
    made = pack.run("KontextSampler", **{**inputs, **changes})
    return made[0]["samples"], made.ui["kontext_notes"]


def test_presets_say_what_they_left_out(pack: Any, inputs: dict[str, Any]) -> None:
    plain, notes = sampled(pack, inputs)
    assert not notes
    model = inputs["model"]
    for preset in ("safe", "balanced", "fast"):
        fast = pack.run("KontextAccelerate", model=model, preset=preset)
        latent, [said] = sampled(pack, inputs, model=fast[0])
        assert said.startswith(f"{preset}: {STEPS} model calls") and "100% of the work" not in said
        # Measured: 0.03 and more.
        assert (latent - plain).abs().max() > 1e-3
        off = pack.run("KontextAccelerate", model=fast[0], preset="off")
        for source in (off[0], model):
            latent, notes = sampled(pack, inputs, model=source)
            assert torch.equal(latent, plain) and not notes


def test_knobs(pack: Any, inputs: dict[str, Any]) -> None:
    accelerate = pack.module("kontext_core.accelerate")
    carried = pack.module("nodes.native.carried")

    def settings(**knobs: Any) -> Any:
        model = pack.run("KontextAccelerate", model=inputs["model"], preset="custom", **knobs)[0]
        found = carried.carried(model, carried.ACCELERATION)
        return None if found is None else found.settings

    assert settings() == accelerate.Acceleration(accelerate.Reuse(0.15, 4, 1))
    assert settings(references_every=1) is None
    everything = settings(
        warm_up=0.1, full_at_end=2, skip_threshold=0.1, skip_order=2, skip_basis="hermite",
        region_every=5, region_grow=3, keep_references=0.5, references_order=0, keep_8_bit=True,
    )  # fmt: skip
    assert everything == accelerate.Acceleration(
        accelerate.Reuse(0.1, 4, 2, 0),
        accelerate.StepReuse(0.1, 0.1, 2, 2, 2, "hermite"),
        accelerate.Region(0.1, 5, 2, 0.93, 3),
        accelerate.Pruning(0.5, 0.1, last=2),
        bits=8,
    )
    # A preset does not look at them.
    model = pack.run("KontextAccelerate", model=inputs["model"], preset="safe", keep_references=0.1)
    assert carried.carried(model[0], carried.ACCELERATION).settings == accelerate.PRESETS["safe"]
    # Of the two about memory it looks at one.
    model = pack.run("KontextAccelerate", model=inputs["model"], preset="safe", keep_8_bit=True)
    settings = carried.carried(model[0], carried.ACCELERATION).settings
    assert settings == accelerate.as_acceleration("safe+8bit")


def test_what_is_refused(pack: Any, inputs: dict[str, Any]) -> None:
    run = pack.nodes["KontextAccelerate"].execute
    with pytest.raises(pack.error("InputError"), match="unknown preset 'fastest'"):
        run(inputs["model"], "fastest")
    with pytest.raises(pack.error("InputError"), match="warm_up|first is 2"):
        run(inputs["model"], "custom", warm_up=2.0)
    with pytest.raises(pack.error("KontextError"), match="Kontext: Load Model"):
        run(object(), "fast")


def test_edit_candidates_and_sessions_take_it_too(pack: Any, inputs: dict[str, Any]) -> None:
    fast = pack.run("KontextAccelerate", model=inputs["model"], preset="balanced")[0]
    given = {key: value for key, value in inputs.items() if key != "model"}
    looks = pack.run("KontextCandidates", model=fast, count=2, look=4, **given)
    said = [
        note for note in looks.ui["kontext_notes"] if note.startswith("balanced: 4 model calls")
    ]
    assert len(said) == 1
    picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    edits = [
        pack.run("KontextEdit", image1=picture, prompt="make it blue", steps=4, accelerate=preset)
        for preset in ("off", "fast")
    ]
    assert not any("model calls" in note for note in edits[0].ui["kontext_notes"])
    assert any(note.startswith("fast: 4 model calls") for note in edits[1].ui["kontext_notes"])


def test_noise_levels(pack: Any, inputs: dict[str, Any]) -> None:
    make = pack.module("kontext_core.schedule").make_timesteps
    plain, _ = sampled(pack, inputs, steps=4)
    latent, notes = sampled(pack, inputs, sigmas=make(4, 16), steps=28, schedule="simple")
    assert torch.equal(latent, plain) and not notes
    with pytest.raises(pack.error("InputError"), match="sigmas end at 0.5; expected 0"):
        sampled(pack, inputs, sigmas=torch.tensor([1.0, 0.5]))
    with pytest.raises(pack.error("InputError"), match="falling numbers"):
        sampled(pack, inputs, sigmas=torch.tensor([1.0, 2.0, 0.0]))


@pytest.fixture
def turbo(host: Any, tmp_path: Path, model: Any) -> str:
    """A LoRA with the name of one for eight steps, in the folder of LoRAs."""
    host.models = tmp_path
    (tmp_path / "loras").mkdir()
    tensors = {}
    for number, name in enumerate(("double_blocks.0.img_attn.qkv", "single_blocks.0.linear2")):
        rows, columns = model.load().get_submodule(name).weight.shape
        key = f"diffusion_model.{name}"
        tensors[f"{key}.lora_A.weight"] = draw(2 * number, 4, columns)
        tensors[f"{key}.lora_B.weight"] = draw(2 * number + 1, rows, 4) / 9
    save_file(tensors, tmp_path / "loras/Hyper-FLUX.1-dev-8steps-lora.safetensors")
    return "Hyper-FLUX.1-dev-8steps-lora.safetensors"


def test_a_lora_for_few_steps_is_known(pack: Any, inputs: dict[str, Any], turbo: str) -> None:
    loaded = pack.run("KontextLoadLora", model=inputs["model"], lora_file=turbo, strength=1.0)
    assert any("8 steps at strength 0.125" in note for note in loaded.ui["kontext_notes"])
    model = loaded[0]
    _, notes = sampled(pack, inputs, model=model, steps=8)
    assert not notes
    _, [said] = sampled(pack, inputs, model=model, steps=28)
    assert said.endswith("and runs 28: set steps to 8")
    fast = pack.run("KontextAccelerate", model=model, preset="safe")[0]
    _, notes = sampled(pack, inputs, model=fast, steps=8)
    assert any("Take one of them" in note for note in notes)
    # Left out, or not applied, nothing is said.
    _, notes = sampled(pack, inputs, steps=28)
    assert not notes
