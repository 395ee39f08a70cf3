"""The embedded host's routes and websocket, with small nodes."""

from __future__ import annotations

import io
import json
import struct
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import websocket
from embedded_host import Bench, Number, Steps, live, node
from host_client import Client
from PIL import Image

SUM = {"1": node("Number", number=5), "2": node("Show", value=["1", 0])}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    samples = tmp_path / "samples"
    samples.mkdir()
    Image.new("RGB", (8, 6), (200, 10, 10)).save(samples / "shipped.png")
    return Bench(tmp_path / "base", samples)


@pytest.fixture
def pack(tmp_path: Path) -> Any:
    root = tmp_path / "My-Pack.v1"
    for name in ("web/js", "web/docs", "workflows/api", "locales/fr", "locales/en"):
        (root / name).mkdir(parents=True)
    (root / "web/js/a.js").write_text("export {}")
    (root / "web/docs/Number.md").write_text("# Number")
    (root / "workflows/one.json").write_text("{}")
    (root / "workflows/one.jpg").write_bytes(b"jpg")
    (root / "workflows/api/one.json").write_text("{}")
    (root / "locales/fr/nodeDefs.json").write_text('{"Number": {"display_name": "Nombre"}}')
    (root / "locales/fr/main.json").write_text('{"hello": "bonjour"}')
    (root / "locales/en/main.json").write_text("this is no JSON")
    return SimpleNamespace(name=root.name, root=root, web=root / "web", nodes={})


@pytest.fixture
def server(bench: Bench, pack: Any) -> Iterator[SimpleNamespace]:
    with live(bench, [pack]) as running:
        yield running


@pytest.fixture
def client(server: SimpleNamespace) -> Client:
    return Client(server.url)


def fetch(url: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Any:
    request = urllib.request.Request(url, data=body, method=method)
    for key, value in headers.items():
        request.add_header(key.replace("_", "-"), value)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return SimpleNamespace(status=answer.status, body=answer.read(), headers=answer.headers)
    except urllib.error.HTTPError as error:
        return SimpleNamespace(status=error.code, body=error.read(), headers=error.headers)


def png(size: tuple[int, int] = (4, 4), color: Any = (1, 2, 3), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, color).save(buffer, "PNG")
    return buffer.getvalue()


# Runs


def test_a_run_over_the_websocket(client: Client) -> None:
    run = client.run(SUM)
    assert run.ok and run.data("executed")[0]["output"] == {"text": ["5"]}
    assert run.messages[-1] == {
        "type": "executing",
        "data": {"node": None, "prompt_id": run.prompt_id},
    }
    item = client.get(f"/api/history/{run.prompt_id}")[run.prompt_id]
    assert item["status"]["status_str"] == "success" and item["status"]["completed"] is True
    assert [event for event, _ in item["status"]["messages"]] == [
        "execution_start",
        "execution_cached",
        "execution_success",
    ]
    assert item["outputs"] == {"2": {"text": ["5"]}}
    assert item["prompt"][1] == run.prompt_id and item["prompt"][4] == ["2"]
    assert item["meta"]["2"]["display_node"] == "2"


@pytest.mark.parametrize("rich", [True, False, None])
def test_previews_come_in_the_format_the_client_knows(
    server: Any, client: Client, rich: bool | None
) -> None:
    client_id = uuid.uuid4().hex
    channel = websocket.create_connection(
        f"ws://127.0.0.1:{server.port}/ws?clientId={client_id}", timeout=60
    )
    first = json.loads(channel.recv())
    assert first == {
        "type": "status",
        "data": {"status": {"exec_info": {"queue_remaining": 0}}, "sid": client_id},
    }
    if rich is not None:
        flags = {"supports_preview_metadata": rich}
        channel.send(json.dumps({"type": "feature_flags", "data": flags}))
        assert json.loads(channel.recv())["type"] == "feature_flags"
    prompt = {"1": node("Steps", count=2), "2": node("Show", value=["1", 0])}
    _, answer = client.post("/api/prompt", {"prompt": prompt, "client_id": client_id})
    frames, progress = [], []
    while True:
        received = channel.recv()
        if isinstance(received, bytes):
            frames.append(received)
            continue
        message = json.loads(received)
        if message["type"] == "progress":
            progress.append(message["data"])
        if message["type"] == "executing" and message["data"]["node"] is None:
            break
    channel.close()
    assert [(p["value"], p["max"], p["node"]) for p in progress] == [(1, 2, "1"), (2, 2, "1")]
    if rich is None:
        # Scripts that say nothing take any binary frame for the result.
        assert frames == []
        return
    assert len(frames) == 2
    kind, number = struct.unpack_from(">II", frames[0])
    if rich:
        assert kind == 4
        metadata = json.loads(frames[0][8 : 8 + number])
        assert metadata["node_id"] == "1" and metadata["prompt_id"] == answer["prompt_id"]
        assert metadata["image_type"] == "image/jpeg"
        picture = frames[0][8 + number :]
    else:
        assert (kind, number) == (1, 1)
        picture = frames[0][8:]
    # 1024 x 8 is made to fit 512 x 512.
    assert Image.open(io.BytesIO(picture)).size == (512, 4)


def test_a_refused_prompt_answers_400_in_comfyuis_words(client: Client) -> None:
    bad = {"1": node("Number", number=-1), "2": node("Show", value=["1", 0])}
    status, answer = client.post("/prompt", {"prompt": bad})
    assert status == 400
    assert answer["error"]["type"] == "prompt_outputs_failed_validation"
    (error,) = answer["node_errors"]["1"]["errors"]
    assert (
        error["type"] == "value_smaller_than_min" and error["extra_info"]["input_name"] == "number"
    )
    assert client.get("/queue") == {"queue_running": [], "queue_pending": []}


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({}, "no_prompt"),
        ({"prompt": []}, "invalid_prompt"),
        ({"prompt": {"1": node("NoSuchNode")}}, "missing_node_type"),
        ({"prompt": SUM, "prompt_id": "mine"}, "invalid_prompt_id"),
        ({"prompt": SUM, "prompt_id": str(uuid.uuid4()).upper()}, "invalid_prompt_id"),
    ],
)
def test_bad_bodies_are_refused(client: Client, body: Any, kind: str) -> None:
    status, answer = client.post("/prompt", body)
    assert (status, answer["error"]["type"]) == (400, kind)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe"])
