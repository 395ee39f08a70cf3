"""Attacks on the bodies of requests: the worker outlives them, and wrong fields are 400."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from embedded_host import Bench, node, wait_for
from host_client import Client

SUM = {"1": node("Number", number=5), "2": node("Show", value=["1", 0])}
NESTED = b'{"prompt": ' + b"[" * 500 + b"]" * 500 + b"}"
# A path, and a body with one thing wrong in it.
WRONG: list[tuple[str, Any]] = [
    ("/prompt", {"prompt": SUM, "client_id": ["a"]}),
    ("/prompt", {"prompt": SUM, "client_id": {"a": 1}}),
    ("/prompt", {"prompt": SUM, "client_id": "a" * 300}),
    ("/prompt", {"prompt": SUM, "prompt_id": 5}),
    ("/prompt", {"prompt": SUM, "number": "first"}),
    ("/prompt", {"prompt": SUM, "number": 10**400}),
    ("/prompt", {"prompt": SUM, "front": "yes"}),
    ("/prompt", {"prompt": SUM, "extra_data": "text"}),
    ("/prompt", {"prompt": SUM, "extra_data": {"extra_pnginfo": "text"}}),
    ("/prompt", {"prompt": SUM, "extra_data": {"extra_pnginfo": {"workflow": "text"}}}),
    ("/prompt", {"prompt": SUM, "extra_data": {"extra_pnginfo": {"": 1}}}),
    ("/prompt", {"prompt": SUM, "extra_data": {"extra_pnginfo": {"workflow": {"id": []}}}}),
    ("/prompt", {"prompt": SUM, "partial_execution_targets": 5}),
    ("/prompt", {"prompt": SUM, "partial_execution_targets": [5]}),
    ("/prompt", {"prompt": SUM, "partial_execution_targets": "2"}),
    ("/prompt", {"prompt": {"1": {"class_type": ["Number"]}}}),
    ("/prompt", {"prompt": {"1": {"class_type": {"a": 1}, "inputs": {}}}}),
    ("/prompt", {"prompt": {"1": node("Number") | {"_meta": "text"}}}),
    ("/prompt", {"prompt": {"1": {"class_type": "Show", "inputs": None}}}),
    ("/prompt", {"prompt": {"1": None}}),
    ("/prompt", {"prompt": None}),
    ("/prompt", {"prompt": {"1": node("Number", number=1), "2": node("Show", value=["1", True])}}),
    ("/prompt", b'{"prompt": {"1": {"class_type": "Number", "inputs": {"number": NaN}}}}'),
    ("/prompt", b'{"prompt": {"1": {"class_type": "Number", "inputs": {"number": 1e999}}}}'),
    ("/prompt", b'{"prompt": "\\ud800"}'),
    ("/prompt", b'{"prompt": ' + b"9" * 5000 + b"}"),
    ("/prompt", b"[" * 100_000),
    ("/prompt", NESTED),
    ("/queue", {"delete": 5}),
    ("/queue", {"delete": "all"}),
    ("/queue", {"delete": [["a"]]}),
    ("/queue", {"clear": "yes"}),
    ("/history", {"delete": 5}),
    ("/history", {"delete": [{}]}),
    ("/interrupt", {"prompt_id": ["a"]}),
    ("/free", {"unload_models": []}),
    ("/jobs/cancel", {"job_ids": "a"}),
    ("/jobs/cancel", {"job_ids": [5]}),
    ("/settings", [1]),
    ("/settings", b'{"a": NaN}'),
    ("/settings/a", b"Infinity"),
]


@pytest.mark.parametrize(("path", "body"), WRONG)
def test_a_wrong_field_is_told_and_the_queue_goes_on(client: Client, path: str, body: Any) -> None:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, answer = client.call("/api" + path, sent)
    error = json.loads(answer)["error"]
    assert status == 400 and set(error) == {"type", "message", "details", "extra_info"}
    assert len(error["message"]) > 10 and len(answer) < 4000
    assert client.get("/queue") == {"queue_running": [], "queue_pending": []}
    assert client.run(SUM).ok


class Broken:
    """A listener nobody can talk to."""

    def send(self, event: str, data: dict[str, Any]) -> None:
        raise TypeError("unhashable")

    def preview(self, image: Any, node: dict[str, Any]) -> None:
        raise OSError("no")


def test_the_worker_outlives_a_listener_that_throws(bench: Bench) -> None:
    from standalone.engine import Job
    from standalone.tasks import TaskQueue

    def broken() -> None:
        raise RuntimeError("nobody listens")

    tasks = TaskQueue(bench.engine, broken)
    tasks.start()
    prompt = {"1": node("Steps", count=1), "2": node("Show", value=["1", 0])}
    ids = [str(uuid.uuid4()) for _ in range(3)]
    for number, prompt_id in enumerate(ids):
        tasks.put(float(number), Job(prompt_id, prompt, ["2"]), Broken())
    wait_for(lambda: len(tasks.history) == 3 and tasks.remaining() == 0)
    assert [tasks.history[i]["status"]["status_str"] for i in ids] == ["success"] * 3
    tasks.close()


@pytest.mark.parametrize("kind", [SystemExit, GeneratorExit, MemoryError, RecursionError])
def test_the_worker_outlives_what_a_node_throws(
    client: Client, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    from embedded_nodes import Fail

    def execute(cls: Any, value: int) -> None:
        raise kind("out")

    monkeypatch.setattr(Fail, "execute", classmethod(execute))
    run = client.run({**SUM, "3": node("Fail", value=["1", 0]), "4": node("Show", value=["3", 0])})
    assert run.error == f"{kind.__name__}: out\n"
    assert client.run(SUM).ok


def test_a_fault_outside_of_any_node_is_told(
    bench: Bench, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from standalone import engine

    async def broken(*_: Any) -> None:
        raise SystemExit("no signatures today")

    with monkeypatch.context() as patched:
        patched.setattr(engine, "signatures", broken)
        run = client.run(SUM)
    assert run.error == "SystemExit: no signatures today\n"
    assert client.get(f"/jobs/{run.prompt_id}")["status"] == "failed"
    assert client.run(SUM).ok


def test_a_long_chain_is_checked_and_run(client: Client) -> None:
    length = 1000
    chain = {"0": node("Number", number=1)}
    chain |= {str(i): node("Add", a=[str(i - 1), 0]) for i in range(1, length)}
    run = client.run(chain | {"out": node("Show", value=[str(length - 1), 0])})
    assert run.ok


def test_a_long_circle_is_refused(client: Client) -> None:
    chain = {str(i): node("Add", a=[str((i + 1) % 2000), 0]) for i in range(2000)}
    status, answer = client.post(
        "/prompt", {"prompt": chain | {"out": node("Show", value=["0", 0])}}
    )
    assert status == 400 and answer["error"]["type"] == "prompt_outputs_failed_validation"
