"""Beside other packs, in a folder with any name, named in a whitelist: the host stays as it was.

COMFYUI_PACKS names checkouts of other packs, separated as in PATH; ComfyUI-GGUF, ComfyUI-KJNodes and
rgthree-comfy are the ones it is run with. Without it our pack stands alone.
"""

from __future__ import annotations

import json
import os
import re
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from host_client import Client, load_prompt, node_of
from hosts import ROOT, Host, Server, running, trouble_of
from model_folders import write_models
from native_host import native_hosts

# What somebody may call a folder: spaces, brackets, hyphens, dots, letters of other scripts.
NAME = "Köntext – Stüdio-测试 [v1.0]"
WATCH = "footprint.py"
CONTRACT: dict[str, Any] = json.loads(
    (ROOT / "tests/nodes/contract.json").read_text(encoding="utf-8")
)
VAE = {"model_name": "ae.safetensors", "precision": "auto"}
# Not on the whitelist, so it must not be imported.
STRANGER = "stranger.py"

# Measured with no pack but the watcher: what the hosts set themselves when they have loaded the
# packs, and while they run. Functions and classes first.
OWN_CODE = {"app.database.db.Session", "comfy.utils.PROGRESS_BAR_HOOK"}
OWN_DATA = {
    "comfy.cli_args.args",
    "comfy.model_management.current_loaded_models",
    "comfy_execution.caching.NODE_CLASS_CONTAINS_UNIQUE_ID",
    "comfy_execution.graph_utils.GraphBuilder._default_prefix_root",
    "comfy_execution.progress.global_progress_registry",
    # The host's list of input pictures meets its first .png: the pack's sample pictures.
    "folder_paths.extension_mimetypes_cache",
    "folder_paths.filename_list_cache",
    "nodes.EXTENSION_WEB_DIRS",
    "nodes.LOADED_MODULE_DIRS",
    "nodes.NODE_CLASS_MAPPINGS",
    "nodes.NODE_DISPLAY_NAME_MAPPINGS",
    *(
        f"server.PromptServer.instance.{name}"
        for name in ("address", "client_id", "client_session", "last_node_id", "last_prompt_id")
    ),
    "server.PromptServer.instance.number",
    "server.PromptServer.instance.port",
}
# Of other libraries only code counts: their data are caches and tables of formats.
HOSTS_OWN_MODULES = (
    *("api_server", "app", "comfy", "comfy_api", "comfy_config", "comfy_execution"),
    *("comfy_extras", "execution", "folder_paths", "latent_preview", "middleware"),
    *("node_helpers", "nodes", "protocol", "server", "utils"),
)
# 0.3.64 opens its database after the packs, and its alembic.ini asks for this.
OWN_SETTINGS = ({}, {"sys.path": [[], ["."]]})
# The first part of each path that the hosts themselves open after the packs.
OWN_ROUTES = {
    *("experiment", "global_subgraphs", "i18n", "node_replacements", "settings", "userdata"),
    *("users", "v2", "workflow_templates", "footprint"),
}


def neighbours() -> dict[str, Path]:
    named = os.environ.get("COMFYUI_PACKS", "")
    return {Path(part).name: Path(part).resolve() for part in named.split(os.pathsep) if part}


@pytest.fixture(scope="module", params=native_hosts())
def crowd(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A ComfyUI with the neighbours, then the watcher, then our pack."""
    host: Host = request.param
    base = tmp_path_factory.mktemp("crowd")
    stranger = base / STRANGER
    stranger.write_text("raise RuntimeError('imported, though not on the whitelist')\n")
    watch = {WATCH: ROOT / "tests/support" / WATCH}
    others = {**neighbours(), STRANGER: stranger}
    whitelist = ("--whitelist-custom-nodes", NAME, WATCH, *neighbours())
    write_models(base / "models")
    with running(
        host,
        base,
        packs=(others, watch, {NAME: ROOT}),
        flags=("--disable-all-custom-nodes", *whitelist),
    ) as started:
        yield started


@pytest.fixture(scope="module")
def crowd_client(crowd: Server) -> Client:
    return Client(crowd.url)


@pytest.fixture(scope="module")
def at_start(crowd_client: Client) -> dict[str, Any]:
    """What the watcher says before the first prompt."""
    return crowd_client.get("/footprint")


@pytest.fixture(scope="module")
def after_runs(crowd_client: Client, at_start: dict[str, Any]) -> dict[str, Any]:
    """What it says after our sampler, the host's, a LoRA and a packed file were at work."""
    prompt = load_prompt(ROOT / "workflows/api/two_references.json")
    prompt[node_of(prompt, "KontextSampler")]["inputs"]["steps"] = 1
    own = {
        "class_type": "KSampler",
        "inputs": {
            **{"seed": 1, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"},
            **{"positive": ["13", 0], "negative": ["13", 0], "latent_image": ["14", 0]},
            **{"model": ["12", 0], "denoise": 1.0},
        },
    }
    lora = {"lora_file": "", "strength": 1.0, "mode": "branch", "model": ["11", 0]}
    found = crowd_client.get("/object_info/KontextLoadLora")["KontextLoadLora"]["input"]
    kind, options = {**found.get("required", {}), **found.get("optional", {})}["lora_file"]
    lora["lora_file"] = (options["options"] if kind == "COMBO" else kind)[0]
    packed = {
        "10": {"class_type": "KontextLoadTextEncoders", "inputs": _texts()},
        "11": {"class_type": "KontextLoadModel", "inputs": _packed(crowd_client)},
        "12": {"class_type": "KontextLoadLora", "inputs": lora},
        "13": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["10", 0], "text": "a star"}},
        "14": {
            "class_type": "EmptySD3LatentImage",
            "inputs": {"width": 64, "height": 64, "batch_size": 1},
        },
        "15": own,
        "16": {"class_type": "KontextLoadVAE", "inputs": VAE},
        "17": {"class_type": "VAEDecode", "inputs": {"samples": ["15", 0], "vae": ["16", 0]}},
        "18": {"class_type": "PreviewImage", "inputs": {"images": ["17", 0]}},
    }
    for each in (prompt, packed):
        run = crowd_client.run(each)
        assert run.ok, run.error
    return crowd_client.get("/footprint")


