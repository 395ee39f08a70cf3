"""Bad input gets a clear answer on every host, leaves no file, and the next prompt works."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from host_client import Client, load_prompt, node_of
from hosts import ROOT, Server
from PIL import Image

TWO_REFERENCES = ROOT / "workflows/api/two_references.json"


@pytest.fixture
def prompt() -> dict[str, Any]:
    """The two-reference workflow with two steps."""
    loaded = load_prompt(TWO_REFERENCES)
    loaded[node_of(loaded, "KontextSampler")]["inputs"]["steps"] = 2
    return loaded


@pytest.fixture(autouse=True)
def nothing_is_written(server: Server) -> Iterator[None]:
    """Refused and failed prompts leave the output folder as it was."""
    before = sorted(server.output.rglob("*"))
    yield
    assert sorted(server.output.rglob("*")) == before


def refusal(client: Client, prompt: dict[str, Any]) -> str:
    """The whole answer to a prompt that must be refused with status 400, as text."""
    status, answer = client.post("/prompt", {"prompt": prompt})
    assert status == 400, answer
    assert answer["error"]["type"]
    assert answer["error"]["message"]
    return json.dumps(answer)


def node_errors(client: Client, prompt: dict[str, Any], node_id: str) -> list[dict[str, Any]]:
    """The errors that the answer gives for one node."""
    status, answer = client.post("/prompt", {"prompt": prompt})
    assert status == 400, answer
    assert answer["error"]["type"] == "prompt_outputs_failed_validation"
    assert answer["node_errors"][node_id]["class_type"] == prompt[node_id]["class_type"]
    return answer["node_errors"][node_id]["errors"]


def failure(client: Client, prompt: dict[str, Any], node_id: str) -> str:
    """The error of a prompt that is accepted and must fail in one node."""
    run = client.run(prompt)
    assert not run.ok
    [data] = run.data("execution_error")
    assert str(data["node_id"]) == node_id, run.error
    assert data["node_type"] == prompt[node_id]["class_type"]
    assert data["traceback"]
    return run.error


def rejection(client: Client, prompt: dict[str, Any], node_id: str) -> str:
    """The error of one node, told before the run or in it: hosts differ in what they check."""
    status, answer = client.post("/prompt", {"prompt": prompt})
    if status == 400:
        return json.dumps(answer["node_errors"][node_id]["errors"])
    client.wait_for_history(answer["prompt_id"])
    return failure(client, prompt, node_id)


def test_unknown_node(client: Client, prompt: dict[str, Any]) -> None:
    prompt["900"] = {
        "class_type": "KontextNoSuchNode",
        "inputs": {},
        "_meta": {"title": "No such node"},
    }
    assert "KontextNoSuchNode" in refusal(client, prompt)


def test_cut_link(client: Client, prompt: dict[str, Any]) -> None:
    sampler = node_of(prompt, "KontextSampler")
    del prompt[sampler]["inputs"]["positive"]
    errors = node_errors(client, prompt, sampler)
    assert [error["type"] for error in errors] == ["required_input_missing"]
    assert "positive" in json.dumps(errors)


def test_link_to_a_node_that_is_not_there(client: Client, prompt: dict[str, Any]) -> None:
    sampler = node_of(prompt, "KontextSampler")
    prompt[sampler]["inputs"]["positive"] = ["901", 0]
    assert "901" in refusal(client, prompt)


def test_link_of_a_wrong_type(client: Client, prompt: dict[str, Any]) -> None:
    sampler = node_of(prompt, "KontextSampler")
    prompt[sampler]["inputs"]["model"] = [node_of(prompt, "KontextLoadVAE"), 0]
    [error] = node_errors(client, prompt, sampler)
    assert error["type"] == "return_type_mismatch"


def test_unknown_model_name(client: Client, prompt: dict[str, Any]) -> None:
    loader = node_of(prompt, "KontextLoadModel")
    prompt[loader]["inputs"]["model_name"] = "no-such-model.safetensors"
    assert "no-such-model.safetensors" in rejection(client, prompt, loader)


@pytest.mark.parametrize("steps", [0, -3, 10**9])
def test_steps_out_of_range(client: Client, prompt: dict[str, Any], steps: int) -> None:
    sampler = node_of(prompt, "KontextSampler")
    prompt[sampler]["inputs"]["steps"] = steps
    [error] = node_errors(client, prompt, sampler)
    assert error["type"] == ("value_bigger_than_max" if steps > 0 else "value_smaller_than_min")
    assert "steps" in json.dumps(error)


def test_steps_that_are_no_number(client: Client, prompt: dict[str, Any]) -> None:
    sampler = node_of(prompt, "KontextSampler")
    prompt[sampler]["inputs"]["steps"] = "many"
    [error] = node_errors(client, prompt, sampler)
    assert error["type"] == "invalid_input_type"


def test_nan_is_no_guidance(client: Client, server: Server, prompt: dict[str, Any]) -> None:
    # Python's JSON reads NaN, and no comparison with a limit refuses it: the node has to.
    if not server.host.is_comfyui:
        pytest.skip("the embedded host takes no body with NaN")
    sampler = node_of(prompt, "KontextSampler")
    prompt[sampler]["inputs"]["guidance"] = float("nan")
    error = rejection(client, prompt, sampler)
    assert "guidance" in error
    assert "nan" in error.lower()


def test_empty_prompt(client: Client) -> None:
    assert "no" in refusal(client, {}).lower()


def test_body_that_is_no_json(client: Client) -> None:
    status, _ = client.call("/prompt", b"{this is no JSON")
    assert 400 <= status <= 599


def test_picture_that_is_not_there(client: Client, prompt: dict[str, Any]) -> None:
    loader = node_of(prompt, "LoadImage")
    prompt[loader]["inputs"]["image"] = "no-such-picture.png"
    errors = node_errors(client, prompt, loader)
    assert "no-such-picture.png" in json.dumps(errors)


def test_unreadable_picture(client: Client, prompt: dict[str, Any]) -> None:
    loader = node_of(prompt, "LoadImage")
    name = client.upload("unreadable.png", b"\x89PNG\r\n\x1a\nand then nothing of the kind")
    prompt[loader]["inputs"]["image"] = name
    assert rejection(client, prompt, loader)


def test_reference_of_one_pixel(client: Client, prompt: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1), (200, 30, 30)).save(buffer, "PNG")
    loader = node_of(prompt, "LoadImage")
    prompt[loader]["inputs"]["image"] = client.upload("one_pixel.png", buffer.getvalue())
    [reference] = [
        node_id
        for node_id, node in prompt.items()
        if node["class_type"] == "KontextReference" and node["inputs"].get("image") == [loader, 0]
    ]
    error = failure(client, prompt, reference)
    assert "InputError" in error
    assert "1x1" in error.replace(" ", "").replace("×", "x")


def test_a_failed_prompt_does_not_spoil_the_next(
    client: Client, server: Server, prompt: dict[str, Any]
) -> None:
    bad = copy.deepcopy(prompt)
    loader = node_of(bad, "LoadImage")
    bad[loader]["inputs"]["image"] = client.upload("spoilt.png", b"no picture")
    assert rejection(client, bad, loader)
    save = node_of(prompt, "SaveImage")
    prompt[save]["class_type"] = "PreviewImage"
    prompt[save]["inputs"].pop("filename_prefix")
    run = client.run(prompt)
    assert run.ok, run.error
