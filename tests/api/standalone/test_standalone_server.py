"""What the embedded host serves beside runs: user data, the pack's files, and what it is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from embedded_host import Bench, fetch
from host_client import Client

# User data


def test_settings_are_kept(client: Client, bench: Bench) -> None:
    assert client.get("/settings") == {"Comfy.TutorialCompleted": False}
    assert client.post("/api/settings/Comfy.Locale", "fr")[0] == 200
    assert client.post("/settings", {"a": 1})[0] == 200
    expected = {"Comfy.TutorialCompleted": False, "Comfy.Locale": "fr", "a": 1}
    assert client.get("/settings") == expected
    assert client.get("/settings/Comfy.Locale") == "fr"
    (bench.folders.user / "default/comfy.settings.json").write_text("broken")
    assert client.get("/settings") == {"Comfy.TutorialCompleted": False}


def test_workflows_are_saved_moved_listed_deleted(client: Client) -> None:
    assert client.get("/userdata?dir=workflows") == []
    url = client.url + "/api/userdata/workflows%2Fmy%20flow.json"
    answer = fetch(url + "?overwrite=false&full_info=true", "POST", b'{"a": 1}')
    assert answer.status == 200 and json.loads(answer.body)["path"] == "workflows/my flow.json"
    assert fetch(url + "?overwrite=false", "POST", b"{}").status == 409
    moved = fetch(url + "/move/workflows%2Fdeep%2Fb.json", "POST", b"")
    assert json.loads(moved.body) == "workflows/deep/b.json"
    query = "dir=workflows&recurse=true&split=false&full_info=true"
    (entry,) = client.get(f"/userdata?{query}")
    assert entry["path"] == "deep/b.json" and entry["size"] == 8
    assert client.get("/userdata?dir=workflows&recurse=true&split=true") == [
        ["deep/b.json", "deep", "b.json"]
    ]
    entries = client.get("/v2/userdata?path=workflows")
    assert [(e["path"], e["type"]) for e in entries] == [
        ("workflows/deep", "directory"),
        ("workflows/deep/b.json", "file"),
    ]
    stored = client.url + "/userdata/workflows%2Fdeep%2Fb.json"
    assert fetch(stored).body == b'{"a": 1}'
    assert fetch(stored, "DELETE").status == 204 and fetch(stored).status == 404


@pytest.mark.parametrize("name", ["..%2F..%2Fx", "%252e%252e%252fx", "%2Fetc%2Fx"])
def test_user_files_stay_in_the_users_folder(client: Client, bench: Bench, name: str) -> None:
    assert fetch(f"{client.url}/userdata/{name}", "POST", b"x").status == 403
    assert fetch(f"{client.url}/userdata/{name}").status == 403
    assert not list(bench.folders.user.rglob("x"))


# What describes the host


def test_every_route_answers_under_both_prefixes(client: Client) -> None:
    paths = [
        "users settings extensions object_info i18n workflow_templates features system_stats queue",
        "history prompt embeddings models experiment/models global_subgraphs node_replacements jobs",
        "userdata?dir=workflows experiment/models/vae models/vae object_info/Number",
    ]
    for path in " ".join(paths).split():
        assert client.get("/" + path) == client.get("/api/" + path) or path == "system_stats", path


def test_scripts_docs_templates_and_translations_of_the_pack(client: Client) -> None:
    assert client.get("/extensions") == [
        "/extensions/core/own.js",
        "/extensions/My-Pack.v1/js/a.js",
    ]
    script = fetch(f"{client.url}/extensions/My-Pack.v1/js/a.js")
    assert script.body == b"export {}" and "javascript" in script.headers["Content-Type"]
    assert fetch(f"{client.url}/extensions/My-Pack.v1/docs/Number.md").body == b"# Number"
    assert client.get("/api/workflow_templates") == {"My-Pack.v1": ["one"]}
    assert fetch(f"{client.url}/api/workflow_templates/My-Pack.v1/one.jpg").body == b"jpg"
    assert client.get("/i18n") == {
        "fr": {"hello": "bonjour", "nodeDefs": {"Number": {"display_name": "Nombre"}}}
    }
    assert b"<title>editor</title>" in fetch(client.url + "/").body


def test_object_info_has_what_the_editor_needs(client: Client) -> None:
    info = client.get("/object_info")["Words"]
    assert info["input_order"] == {"required": ["text", "seed", "mood", "strength"]}
    required = info["input"]["required"]
    assert required["text"] == ["STRING", {"default": "hello", "multiline": True}]
    assert required["seed"][1] == {
        "default": 0,
        "min": 0,
        "max": 2**64 - 1,
        "control_after_generate": True,
    }
    assert required["mood"] == ["COMBO", {"multiselect": False, "options": ["calm", "loud"]}]
    assert info["output"] == ["STRING"] and info["output_name"] == ["words"]
    assert info["python_module"] == "nodes" and info["output_node"] is False
    assert client.get("/object_info")["SaveImage"]["output_node"] is True


def test_system_stats_tell_what_clients_read(client: Client) -> None:
    stats = client.get("/system_stats")
    assert {"os", "ram_total", "comfyui_version", "python_version", "pytorch_version"} <= set(
        stats["system"]
    )
    assert {"name", "type", "vram_total", "vram_free"} <= set(stats["devices"][0])


# Other sites


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://127.0.0.1:{port}"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_other_sites_are_refused(server: Any, headers: dict[str, str], status: int) -> None:
    filled = {key: value.format(port=server.port) for key, value in headers.items()}
    answer = fetch(server.url + "/queue", "POST", b"{}", **filled)
    assert answer.status == status
