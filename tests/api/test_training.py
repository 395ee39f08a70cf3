"""Kontext: Train LoRA on every host: told live, stopped by the host's cancel, gone on with; its file in
ComfyUI's own LoRA loader."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_client import Client, Run
from hosts import Server

EMBEDDED = "embedded: tiny"


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def training(name: str, steps: int = 6, rate: float = 0.01, **inputs: Any) -> dict[str, Any]:
    return {
        "1": node("KontextLoadModel", model_name=EMBEDDED, precision="auto"),
        "2": node("KontextLoadTextEncoders", t5_name=EMBEDDED, clip_l_name=EMBEDDED),
        "3": node("KontextLoadVAE", model_name=EMBEDDED, precision="auto"),
        "4": node(
            "KontextTrainLora", model=["1", 0], clip=["2", 0], vae=["3", 0],
            dataset="kontext_crescent", name=name, steps=steps, batch=2, rank=4,
            learning_rate=rate, training_seed=3, sample_every=3, resume="go on", samples=1, save_every=2,
            **inputs,
        ),
    }  # fmt: skip


def edit(graph: dict[str, Any], model: str, clip: tuple[str, int] = ("2", 0)) -> dict[str, Any]:
    """A picture by a MODEL and a CLIP of the graph."""
    return graph | {
        "20": node("CLIPTextEncode", clip=[*clip], text="make the background blue"),
        "21": node("EmptySD3LatentImage", width=64, height=64, batch_size=1),
        "22": node(
            "KontextSampler", model=[model, 0], positive=["20", 0], latent_image=["21", 0],
            seed=5, steps=2, guidance=2.5, cfg=1.0, solver="euler", schedule="kontext",
            denoise=1.0,
        ),
        "23": node("VAEDecode", samples=["22", 0], vae=["3", 0]),
        "24": node("SaveImage", images=["23", 0], filename_prefix="training"),
    }  # fmt: skip


def pixels(client: Client, run: Run) -> np.ndarray:
    assert run.ok, run.error
    return np.asarray(client.view(run.files()[-1])).astype(int)


def log(server: Server, name: str) -> list[dict[str, Any]]:
    path = server.output / "kontext_training" / name / "log.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def told(run: Run) -> list[dict[str, Any]]:
    return run.data("kontext.training")


@pytest.mark.slow
def test_it_trains_tells_live_and_goes_on_after_a_cancel(client: Client, server: Server) -> None:
    name, whole = f"api/{uuid.uuid4().hex}", f"api/{uuid.uuid4().hex}"
    run = client.run(training(whole))
    assert run.ok, run.error
    assert told(run)[0]["state"] == "running" and told(run)[-1]["state"] == "done"
    assert all(str(each["node"]) == "4" for each in told(run))
    [report] = [d["output"]["kontext_training"] for d in run.data("executed") if d["node"] == "4"]
    assert [row["step"] for row in report[0]["rows"]] == [3, 6]

    def cancel(message: dict[str, Any]) -> None:
        data = message["data"]
        if message["type"] == "kontext.training" and data["step"] >= 2 and not cancelled:
            cancelled.append(data["step"])
            client.post("/interrupt", {})

    cancelled: list[int] = []
    # Long enough for the cancel to come in time, whatever it is busy with.
    stopped = client.run(training(name, steps=400), on_message=cancel)
    assert "execution_interrupted" in stopped.types()
    done = len(log(server, name))
    assert cancelled and 2 <= done < 400
    steps = max(6, done + 1)
    run = client.run(training(name, steps=steps))
    assert run.ok, run.error
    rows = log(server, name)
    assert [row["step"] for row in rows] == list(range(1, steps + 1))
    # The curve is that of the run that nobody stopped.
    assert rows[:6] == log(server, whole)
    # Again: from the cache, or with nothing left to do.
    assert client.run(training(name, steps=steps)).ok and log(server, name) == rows


@pytest.mark.slow
@pytest.mark.parametrize("naming", ["kohya", "diffusers"])
def test_its_file_acts_alike_in_every_loader(client: Client, server: Server, naming: str) -> None:
    name = f"api_{uuid.uuid4().hex}"
    made = pixels(client, client.run(edit(training(name, rate=0.1, naming=naming), "4")))
    file = f"{name}.safetensors"
    loaders = {key: value for key, value in training(name).items() if key != "4"}
    ours = node("KontextLoadLora", model=["1", 0], lora_file=file, strength=1.0, mode="branch")
    loaded = pixels(client, client.run(edit({**loaders, "5": ours}, "5")))
    plain = pixels(client, client.run(edit(loaders, "1")))
    # Visible, and the same through the file.
    assert np.abs(made - plain).max() > 8
    assert np.abs(made - loaded).max() <= 1
    if server.host.is_comfyui:
        strengths = {"strength_model": 1.0, "strength_clip": 1.0}
        both = node("LoraLoader", model=["1", 0], clip=["2", 0], lora_name=file, **strengths)
        alone = node("LoraLoaderModelOnly", model=["1", 0], lora_name=file, strength_model=1.0)
        for theirs, clip in ((both, ("5", 1)), (alone, ("2", 0))):
            merged = pixels(client, client.run(edit({**loaders, "5": theirs}, "5", clip)))
            # Merged into the weights by ComfyUI, in float32: sums in another order.
            assert np.abs(made - merged).max() <= 2
        said = server.log_text()
        assert "lora key not loaded" not in said and "NOT LOADED" not in said


def test_a_damaged_folder_is_told_before_anything_runs(client: Client, server: Server) -> None:
    folder: Path = server.base / "input" / f"broken-{uuid.uuid4().hex}"
    folder.mkdir(parents=True)
    (folder / "a_target.png").write_bytes(b"no picture")
    (folder / "a.txt").write_text("words", encoding="utf-8")
    graph = training("api/broken")
    graph["4"]["inputs"]["dataset"] = folder.name
    run = client.run(graph)
    assert not run.ok and "a_target.png" in run.error and "nothing was started" in run.error
