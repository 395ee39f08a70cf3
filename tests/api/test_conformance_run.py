"""The shipped workflows run on every host, and tell the same story over the websocket."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_client import Client, Run, load_prompt, node_of
from hosts import ROOT, Server
from templates import RUNNABLE, editor_format, needs_comfyui

API_WORKFLOWS = [ROOT / "workflows/api" / f"{name}.json" for name in RUNNABLE]
TWO_REFERENCES = ROOT / "workflows/api/two_references.json"


def quick(prompt: dict[str, Any], *, steps: int = 2, seed: int = 1) -> dict[str, Any]:
    """A copy that takes few steps, with a seed of its own so that no cache answers."""
    changed = copy.deepcopy(prompt)
    for node in changed.values():
        if "steps" in node["inputs"]:
            node["inputs"] |= {"steps": steps, "seed": seed}
    return changed


# How many pictures a shipped workflow saves, where it is not one.
RESULTS = {"batch": 3, "new_scenes": 3, "choose_among_candidates": 4}


@pytest.fixture
def two_references() -> dict[str, Any]:
    return load_prompt(TWO_REFERENCES)


def test_there_are_workflows() -> None:
    assert {path.stem for path in API_WORKFLOWS} >= {
        "text_to_image",
        "one_reference_edit",
        "two_references",
    }


@pytest.fixture(scope="session")
def pictures() -> dict[str, np.ndarray]:
    """What the first host made of each shipped workflow."""
    return {}


@pytest.mark.slow
@pytest.mark.parametrize("path", API_WORKFLOWS, ids=lambda path: path.stem)
def test_shipped_workflow_gives_a_picture_that_carries_it(
    client: Client, server: Server, path: Path, pictures: dict[str, np.ndarray]
) -> None:
    if needs_comfyui(path.stem) and not server.host.is_comfyui:
        pytest.skip("the embedded host lacks some of its nodes")
    prompt = load_prompt(path)
    workflow = editor_format(path.stem)
    run = client.run(prompt, workflow=workflow)
    assert run.ok, run.error
    entries = [entry for entry in run.files() if entry["type"] == "output"]
    assert len(entries) == RESULTS.get(path.stem, 1)
    for number, entry in enumerate(entries):
        image = client.view(entry)
        assert image.format == "PNG"
        carried = json.loads(image.info["prompt"])
        for node in carried.values():
            # ComfyUI notes here what its cache compared; it isn't part of what was sent.
            node.pop("is_changed", None)
        assert carried == prompt
        assert json.loads(image.info["workflow"]) == workflow
        pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
        # A blank or grey result has a standard deviation near 0; the shipped ones measure 26 to 53.
        assert pixels.std() > 10
        # 0 of 255 measured between standalone, 0.33.0 and 0.3.64 on torch 2.13.0; a checkout's
        # torch may be another build.
        known = pictures.setdefault(f"{path.stem} {number}", pixels)
        assert np.abs(pixels - known).max() <= 2


def test_a_scorer_chosen_in_the_template_needs_no_other_wire(client: Client) -> None:
    prompt = quick(
        load_prompt(ROOT / "workflows/api/choose_among_candidates.json"), steps=4, seed=103
    )
    prompt[node_of(prompt, "KontextCandidates")]["inputs"] |= {
        "scorer": "like image 1", "keep": 2, "look": 2,
    }  # fmt: skip
    run = client.run(prompt)
    assert run.ok, run.error
    assert len([entry for entry in run.files() if entry["type"] == "output"]) == 2


def test_messages_come_in_the_order_that_clients_expect(
    client: Client, two_references: dict[str, Any]
) -> None:
    prompt = quick(two_references, seed=101)
    run = client.run(prompt)
    assert run.ok, run.error
    types = run.types()
    order = ["execution_start", "execution_cached", "executing", "executed", "execution_success"]
    places = [types.index(kind) for kind in order]
    assert places == sorted(places)
    assert run.messages[-1]["data"]["node"] is None
    visited = [data["node"] for data in run.data("executing") if data["node"] is not None]
    assert len(visited) == len(set(visited))
    cached = run.data("execution_cached")[0]["nodes"]
    assert set(visited) | set(cached) == set(prompt)
    save = node_of(prompt, "SaveImage")
    # Our nodes show layout and notes too, when they run and, from 0.18.1 on, when they are cached.
    shown = [data["node"] for data in run.data("executed")]
    assert shown.count(save) == 1
    ours = {key for key, node in prompt.items() if node["class_type"].startswith("Kontext")}
    assert set(shown) <= {save} | ours


def test_progress_counts_every_step(client: Client, two_references: dict[str, Any]) -> None:
    run = client.run(quick(two_references, steps=4, seed=102))
    assert run.ok, run.error
    sampler = node_of(two_references, "KontextSampler")
    told = [d for d in run.data("progress") if str(d["node"]) == sampler]
    assert [(d["value"], d["max"]) for d in told][-4:] == [(n, 4) for n in (1, 2, 3, 4)]
    states = [d["nodes"][sampler] for d in run.data("progress_state") if sampler in d["nodes"]]
    assert states[-1]["state"] == "finished"
    assert max(state["value"] for state in states) == states[-1]["max"] == 4


def test_previews_are_pictures_of_the_sampler(
    client: Client, two_references: dict[str, Any]
) -> None:
    run = client.run(quick(two_references, steps=4, seed=103))
    assert run.ok, run.error
    sampler = node_of(two_references, "KontextSampler")
    assert len(run.previews) >= 3
    for preview in run.previews:
        assert preview.node in (sampler, None)
        # Of what is painted, not enlarged: nodes write the size below the picture.
        assert preview.image.size == (64, 64)
    last = np.asarray(run.previews[-1].image.convert("RGB"), dtype=np.float32)
    # One flat colour would mean that no latent was read; previews measure 32 to 33.
    assert last.std() > 5


def test_the_same_prompt_again_is_answered_from_the_cache(
    client: Client, two_references: dict[str, Any]
) -> None:
    prompt = quick(two_references, seed=104)
    first, second = client.run(prompt), client.run(prompt)
    assert first.ok, first.error
    assert second.ok, second.error
    assert node_of(prompt, "KontextSampler") in second.data("execution_cached")[0]["nodes"]
    assert not [d for d in second.data("progress") if d["value"] > 0]


def test_history_keeps_the_outcome(client: Client, two_references: dict[str, Any]) -> None:
    prompt = quick(two_references, seed=105)
    run = client.run(prompt)
    assert run.ok, run.error
    entry = client.get(f"/history/{run.prompt_id}")[run.prompt_id]
    assert entry["status"]["status_str"] == "success"
    assert entry["status"]["completed"] is True
    assert entry["outputs"][node_of(prompt, "SaveImage")]["images"] == run.files()


def test_only_the_asked_for_part_runs(client: Client, two_references: dict[str, Any]) -> None:
    prompt = quick(two_references, seed=106)
    loader = node_of(prompt, "LoadImage")
    prompt["900"] = {
        "class_type": "PreviewImage",
        "inputs": {"images": [loader, 0]},
        "_meta": {"title": "Preview"},
    }
    payload = {"prompt": prompt, "partial_execution_targets": ["900"]}
    status, answer = client.post("/prompt", payload)
    assert status == 200, answer
    outputs = client.wait_for_history(answer["prompt_id"])["outputs"]
    assert node_of(prompt, "SaveImage") not in outputs
    assert outputs["900"]["images"][0]["type"] == "temp"


def _interrupt_at_first_step(client: Client, prompt: dict[str, Any]) -> Run:
    asked = []

    def on_message(message: dict[str, Any]) -> None:
        if message["type"] == "progress" and message["data"]["value"] >= 1 and not asked:
            asked.append(message)
            client.post("/interrupt", {})

    return client.run(prompt, on_message=on_message)


@pytest.mark.slow
def test_interrupt_stops_and_the_next_prompt_works(
    client: Client, server: Server, two_references: dict[str, Any]
) -> None:
    before = sorted(server.output.rglob("*"))
    run = _interrupt_at_first_step(client, quick(two_references, steps=200, seed=107))
    assert "execution_interrupted" in run.types()
    assert not run.ok
    # Every step is reported: far fewer than 200 of them means that the run did not go on.
    assert max(data["value"] for data in run.data("progress")) < 100
    assert sorted(server.output.rglob("*")) == before
    assert client.get("/queue") == {"queue_running": [], "queue_pending": []}
    after = client.run(quick(two_references, steps=2, seed=108))
    assert after.ok, after.error


def test_eight_bit_products_give_nearly_the_same_picture(
    client: Client, two_references: dict[str, Any]
) -> None:
    prompt = quick(two_references, steps=4, seed=105)
    loader = node_of(prompt, "KontextLoadModel")
    pictures = []
    for choice in ("auto", "int8"):
        prompt[loader]["inputs"]["precision"] = choice
        run = client.run(prompt)
        assert run.ok, run.error
        shown = [d["output"] for d in run.data("executed") if d["node"] == loader]
        notes = str([output.get("kontext_notes") for output in shown])
        assert ("8-bit products in 24 layers" in notes) == (choice == "int8")
        [entry] = [entry for entry in run.files() if entry["type"] == "output"]
        pictures.append(np.asarray(client.view(entry).convert("RGB"), dtype=np.float32))
    off = np.square(pictures[0] - pictures[1]).mean()
    # Measured 50.4 dB: near, and not the same, or nothing would have been multiplied otherwise.
    assert 0 < off < 255**2 / 10**4
