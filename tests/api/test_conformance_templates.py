"""Templates that name published files: without them every host says what is missing, and no more."""

from __future__ import annotations

import json
from typing import Any

import pytest
from host_client import Client
from hosts import PACK_NAME, ROOT, Server
from templates import (
    HOST_NODES,
    NAMES,
    TITLES,
    api_format,
    editor_format,
    needs_comfyui,
    needs_files,
)

WITH_FILES = [name for name in NAMES if needs_files(name)]


def files_of(name: str) -> dict[str, str]:
    """{file: folder below models/} of a template."""
    return {
        entry["name"]: entry["directory"]
        for node in editor_format(name)["nodes"]
        for key in ("models", "downloads")
        for entry in node["properties"].get(key, [])
    }


@pytest.mark.parametrize("name", WITH_FILES)
def test_a_template_lacks_its_files_and_nothing_else(
    client: Client, server: Server, name: str
) -> None:
    if needs_comfyui(name) and not server.host.is_comfyui:
        pytest.skip("the embedded host lacks some of its nodes")
    status, answer = client.post("/prompt", {"prompt": api_format(name)})
    assert status == 400
    errors = [
        (node["class_type"], error)
        for node in answer["node_errors"].values()
        for error in node["errors"]
    ]
    files = files_of(name)
    named = set()
    for class_type, error in errors:
        assert error["type"] in ("value_not_in_list", "custom_validation_failed"), error
        text = json.dumps(error)
        found = [file for file in files if file in text]
        assert found, error
        named.update(found)
        if class_type.startswith("Kontext"):
            assert files[found[0]] in error["details"]
            assert "put it into" in error["details"]
    # A loader of two files may complain of the first alone.
    assert len(named) >= len(files) - 1


def test_our_notes_on_the_hosts_own_nodes_are_right(client: Client, server: Server) -> None:
    """tools/host_nodes.json is what templates are drawn from."""
    if not server.host.is_comfyui:
        pytest.skip("the embedded host lacks these nodes")
    known = json.loads(HOST_NODES.read_text(encoding="utf-8"))
    info = client.get("/object_info")
    for node_id, schema in known.items():
        now = info[node_id]
        assert _kinds(now) == _kinds(schema), node_id
        assert now["output"][: len(schema["output"])] == schema["output"], node_id


def _kinds(schema: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (name, spec[0] if isinstance(spec[0], str) else "COMBO")
        for kind in ("required", "optional")
        for name, spec in schema["input"].get(kind, {}).items()
    ]


def test_every_template_that_the_host_can_show_is_listed(client: Client, server: Server) -> None:
    listed = next(
        names
        for names in client.get("/workflow_templates").values()
        if TITLES["two_references"] in names
    )
    can = [name for name in NAMES if server.host.is_comfyui or not needs_comfyui(name)]
    assert sorted(listed) == sorted(TITLES[name] for name in can)


def test_links_with_older_names_open_them(client: Client, server: Server) -> None:
    if server.host.is_comfyui:
        pytest.skip("ComfyUI serves the folder as it is")
    for name in ("two_references", "batch"):
        path = f"/workflow_templates/{PACK_NAME}/{name}"
        assert client.get(f"{path}.json") == editor_format(name)
        assert client.get(f"/api{path}.json") == editor_format(name)
        assert client.call(f"{path}.jpg")[1][:3] == b"\xff\xd8\xff"
    assert client.call(f"/workflow_templates/{PACK_NAME}/gone.json")[0] == 404


def test_translations_are_served(client: Client) -> None:
    served = client.get("/i18n")
    for language, title in (("zh", "Kontext: 拼接"), ("ja", "Kontext: スティッチ")):
        assert served[language]["nodeDefs"]["KontextStitch"]["display_name"] == title
        assert served[language]["kontext"]["close"]
        assert served[language]["dataTypes"]["KONTEXT_REFERENCES"]
    assert {"en", "zh", "ja", "ko"} <= set(served)


def test_help_pages_are_served_in_every_language(client: Client) -> None:
    info = client.get("/object_info/KontextEdit")["KontextEdit"]
    pack = info["python_module"].removeprefix("custom_nodes.")
    for language, title in (("zh", "# Kontext: 编辑"), ("ja", "# Kontext: 編集")):
        status, body = client.call(f"/extensions/{pack}/docs/KontextEdit/{language}.md")
        assert status == 200
        assert body.decode("utf-8").startswith(title)
    status, body = client.call(f"/extensions/{pack}/docs/images/KontextEdit.png")
    assert status == 200
    assert body[:4] == b"\x89PNG"


def test_subgraphs_are_listed(client: Client, server: Server) -> None:
    """From 0.3.66 on ComfyUI lists what lies in a pack's folder `subgraphs`."""
    status, body = client.call("/global_subgraphs")
    # Not the embedded host: it is to have one.
    if server.host.is_comfyui and status == 404:
        pytest.skip("this ComfyUI has no list of subgraphs")
    listed = json.loads(body)
    ours = {
        entry["name"]: name
        for name, entry in listed.items()
        if entry["info"]["node_pack"] == f"custom_nodes.{PACK_NAME}"
    }
    files = {path.stem: path for path in (ROOT / "subgraphs").glob("*.json")}
    assert ours.keys() == files.keys()
    for name, path in files.items():
        entry = client.get(f"/global_subgraphs/{ours[name]}")
        assert json.loads(entry["data"]) == json.loads(path.read_text(encoding="utf-8"))