@pytest.mark.parametrize("path", ["/prompt", "/queue", "/history", "/settings"])
def test_what_is_no_json_object_is_the_clients_fault(server: Any, path: str, body: bytes) -> None:
    answer = fetch(server.url + path, "POST", body)
    expected = {400} if body or path == "/prompt" else {200}
    assert answer.status in expected


def test_a_failing_node_is_told_and_kept(client: Client) -> None:
    prompt = {
        "1": node("Number", number=5),
        "2": node("Fail", value=["1", 0]),
        "3": node("Show", value=["2", 0]),
    }
    run = client.run(prompt)
    assert run.error == "ValueError: 5 is no good\n"
    job = client.get(f"/api/jobs/{run.prompt_id}")
    assert job["status"] == "failed" and job["execution_error"]["node_id"] == "2"
    assert client.run(SUM).ok


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "nothing happened for 60 s"
        time.sleep(0.01)


def test_queue_interrupt_and_delete(client: Client) -> None:
    Steps.go_on.clear()
    prompt = {"1": node("Steps", count=1000), "2": node("Show", value=["1", 0])}
    ids = [client.post("/prompt", {"prompt": prompt})[1]["prompt_id"] for _ in range(3)]
    wait_for(Steps.reached.is_set)
    queue = client.get("/queue")
    assert [item[1] for item in queue["queue_running"]] == ids[:1]
    assert [item[1] for item in queue["queue_pending"]] == ids[1:]
    assert client.get("/prompt") == {"exec_info": {"queue_remaining": 3}}
    listed = client.get("/api/jobs?status=in_progress,pending&limit=2&offset=0")
    assert listed["pagination"] == {"offset": 0, "limit": 2, "total": 3, "has_more": True}
    assert client.post("/queue", {"delete": [ids[1]]})[0] == 200
    # A stop meant for another prompt must not reach the running one.
    assert client.post("/interrupt", {"prompt_id": ids[2]})[0] == 200
    assert client.get("/prompt")["exec_info"]["queue_remaining"] == 2
    assert client.post(f"/api/jobs/{ids[2]}/cancel", {})[1] == {"cancelled": True}
    assert client.post("/interrupt", {})[0] == 200
    Steps.go_on.set()
    wait_for(lambda: client.get("/prompt")["exec_info"]["queue_remaining"] == 0)
    item = client.get(f"/history/{ids[0]}")[ids[0]]
    assert item["status"]["messages"][-1][0] == "execution_interrupted"
    assert client.get(f"/api/jobs/{ids[0]}")["status"] == "cancelled"
    assert client.get(f"/history/{ids[1]}") == {}
    assert client.post(f"/api/jobs/{ids[0]}/cancel", {})[1] == {"cancelled": False}
    assert client.run(SUM).ok


def test_history_can_be_paged_and_cleared(client: Client) -> None:
    ids = [client.run(SUM).prompt_id for _ in range(3)]
    assert list(client.get("/history")) == ids
    assert list(client.get("/history?max_items=2")) == ids[1:]
    assert list(client.get("/history?max_items=1&offset=0")) == ids[:1]
    client.post("/history", {"delete": [ids[0]]})
    assert list(client.get("/history")) == ids[1:]
    client.post("/history", {"clear": True})
    assert client.get("/history") == {}
    assert fetch(f"{client.url}/history?max_items=many").status == 400


