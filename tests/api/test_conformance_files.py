"""The user's own files on every host: listed, loaded, with LoRAs, quantized, and missed by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from host_client import Client, Run
from hosts import Server
from model_folders import EXACT, LORA, ROUNDED, write_models


@pytest.fixture(scope="module")
def models(server: Server) -> Iterator[Path]:
    """Files of every form, which go again: other modules share the server and count on no files."""
    folder = server.base / "models"
    before = set(folder.rglob("*"))
    yield write_models(folder)
    for path in sorted(set(folder.rglob("*")) - before, reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.fixture(scope="module", autouse=True)
def _there(models: Path) -> None:
    """Every test here needs the files."""


def choices(client: Client, node: str, name: str) -> list[str]:
    info = client.get(f"/object_info/{node}")[node]["input"]
    kind, options = {**info.get("required", {}), **info.get("optional", {})}[name]
    return options["options"] if kind == "COMBO" else kind


def graph(model_name: str = EXACT[0], seed: int = 1, **more: Any) -> dict[str, Any]:
    """Words to picture through all three loaders; `more` are nodes to add or replace."""

    def node(class_type: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": class_type, "inputs": inputs}

    nodes = {
        "1": node("KontextLoadModel", model_name=model_name, precision="auto"),
        "2": node(
            "KontextLoadTextEncoders", t5_name="t5.safetensors", clip_l_name="clip_l.safetensors"
        ),
        "3": node("KontextLoadVAE", model_name="ae.safetensors", precision="auto"),
        "4": node("CLIPTextEncode", clip=["2", 0], text="make the (star:1.3) red"),
        "5": node("EmptySD3LatentImage", width=64, height=64, batch_size=1),
        "6": node(
            "KontextSampler", model=["1", 0], positive=["4", 0], latent_image=["5", 0], seed=seed,
            steps=1, guidance=2.5, cfg=1.0, solver="euler", schedule="kontext", denoise=1.0,
        ),
        "7": node("VAEDecode", samples=["6", 0], vae=["3", 0]),
        "8": node("SaveImage", images=["7", 0], filename_prefix="files"),
    }  # fmt: skip
    return {**nodes, **more}


def pixels(client: Client, run: Run) -> bytes:
    assert run.ok, run.error
    [entry] = run.files()
    return client.view(entry).tobytes()


def test_files_written_after_the_start_are_listed(client: Client) -> None:
    listed = choices(client, "KontextLoadModel", "model_name")
    assert {*EXACT, *ROUNDED} < set(listed)
    own = [LORA, "embedded: tiny-turbo-2-steps"]
    assert choices(client, "KontextLoadLora", "lora_file") == own
    shared = "diffusers: kontext"
    assert shared in choices(client, "KontextLoadVAE", "model_name")
    assert shared in choices(client, "KontextLoadTextEncoders", "t5_name")


@pytest.mark.slow
def test_every_form_runs_and_the_same_weights_give_the_same_picture(client: Client) -> None:
    expected = pixels(client, client.run(graph()))
    for name in EXACT[1:]:
        assert pixels(client, client.run(graph(name))) == expected, name
    for name in ROUNDED:
        assert pixels(client, client.run(graph(name))) != expected, name


def lora_node(source: str, strength: float = 1.0, mode: str = "branch") -> dict[str, Any]:
    inputs = {"model": [source, 0], "lora_file": LORA, "strength": strength, "mode": mode}
    return {"class_type": "KontextLoadLora", "inputs": inputs}


@pytest.mark.slow
def test_lora_changes_its_own_branch_of_the_graph_only(client: Client) -> None:
    plain = graph(seed=2)
    expected = pixels(client, client.run(plain))
    sampler = {**plain["6"], "inputs": {**plain["6"]["inputs"], "model": ["10", 0]}}
    both = {
        **plain,
        "10": lora_node("1"),
        "16": sampler,
        "17": {"class_type": "VAEDecode", "inputs": {"samples": ["16", 0], "vae": ["3", 0]}},
        "18": {
            "class_type": "SaveImage",
            "inputs": {"images": ["17", 0], "filename_prefix": "lora"},
        },
    }
    # Another seed, so that no cache answers, and back: the network is the same throughout.
    for node in ("6", "16"):
        both[node] = {**both[node], "inputs": {**both[node]["inputs"], "seed": 3}}
    run = client.run(both)
    assert run.ok, run.error
    first, second = sorted(run.files(), key=lambda entry: entry["filename"])
    assert client.view(first).tobytes() != client.view(second).tobytes()
    [notes] = [d["output"]["kontext_notes"] for d in run.data("executed") if d["node"] == "10"]
    assert "double_blocks.17" in "\n".join(notes)
    assert pixels(client, client.run(graph(seed=2))) == expected


def test_quantize_writes_a_file_that_the_next_loader_reads(client: Client, models: Path) -> None:
    inputs = {"model_name": EXACT[0], "type": "Q8_0", "file_name": "", "overwrite": True}
    quantize = {"class_type": "KontextQuantize", "inputs": inputs}
    made = models / "diffusion_models/kontext-Q8_0.gguf"
    before = made.stat().st_mtime_ns
    load = {"model_name": ["10", 0], "precision": "auto"}
    prompt = graph(seed=4)
    prompt["1"] = {"class_type": "KontextLoadModel", "inputs": load}
    run = client.run({**prompt, "10": quantize})
    pixels(client, run)
    assert made.stat().st_mtime_ns > before
    assert sorted(path.name for path in made.parent.iterdir()) == sorted(
        [*(name for name in (*EXACT, *ROUNDED) if ":" not in name)]
    )
    bar = [d["value"] for d in run.data("progress") if str(d["node"]) == "10"]
    assert bar[-1] == 100


def test_a_missing_file_names_the_folder_before_the_run(client: Client, models: Path) -> None:
    status, answer = client.post("/prompt", {"prompt": graph("no-such-model.gguf")})
    assert status == 400
    said = str(answer["node_errors"]["1"])
    assert "no-such-model.gguf" in said
    assert "diffusion_models" in said


def test_a_replaced_file_is_loaded_again(client: Client, models: Path) -> None:
    path = models / "diffusion_models/replaced.safetensors"
    path.write_bytes((models / f"diffusion_models/{EXACT[0]}").read_bytes())
    try:
        prompt = graph(path.name, seed=5)
        before = pixels(client, client.run(prompt))
        fp8 = models / f"diffusion_models/{ROUNDED[1]}"
        other = path.with_name("new")
        other.write_bytes(fp8.read_bytes())
        other.replace(path)
        assert pixels(client, client.run(prompt)) != before
    finally:
        path.unlink()


def test_native_encode_node_for_two_texts(client: Client, server: Server) -> None:
    if not server.host.is_comfyui:
        pytest.skip("CLIPTextEncodeFlux and T5TokenizerOptions are ComfyUI's own")
    prompt = graph(seed=6)
    prompt["9"] = {
        "class_type": "T5TokenizerOptions",
        "inputs": {"clip": ["2", 0], "min_padding": 0, "min_length": 64},
    }
    prompt["4"] = {
        "class_type": "CLIPTextEncodeFlux",
        "inputs": {"clip": ["9", 0], "clip_l": "a star", "t5xxl": "a red star", "guidance": 2.5},
    }
    run = client.run(prompt)
    pixels(client, run)