def _texts() -> dict[str, str]:
    return {"t5_name": "t5.safetensors", "clip_l_name": "clip_l.safetensors"}


def _packed(client: Client) -> dict[str, str]:
    found = client.get("/object_info/KontextLoadModel")["KontextLoadModel"]["input"]["required"]
    kind, options = found["model_name"]
    names = options["options"] if kind == "COMBO" else kind
    return {"model_name": next(n for n in names if n.endswith(".gguf")), "precision": "auto"}


def code_changes(told: dict[str, Any]) -> list[str]:
    return [f"{c['name']}: {c['what']}" for c in told["changes"] if c["code"]]


def data_changes(told: dict[str, Any]) -> list[str]:
    return [
        f"{c['name']}: {c['what']}"
        for c in told["changes"]
        if not c["code"] and c["name"].partition(".")[0] in HOSTS_OWN_MODULES
    ]


def _beyond(found: list[str], own: set[str]) -> list[str]:
    return [each for each in found if each.partition(":")[0] not in own]


@pytest.mark.slow
def test_all_packs_are_there_and_the_stranger_is_not(crowd: Server) -> None:
    # Only ours: a host or a neighbour may miss a library of its own.
    assert trouble_of(crowd.boot_log, NAME) == []
    assert "though not on the whitelist" not in crowd.boot_log
    took = re.findall(r"([\d.]+) seconds[^:]*: (.+)", crowd.boot_log)
    loaded = {Path(path.strip()).name for _, path in took}
    assert loaded == {NAME, WATCH, *neighbours()}
    if not neighbours():
        pytest.skip("no other packs: set COMFYUI_PACKS to their checkouts")


@pytest.mark.slow
def test_the_picture_was_taken_before_the_pack_came(at_start: dict[str, Any]) -> None:
    assert at_start["early"] == []
    # 67,000 names in 0.33.0; with few of them the comparison would say nothing.
    assert at_start["watched"] > 20_000


@pytest.mark.slow
def test_importing_the_pack_changes_nothing_of_the_host(at_start: dict[str, Any]) -> None:
    assert _beyond(code_changes(at_start), OWN_CODE) == []
    assert _beyond(data_changes(at_start), OWN_DATA) == []
    assert at_start["settings"] in OWN_SETTINGS


@pytest.mark.slow
def test_running_it_changes_nothing_of_the_host(after_runs: dict[str, Any]) -> None:
    assert _beyond(code_changes(after_runs), OWN_CODE) == []
    assert _beyond(data_changes(after_runs), OWN_DATA) == []
    assert after_runs["settings"] in OWN_SETTINGS


@pytest.mark.slow
def test_it_registers_nodes_a_web_folder_and_nothing_else(after_runs: dict[str, Any]) -> None:
    new = after_runs["registered"]
    assert new["nodes"] == new["display names"] == sorted(CONTRACT)
    assert new["web"] == [NAME]
    assert new["folders"] == []
    assert new["prompt handlers"] == new["middlewares"] == []
    beyond = {
        path.partition("/{pack:")[0]
        for path in new["routes"]
        if "/{pack:" in path or path.strip("/").partition("/")[0] not in OWN_ROUTES
    }
    # Because of the folder's name: nodes/web.py.
    assert beyond == {"/extensions", "/workflow_templates"}


@pytest.mark.slow
def test_files_are_served_under_the_odd_name(crowd_client: Client) -> None:
    ours = [path for path in crowd_client.get("/extensions") if urllib.parse.quote(NAME) in path]
    assert {Path(path).name for path in ours} >= {
        path.name for path in (ROOT / "web/js").glob("*.js")
    }
    for path in ours:
        assert crowd_client.call(path)[0] == 200, path
    folder = urllib.parse.quote(NAME)
    for node in CONTRACT:
        assert crowd_client.call(f"/extensions/{folder}/docs/{node}.md")[0] == 200, node
    templates = crowd_client.get("/workflow_templates")[NAME]
    assert templates
    for name in templates:
        path = f"/api/workflow_templates/{folder}/{name}.json"
        assert crowd_client.get(path)["nodes"], name


@pytest.mark.slow
def test_names_of_other_packs_nodes_are_not_taken(
    crowd_client: Client, at_start: dict[str, Any]
) -> None:
    info = crowd_client.get("/object_info")
    for node in CONTRACT:
        assert info[node]["python_module"].endswith(NAME), node
    if "ComfyUI-GGUF" in neighbours():
        assert "UnetLoaderGGUF" in info
        # Their list of files and ours show the same file.
        names = info["UnetLoaderGGUF"]["input"]["required"]["unet_name"][0]
        assert _packed(crowd_client)["model_name"] in names
