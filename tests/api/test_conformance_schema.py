"""Every host describes the pack's nodes in the same words, in the form that frontends read."""

from __future__ import annotations

from typing import Any

import pytest
from host_client import Client
from hosts import PACK_NAME, Server, trouble_of
from templates import TITLES

# Output types in order. Ids, order and types are what saved workflows are made of: append only.
OUTPUTS = {
    "KontextLoadModel": ["MODEL"],
    "KontextLoadTextEncoders": ["CLIP"],
    "KontextLoadVAE": ["VAE"],
    "KontextReference": ["KONTEXT_REFERENCES"],
    "KontextStitch": ["CONDITIONING", "LATENT"],
    "KontextSampler": ["LATENT"],
    "KontextFinish": ["IMAGE"],
    "KontextEdit": ["IMAGE", "LATENT"],
    "KontextLoadLora": ["MODEL", "CLIP"],
    "KontextQuantize": ["*"],
    "KontextTrainLora": ["MODEL", "*"],
}
# Inputs that workflows in the wild will name; a node may have more.
INPUTS = {
    "KontextLoadModel": {"model_name", "precision", "memory"},
    "KontextLoadTextEncoders": {"t5_name", "clip_l_name", "padding"},
    "KontextLoadVAE": {"model_name"},
    "KontextReference": {"vae", "image", "mask", "references", "strength", "start", "end"},
    "KontextStitch": {"conditioning", "references", "method"},
    "KontextSampler": {"model", "positive", "latent_image", "seed", "steps", "guidance", "cfg"},
    "KontextFinish": {"samples", "vae"},
    "KontextEdit": {"image1", "image2", "image3", "prompt", "seed", "steps", "guidance"},
    "KontextLoadLora": {"model", "lora_file", "strength", "mode", "clip"},
    "KontextQuantize": {"model_name", "type", "file_name", "overwrite"},
    "KontextTrainLora": {
        "model",
        "clip",
        "vae",
        "dataset",
        "name",
        "steps",
        "learning_rate",
        "rank",
    },
}
EMBEDDED = "embedded: tiny"


@pytest.fixture
def object_info(client: Client) -> dict[str, Any]:
    return client.get("/object_info")


def _inputs(info: dict[str, Any]) -> dict[str, list[Any]]:
    return {**info["input"].get("required", {}), **info["input"].get("optional", {})}


@pytest.mark.parametrize("node_id", OUTPUTS)
def test_the_entry_has_what_a_frontend_reads(object_info: dict[str, Any], node_id: str) -> None:
    info = object_info[node_id]
    assert info["name"] == node_id
    assert info["display_name"].startswith("Kontext: ")
    assert info["category"].startswith("Kontext")
    assert info["description"]
    assert "kontext" in info["python_module"]
    assert info["output"] == OUTPUTS[node_id]
    assert len(info["output_name"]) == len(info["output_is_list"]) == len(info["output"])
    assert all(info["output_name"])
    ordered = [name for kind in info["input_order"].values() for name in kind]
    assert ordered == list(_inputs(info)) + list(info["input"].get("hidden", {}))


@pytest.mark.parametrize("node_id", INPUTS)
def test_promised_inputs_are_there_with_tooltips(object_info: dict[str, Any], node_id: str) -> None:
    inputs = _inputs(object_info[node_id])
    assert INPUTS[node_id] <= set(inputs)
    without = [name for name, spec in inputs.items() if not spec[1].get("tooltip")]
    assert not without


@pytest.mark.parametrize(
    ("node_id", "name"),
    [
        ("KontextLoadModel", "model_name"),
        ("KontextLoadTextEncoders", "t5_name"),
        ("KontextLoadVAE", "model_name"),
    ],
)
def test_the_embedded_model_is_offered_first(
    object_info: dict[str, Any], node_id: str, name: str
) -> None:
    kind, options = _inputs(object_info[node_id])[name]
    choices = options["options"] if kind == "COMBO" else kind
    assert choices[0] == EMBEDDED


def test_defaults_are_kontexts(object_info: dict[str, Any]) -> None:
    inputs = _inputs(object_info["KontextSampler"])
    assert inputs["steps"][1]["default"] == 28
    assert inputs["guidance"][1]["default"] == 2.5
    assert inputs["cfg"][1]["default"] == 1.0
    assert inputs["seed"][1]["control_after_generate"]


def test_one_node_can_be_asked_for(client: Client, object_info: dict[str, Any]) -> None:
    answer = client.get("/object_info/KontextEdit")
    assert answer == {"KontextEdit": object_info["KontextEdit"]}


def test_routes_answer_with_and_without_api(client: Client) -> None:
    assert client.get("/api/object_info/KontextEdit") == client.get("/object_info/KontextEdit")


def test_templates_and_thumbnails_are_served(client: Client) -> None:
    templates: dict[str, list[str]] = client.get("/api/workflow_templates")
    [pack] = [name for name, found in templates.items() if TITLES["two_references"] in found]
    named = ("text_to_image", "one_reference_edit", "two_references")
    assert {TITLES[name] for name in named} <= set(templates[pack])
    for name in templates[pack]:
        assert client.get(f"/api/workflow_templates/{pack}/{name}.json")["nodes"]
        status, body = client.call(f"/api/workflow_templates/{pack}/{name}.jpg")
        assert status == 200
        assert body[:3] == b"\xff\xd8\xff"
        assert len(body) < 300_000


def test_help_pages_are_served(client: Client, object_info: dict[str, Any]) -> None:
    for node_id in OUTPUTS:
        pack = object_info[node_id]["python_module"].removeprefix("custom_nodes.")
        status, body = client.call(f"/extensions/{pack}/docs/{node_id}.md")
        assert status == 200, node_id
        assert body.lstrip().startswith(b"#"), node_id


def test_the_pack_loads_without_a_word_of_trouble(server: Server) -> None:
    # The host's own trouble, such as an optional library that it misses, is not ours.
    ours = f"custom_nodes/{PACK_NAME}" if server.host.is_comfyui else ""
    assert trouble_of(server.boot_log, ours) == []


BOOT_LOG = """\
Traceback (most recent call last):
  File "/host/nodes.py", line 2, in load
    import av
ModuleNotFoundError: No module named 'av'

Cannot import /host/comfy_extras/nodes_video.py module for custom nodes: No module named 'av'
Traceback (most recent call last):
  File "/host/nodes.py", line 2, in load
    spec.loader.exec_module(module)
  File "/base/custom_nodes/ours/__init__.py", line 3, in <module>
    raise ValueError("a fault")
ValueError: a fault

Cannot import /base/custom_nodes/ours module for custom nodes: a fault
   0.0 seconds (IMPORT FAILED): /base/custom_nodes/ours
IMPORT FAILED: nodes_video.py
"""


def test_trouble_is_told_apart_by_whose_it_is() -> None:
    ours = trouble_of(BOOT_LOG, "/custom_nodes/ours")
    assert [line.split()[0] for line in ours] == ["Traceback", "Cannot", "0.0"]
    assert ours[0].endswith("ValueError: a fault")
    assert trouble_of(BOOT_LOG, "/custom_nodes/another") == []
    assert len(trouble_of(BOOT_LOG, "")) == 6
