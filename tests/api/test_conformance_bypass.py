"""Muted and bypassed nodes of ours leave a graph that runs, or is refused in plain words.

The editor resolves both before it sends a prompt; `standalone.convert` does the same, and
tests/web/test_people.py compares the two in a browser.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest
from embedded_host import Bench
from embedded_nodes import ROOT
from host_client import Client
from PIL import Image
from templates import editor_format

from standalone.convert import info_of, to_prompt
from standalone.loader import load_pack

MUTE, BYPASS = 2, 4
RUNS = "runs"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    bench = Bench(tmp_path_factory.mktemp("bench"), ROOT / "workflows/input")
    return bench.nodes | load_pack(ROOT).nodes


def changed(nodes: dict[str, Any], template: str, title: str, mode: int) -> dict[str, Any]:
    """The template's prompt in two steps, with one node switched off; found by type or title."""
    graph = copy.deepcopy(editor_format(template))
    [node] = [n for n in graph["nodes"] if title in (n["type"], n.get("title"))]
    node["mode"] = mode
    prompt = to_prompt(graph, info_of(nodes))
    for entry in prompt.values():
        if "steps" in entry["inputs"]:
            entry["inputs"]["steps"] = 2
    return prompt


# Template, node, and what comes of bypassing it: the run ends, or the reason that is given.
BYPASSED = [
    ("two_references", "Reference: image 2", RUNS),
    ("two_references", "Reference: image 1", RUNS),
    ("one_reference_edit", "KontextReference", "neither a latent nor a reference"),
    ("one_reference_edit", "KontextStitch", "required_input_missing"),
    ("one_reference_edit", "KontextSampler", RUNS),
    ("one_reference_edit", "KontextFinish", RUNS),
    ("one_reference_edit", "KontextLoadModel", "required_input_missing"),
    ("one_reference_edit", "KontextLoadTextEncoders", "required_input_missing"),
    ("one_reference_edit", "KontextLoadVAE", "required_input_missing"),
    ("inpaint_with_mask", "KontextFinish", RUNS),
    ("crop_and_stitch", "KontextPaste", RUNS),
    # The place to paste into is gone.
    ("crop_and_stitch", "KontextCrop", "required_input_missing"),
    ("one_node_edit", "KontextEdit", RUNS),
    # At the trained size, and nothing is new.
    ("extend_picture", "KontextCanvas", RUNS),
    ("accelerated_edit", "KontextAccelerate", RUNS),
    # Its prompts are gone, and the prompt of Edit stood for them only.
    ("batch", "KontextBatch", "the prompt is empty"),
    ("batch", "KontextLoadModel", RUNS),
]
MUTED = [
    ("two_references", "Reference: image 1", RUNS),
    ("two_references", "Reference: image 2", "neither a latent nor a reference"),
    ("one_reference_edit", "KontextSampler", "required_input_missing"),
    ("one_reference_edit", "KontextStitch", "required_input_missing"),
    ("one_reference_edit", "KontextFinish", "required_input_missing"),
    ("one_node_edit", "KontextEdit", "required_input_missing"),
    ("extend_picture", "KontextCanvas", "neither a latent nor a reference"),
    ("accelerated_edit", "KontextAccelerate", "required_input_missing"),
    ("batch", "KontextLoadVAE", RUNS),
]
CASES = [(*case, BYPASS) for case in BYPASSED] + [(*case, MUTE) for case in MUTED]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("template", "node", "outcome", "mode"),
    CASES,
    ids=[f"{'mute' if c[3] == MUTE else 'bypass'}-{c[0]}-{c[1].replace(' ', '_')}" for c in CASES],
)
def test_a_node_switched_off_leaves_a_sane_graph(
    client: Client, nodes: dict[str, Any], template: str, node: str, outcome: str, mode: int
) -> None:
    prompt = changed(nodes, template, node, mode)
    if outcome == "required_input_missing":
        status, answer = client.post("/prompt", {"prompt": prompt})
        assert status == 400
        told = [e["type"] for one in answer["node_errors"].values() for e in one["errors"]]
        assert set(told) == {"required_input_missing"}
        return
    if outcome == "the prompt is empty":
        status, answer = client.post("/prompt", {"prompt": prompt})
        assert status == 400
        assert outcome in json.dumps(answer["node_errors"])
        return
    run = client.run(prompt)
    if outcome == RUNS:
        assert run.ok, run.error
        assert [entry for entry in run.files() if entry["type"] == "output"]
    else:
        assert outcome in run.error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("template", "node"),
    [("one_reference_edit", "KontextFinish"), ("one_node_edit", "KontextEdit")],
)
def test_bypassed_the_original_comes_through(
    client: Client, nodes: dict[str, Any], template: str, node: str
) -> None:
    run = client.run(changed(nodes, template, node, BYPASS))
    assert run.ok, run.error
    [entry] = [entry for entry in run.files() if entry["type"] == "output"]
    got = np.asarray(client.view(entry).convert("RGB"))
    original = Image.open(ROOT / "workflows/input/kontext_shapes.png").convert("RGB")
    assert np.array_equal(got, np.asarray(original))


@pytest.mark.slow
def test_a_saved_picture_holds_everything_to_make_it_again(client: Client) -> None:
    """Prompt and workflow come back out of the file; what they give is the same picture."""
    from templates import api_format

    prompt, workflow = api_format("one_node_edit"), editor_format("one_node_edit")
    first = client.run(prompt, workflow=workflow)
    assert first.ok, first.error
    picture = client.view(first.files()[0])
    again = json.loads(picture.info["prompt"])
    assert json.loads(picture.info["workflow"]) == workflow
    for node in again.values():
        node.pop("is_changed", None)
    # A name of its own makes the host write anew instead of answering from its cache.
    next(n for n in again.values() if n["class_type"] == "SaveImage")["inputs"][
        "filename_prefix"
    ] = "kontext/again"
    second = client.run(again, workflow=json.loads(picture.info["workflow"]))
    assert second.ok, second.error
    assert np.array_equal(
        np.asarray(client.view(second.files()[0])), np.asarray(picture.convert(picture.mode))
    )


@pytest.mark.parametrize("mode", [0, BYPASS])
def test_bypassed_names_hand_the_instruction_on(nodes: dict[str, Any], mode: int) -> None:
    """Between the prompts of a batch and Kontext: Edit."""
    graph = copy.deepcopy(editor_format("batch"))
    [batch] = [node for node in graph["nodes"] if node["type"] == "KontextBatch"]
    [link] = [
        one
        for one in graph["links"]
        if one[1] == batch["id"] and one[5] == "STRING" and one[2] == 1
    ]
    edit, slot = link[3], link[4]
    link[3:5] = 900, 0
    graph["links"].append([901, 900, 0, edit, slot, "STRING"])
    [edited] = [node for node in graph["nodes"] if node["id"] == edit]
    edited["inputs"][slot]["link"] = 901
    text = {"name": "text", "type": "STRING", "link": link[0], "widget": {"name": "text"}}
    chain = {"name": "references", "type": "KONTEXT_REFERENCES", "link": None}
    out = {"name": "text", "type": "STRING", "links": [901]}
    graph["nodes"].append({
        "id": 900, "type": "KontextNames", "mode": mode, "inputs": [text, chain],
        "outputs": [out], "widgets_values": [""], "pos": [0, 0], "size": [200, 100],
    })  # fmt: skip
    prompt = to_prompt(graph, info_of(nodes))
    [given] = [n["inputs"]["prompt"] for n in prompt.values() if n["class_type"] == "KontextEdit"]
    assert given == ([str(batch["id"]), 1] if mode == BYPASS else ["900", 0])
