"""Kontext: Train LoRA: a folder in, a file and a MODEL with it out; told live, stopped, gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import draw

QUICK = {
    "dataset": "lessons", "name": "sub/mine", "steps": 4, "rank": 2, "learning_rate": 1e-2,
    "sample_every": 2, "samples": 1, "save_every": 0,
}  # fmt: skip


@pytest.fixture
def place(pack: Any, host: Any, tmp_path: Path) -> Path:
    """A host with folders, and two examples in its input folder."""
    host.models, host.inputs, host.outputs = (tmp_path / n for n in ("models", "input", "output"))
    (host.models / "loras").mkdir(parents=True)
    save = pack.module("kontext_core.writing").save_image
    folder = host.inputs / "lessons"
    for seed, name in enumerate("ab"):
        for kind in ("target", "ref1"):
            picture = draw(seed, 64, 64, 3).mul(0.2).add(0.5).clamp(0, 1)
            save(picture, folder / f"{name}_{kind}.png")
        (folder / f"{name}.txt").write_text("put the red star on image one", encoding="utf-8")
    return tmp_path


@pytest.fixture
def sockets(pack: Any, model: Any, clip: Any) -> dict[str, Any]:
    return {"model": model, "clip": clip, "vae": pack.run("KontextLoadVAE")[0]}


def run(pack: Any, sockets: dict[str, Any], **inputs: Any) -> Any:
    # As ComfyUI's executor calls nodes.
    with torch.inference_mode():
        return pack.run("KontextTrainLora", **{**sockets, **QUICK, **inputs})


def losses(place: Path) -> list[Any]:
    log = place / "output" / "kontext_training" / "sub" / "mine" / "log.jsonl"
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def test_it_writes_a_lora_and_gives_the_model_with_it(
    pack: Any, host: Any, place: Path, sockets: dict[str, Any]
) -> None:
    made = run(pack, sockets)
    assert made[1] == "sub/mine.safetensors" and made[1] in pack.module("nodes.files").choices(
        "lora"
    )
    assert (place / "models" / "loras" / "sub" / "mine.safetensors").is_file()
    assert [lora.path.name for lora, _ in made[0].loras] == ["mine.safetensors"]
    assert not sockets["model"].loras
    (report,) = made.ui["kontext_training"]
    assert (report["state"], report["step"], report["steps"]) == ("done", 4, 4)
    assert [point[0] for point in report["curve"]] == [1, 2, 3, 4]
    assert [row["step"] for row in report["rows"]] == [2, 4]
    assert report["rows"][0]["pictures"][0].startswith("data:image/jpeg;base64,")
    assert "4 steps on 2 examples" in made.ui["kontext_notes"][0]
    # Live, and at its end.
    states = [data["state"] for event, data in host.told if event == "kontext.training"]
    assert states[0] == "running" and states[-1] == "done" and len(states) >= 4
    assert host.steps[-1] == (4, 4)


def test_stopped_it_keeps_what_it_has_and_goes_on(
    pack: Any, host: Any, place: Path, sockets: dict[str, Any], interrupted: type[Exception]
) -> None:
    run(pack, sockets, name="whole")
    whole = [
        json.loads(line)["loss"]
        for line in (place / "output/kontext_training/whole/log.jsonl").read_text().splitlines()
    ]
    host.steps.clear()
    # Two of encoding the examples, and two of training.
    host.interrupt_after = 4
    with pytest.raises(interrupted):
        run(pack, sockets)
    assert len(losses(place)) == 2 and host.told[-1][1]["state"] == "stopped"
    assert (place / "models" / "loras" / "sub" / "mine.safetensors").is_file()
    host.interrupt_after = None
    made = run(pack, sockets)
    assert [row["loss"] for row in losses(place)] == whole
    assert "2 of them before" in made.ui["kontext_notes"][0]
    # Once more: nothing is left to do, and it is not done again.
    assert (
        run(pack, sockets).ui["kontext_training"][0]["curve"]
        == (made.ui["kontext_training"][0]["curve"])
    )
    made = run(pack, sockets, resume="start anew", steps=1)
    assert len(losses(place)) == 1 and made.ui["kontext_training"][0]["step"] == 1


def test_other_settings_are_told_and_nothing_is_lost(
    pack: Any, place: Path, sockets: dict[str, Any]
) -> None:
    run(pack, sockets)
    with pytest.raises(pack.error("InputError"), match="rank was 2, is 3.*start anew"):
        run(pack, sockets, rank=3)
    assert len(losses(place)) == 4


def test_what_is_missing_is_said_before_the_run(pack: Any, place: Path) -> None:
    check = pack.nodes["KontextTrainLora"].validate_inputs
    assert check(dataset="lessons", name="x") is True and check() is True
    assert "nowhere" in check(dataset="nowhere", name="x")
    assert "dataset is empty" in check(dataset=" ", name="x")
    for name in ("../x", "", "/x", "a:b"):
        assert "expected a plain one" in check(dataset="lessons", name=name)


def test_a_damaged_example_is_named(pack: Any, place: Path, sockets: dict[str, Any]) -> None:
    (place / "input" / "lessons" / "a_target.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(pack.error("InputError"), match=r"(?s)nothing was started.*a_target\.png"):
        run(pack, sockets)
    assert not (place / "output").exists()


def test_another_example_has_it_run_again(pack: Any, place: Path) -> None:
    stamp = pack.nodes["KontextTrainLora"].fingerprint_inputs
    before = stamp(dataset="lessons", name="x")
    assert stamp(dataset="lessons", name="x") == before
    (place / "input" / "lessons" / "a.txt").write_text("other words", encoding="utf-8")
    (place / "input" / "lessons" / "c.txt").write_text("more", encoding="utf-8")
    assert stamp(dataset="lessons", name="x") != before


def test_loras_on_the_model_stay_beneath(pack: Any, place: Path, sockets: dict[str, Any]) -> None:
    first = run(pack, sockets)[0]
    second = run(pack, {**sockets, "model": first}, name="second")
    assert [lora.path.name for lora, _ in second[0].loras] == [
        "mine.safetensors",
        "second.safetensors",
    ]


def test_a_long_curve_is_thinned(pack: Any) -> None:
    made = pack.module("nodes.training").curve(
        [(step, float(step)) for step in range(1, 1001)], most=10
    )
    assert len(made) == 10 and made[0] == [100, 50.5] and made[-1] == [1000, 950.5]