def test_free_makes_nodes_run_again(client: Client) -> None:
    client.run(SUM)
    assert Number.calls == [5]
    client.post("/free", {"free_memory": True})
    client.run(SUM)
    assert Number.calls == [5, 5]


def test_partial_execution_runs_only_its_targets(client: Client) -> None:
    prompt = {**SUM, "3": node("Show", value=["1", 0])}
    _, answer = client.post("/prompt", {"prompt": prompt, "partial_execution_targets": ["3"]})
    wait_for(lambda: client.get(f"/history/{answer['prompt_id']}"))
    assert list(client.get(f"/history/{answer['prompt_id']}")[answer["prompt_id"]]["outputs"]) == [
        "3"
    ]


# Pictures


def test_upload_list_view(client: Client) -> None:
    name = client.upload("mine.png", png())
    assert name == "mine.png"
    assert client.upload("mine.png", png()) == "mine.png"
    assert client.upload("mine.png", png(color=(9, 9, 9))) == "mine (1).png"
    info = client.get("/object_info/LoadImage")["LoadImage"]["input"]["required"]["image"]
    assert info[0] == "COMBO" and info[1]["image_upload"] is True
    assert info[1]["options"] == ["mine (1).png", "mine.png", "shipped.png"]
    for found in ("mine.png", "shipped.png"):
        assert client.view({"filename": found, "subfolder": "", "type": "input"}).format == "PNG"
    small = fetch(f"{client.url}/view?filename=mine.png&type=input&preview=webp;50")
    assert small.headers["Content-Type"] == "image/webp"
    alpha = fetch(f"{client.url}/view?filename=mine.png&type=input&channel=a")
    assert Image.open(io.BytesIO(alpha.body)).mode == "RGBA"


@pytest.mark.parametrize(
    "query",
    [
        "filename=../user/secret.txt&type=input",
        "filename=secret.txt&subfolder=../user&type=input",
        "filename=/etc/hostname&type=input",
        "filename=..%2Fuser%2Fsecret.txt&type=output",
        "filename=secret.txt&type=user",
        "filename=../user/secret.txt%20[output]",
        "filename=a%00b&type=input",
    ],
)
def test_view_never_leaves_its_folders(bench: Bench, client: Client, query: str) -> None:
    bench.folders.user.mkdir(parents=True)
    (bench.folders.user / "secret.txt").write_text("secret")
    answer = fetch(f"{client.url}/view?{query}")
    assert answer.status in (400, 403, 404) and b"secret" != answer.body


def test_view_follows_no_link_out(bench: Bench, client: Client, tmp_path: Path) -> None:
    (tmp_path / "outside.png").write_bytes(png())
    (bench.folders.input / "link.png").symlink_to(tmp_path / "outside.png")
    assert fetch(f"{client.url}/view?filename=link.png&type=input").status == 403


def test_what_is_no_picture_is_not_shown_in_the_page(bench: Bench, client: Client) -> None:
    (bench.folders.input / "page.html").write_text("<script>alert(1)</script>")
    answer = fetch(f"{client.url}/view?filename=page.html&type=input")
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"].startswith("attachment")


def form(fields: dict[str, str], filename: str, content: bytes) -> tuple[bytes, str]:
    boundary = uuid.uuid4().hex
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in fields.items()
    ]
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{filename}"\r\n\r\n'
    body = b"".join(parts) + head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    return body, f"multipart/form-data; boundary={boundary}"


@pytest.mark.parametrize(
    ("fields", "filename"),
    [
        ({"subfolder": "../../x"}, "a.png"),
        ({}, "../a.png"),
        ({"type": "user"}, "a.png"),
        ({}, "a.html"),
    ],
)
def test_bad_uploads_are_refused_and_leave_nothing(bench, client, fields, filename) -> None:
    base = bench.folders.input.parent
    before = sorted(base.rglob("*"))
    body, kind = form(fields, filename, png())
    assert client.call("/upload/image", body, kind)[0] == 400
    assert sorted(base.rglob("*")) == before


def test_a_mask_is_painted_onto_a_copy(bench: Bench, client: Client) -> None:
    client.upload("mine.png", png((4, 4), (10, 20, 30)))
    mask = png((4, 4), (0, 0, 0, 77), "RGBA")
    reference = json.dumps({"filename": "mine.png", "subfolder": "", "type": "input"})
    body, kind = form({"original_ref": reference, "subfolder": "clipspace"}, "masked.png", mask)
    status, answer = client.call("/upload/mask", body, kind)
    assert status == 200
    assert json.loads(answer) == {"name": "masked.png", "subfolder": "clipspace", "type": "input"}
    with Image.open(bench.folders.input / "clipspace/masked.png") as masked:
        assert masked.getpixel((0, 0)) == (10, 20, 30, 77)
    body, kind = form({"original_ref": '{"filename": "none.png"}'}, "m.png", mask)
    assert client.call("/upload/mask", body, kind)[0] == 400


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
