"""Runs on the embedded host over HTTP and the websocket: queue, history, previews, errors."""

from __future__ import annotations

import io
import json
import struct
import uuid
from typing import Any

import pytest
import websocket
from embedded_host import Number, Steps, fetch, node, wait_for
from host_client import Client
from PIL import Image

SUM = {"1": node("Number", number=5), "2": node("Show", value=["1", 0])}


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
    assert run.error == "ValueError: 5 is wrong\n"
    job = client.get(f"/api/jobs/{run.prompt_id}")
    assert job["status"] == "failed" and job["execution_error"]["node_id"] == "2"
    assert client.run(SUM).ok


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
