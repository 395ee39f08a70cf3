"""The vision-language judge: a good endpoint, one that answers rubbish, slowly, with errors, or not at all."""

from __future__ import annotations

import base64
import json
import math
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from judge_server import JudgeServer, Reply, chat

from kontext_core import InputError
from kontext_core.errors import UnscoredError
from kontext_lab.evaluation.endpoint import SILENT, Endpoint
from kontext_lab.evaluation.judging import better, viescore

PICTURE = torch.rand(1, 40, 48, 3, generator=torch.Generator().manual_seed(0))
ASKED = ("make it red", [PICTURE], 1 - PICTURE)


def endpoint(server: JudgeServer | str, **options: Any) -> Endpoint:
    url = server if isinstance(server, str) else server.url
    return Endpoint(url, "judge-model", **{"timeout": 5.0, "tries": 2, "wait": 0.01, **options})


def good(asked: dict[str, Any], count: int) -> tuple[int, str]:
    words = asked["messages"][0]["content"][0]["text"]
    if "followed" in words:
        return 200, chat('Sure:\n```json\n{"followed": 8, "kept": 6.5, "reason": "ok"}\n```')
    return 200, chat('{"natural": 9, "clean": 10, "reason": "fine"}')


def test_viescore_is_the_root_of_the_least_scores() -> None:
    with JudgeServer(good) as server:
        found = viescore(endpoint(server), *ASKED)
        assert found == {"consistency": 6.5, "quality": 9.0, "overall": math.sqrt(6.5 * 9)}
        consistency, quality = server.asked
    assert consistency["model"] == "judge-model" and consistency["temperature"] == 0
    parts = consistency["messages"][0]["content"]
    assert '"make it red"' in parts[0]["text"] and len(parts) == 3
    # Perceptual quality is judged without the question.
    assert "make it red" not in quality["messages"][0]["content"][0]["text"]
    png = base64.b64decode(parts[1]["image_url"]["url"].partition(",")[2])
    assert png.startswith(b"\x89PNG")


def test_answers_are_kept_and_asked_for_once(tmp_path: Path) -> None:
    with JudgeServer(good) as server:
        first = viescore(endpoint(server, cache=tmp_path), *ASKED)
        again = viescore(endpoint(server, cache=tmp_path), *ASKED)
        assert first == again and len(server.asked) == 2
        # A damaged one is asked for again.
        for path in tmp_path.rglob("*.json"):
            path.write_text("{")
        assert viescore(endpoint(server, cache=tmp_path), *ASKED) == first
        assert len(server.asked) == 4
        viescore(endpoint(server, cache=tmp_path), "make it red", [PICTURE], PICTURE)
        assert len(server.asked) == 6


@pytest.mark.parametrize(
    "text",
    [
        chat("I'd rather not say."),
        chat('{"followed": "eight", "kept": 7}'),
        chat('{"followed": 11, "kept": 7}'),
        chat('{"followed": true, "kept": 7}'),
        chat('{"followed": NaN, "kept": 7}'),
        chat('{"followed": 8'),
        chat("[8, 7]"),
        chat(""),
        json.dumps({"choices": []}),
        json.dumps({"choices": [{"message": {"content": None}}]}),
        "<html>It works!</html>",
        "",
    ],
)
def test_rubbish_is_unscored_with_what_came_and_never_zero(text: str, tmp_path: Path) -> None:
    with JudgeServer(lambda asked, count: (200, text)) as server:
        with pytest.raises(UnscoredError, match=r"answered.*\(2 tries\)|in place of a text"):
            viescore(endpoint(server, cache=tmp_path), *ASKED)
        assert len(server.asked) == 2
    # What can't be used is not kept.
    assert not list(tmp_path.rglob("*.json"))


def test_a_second_try_may_go_better() -> None:
    def reply(asked: dict[str, Any], count: int) -> tuple[int, str]:
        return (
            (500, "overloaded")
            if count == 0
            else (200, chat("hm"))
            if count == 1
            else good(asked, count)
        )

    with JudgeServer(reply) as server:
        assert viescore(endpoint(server, tries=3), *ASKED)["consistency"] == 6.5
        assert len(server.asked) == 4


def test_what_a_server_refuses_is_not_asked_again() -> None:
    with JudgeServer(lambda asked, count: (404, "no such model")) as server:
        with pytest.raises(UnscoredError, match="answered 404: no such model"):
            viescore(endpoint(server), *ASKED)
        assert len(server.asked) == 1


@pytest.mark.parametrize("drip", [0.0, 0.1])
def test_slow_and_silent_servers_run_into_the_time_limit(drip: float) -> None:
    reply: Reply = good if drip else lambda asked, count: None
    with JudgeServer(reply, drip) as server:
        with pytest.raises(UnscoredError, match=r"not answered within 0.4 s \(2 tries\)"):
            viescore(endpoint(server, timeout=0.4), *ASKED)


def test_slow_headers_run_into_the_time_limit_too() -> None:
    ended = threading.Event()

    def serve(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection, suppress(OSError):
            for byte in b"HTTP/1.0 200 OK\r\nServer: " + b"x" * 1000:
                connection.sendall(bytes([byte]))
                if ended.wait(0.05):
                    return

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, args=(listening,), daemon=True).start()
        port = listening.getsockname()[1]
        with pytest.raises(UnscoredError, match=r"not answered within 0.4 s \(1 tries\)"):
            viescore(endpoint(f"http://127.0.0.1:{port}/v1", timeout=0.4, tries=1), *ASKED)
        ended.set()


def test_nobody_there_is_not_asked_for_ever() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    judge = endpoint(f"http://127.0.0.1:{port}/v1")
    for _ in range(SILENT):
        with pytest.raises(UnscoredError, match=r"can't be reached .*\(2 tries\)"):
            viescore(judge, *ASKED)
    for _ in range(2):
        with pytest.raises(UnscoredError, match="not asked: 3 questions before .* be reached"):
            viescore(judge, *ASKED)


def test_a_server_that_answers_at_times_is_asked_on() -> None:
    hangs = [True, True, False] * 3

    def reply(asked: dict[str, Any], count: int) -> tuple[int, str] | None:
        return None if hangs[count] else (200, chat("rubbish"))

    with JudgeServer(reply) as server:
        judge = endpoint(server, timeout=0.2, tries=1)
        for hung in hangs:
            with pytest.raises(UnscoredError, match="not answered" if hung else "rubbish"):
                viescore(judge, *ASKED)


def test_the_password_goes_into_a_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-word")
    with JudgeServer(good) as server:
        viescore(endpoint(server), *ASKED)
        assert server.headers[0]["Authorization"] == "Bearer a-word"


@pytest.mark.parametrize(
    "said, expected", [(("A", "B"), 1), (("B", "A"), -1), (("A", "A"), 0), (("tie", "B"), 0)]
)
def test_pairs_are_asked_in_both_orders(said: tuple[str, str], expected: int) -> None:
    with JudgeServer(
        lambda asked, count: (200, chat(json.dumps({"better": said[count]})))
    ) as server:
        assert better(endpoint(server), "make it red", [PICTURE], PICTURE, 1 - PICTURE) == expected
        one, other = (asked["messages"][0]["content"] for asked in server.asked)
    assert one[1] == other[1] and one[2:] == other[:1:-1]


@pytest.mark.parametrize(
    "url, model", [("127.0.0.1:8000", "m"), ("ftp://a/v1", "m"), ("http://a/v1", "")]
)
def test_addresses_and_models_are_checked(url: str, model: str) -> None:
    with pytest.raises(InputError, match="address|--judge-model"):
        Endpoint(url, model)
