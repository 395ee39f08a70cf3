"""The HTTP side, on a server that loses answers, forgets, refuses, and asks for a password."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest
from fake_comfy import FakeComfy, wait_for

from kontext_core.errors import InputError
from kontext_core.tables.rows import Row
from standalone.batch import server as server_module
from standalone.batch.client import Client, Unreachable, refusal
from standalone.batch.columns import Columns
from standalone.batch.place import PlaceLost, RowFailed, RowLost, RowRefused, Stopped
from standalone.batch.plan import PlannedRow, make_jobs
from standalone.batch.server import Server

PROMPT = {
    "5": {"class_type": "LoadImage", "inputs": {"image": "x.png"}},
    "8": {"class_type": "Edit", "inputs": {"image": ["5", 0], "prompt": "", "seed": 1}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0]}},
}


@pytest.fixture
def fake() -> Iterator[FakeComfy]:
    made = FakeComfy().start()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(server_module, "QUEUE_SECONDS", 0.05)
    monkeypatch.setattr(server_module, "LAST_POLL", 0.05)


def job(folder: Path, prompt: str = "words", picture: str = "a.png") -> PlannedRow:
    (folder / picture).write_bytes(b"pixels of " + picture.encode())
    rows = [Row(1, "n", {"prompt": prompt, "image": picture})]
    return make_jobs(rows, Columns(PROMPT), folder)[0]


def run(
    fake: FakeComfy, one: PlannedRow, patience: float = 1.0, stop: Event | None = None
) -> bytes:
    server = Server(Client(fake.url), patience)
    sent: list[str] = []
    result = server.run(one, sent.append, stop or Event())
    [(suffix, content)] = result.files
    assert (suffix, result.seconds) == (".png", 2.5)
    return content


def test_a_row_goes_there_with_its_picture_and_comes_back(fake: FakeComfy, tmp_path: Path) -> None:
    one = job(tmp_path)
    sent = json.loads(run(fake, one))
    digest = one.pictures[0].digest
    assert sent["8"]["inputs"] == {"image": ["5", 0], "prompt": "words", "seed": 1}
    assert sent["5"]["inputs"]["image"] == f"kontext_batch/{digest[:32]}.png"
    assert fake.files[sent["5"]["inputs"]["image"]] == b"pixels of a.png"


def test_the_same_picture_is_brought_once(fake: FakeComfy, tmp_path: Path) -> None:
    server = Server(Client(fake.url))
    for prompt in ("a", "b"):
        server.run(job(tmp_path, prompt), lambda _: None, Event())
    fake.files = {key: b"" for key in fake.files if not key.startswith("kontext_batch")}
    server.run(job(tmp_path, "c"), lambda _: None, Event())
    assert not any(key.startswith("kontext_batch") for key in fake.files)
    # A refusal may mean that somebody deleted it, so then it is brought again.
    fake.refusals = {"no": "x"}
    with pytest.raises(RowRefused, match=r"node 5 \(LoadImage\): Value not in list: x"):
        server.run(job(tmp_path, "no"), lambda _: None, Event())
    fake.refusals = {}
    server.run(job(tmp_path, "d"), lambda _: None, Event())
    assert any(key.startswith("kontext_batch") for key in fake.files)


def test_the_id_is_known_before_the_row_goes_out(fake: FakeComfy, tmp_path: Path) -> None:
    """A crash in between leaves a note of a run that is not there, never a run without a note."""
    noted: list[str] = []

    def sent(prompt_id: str) -> None:
        assert prompt_id not in fake.runs
        noted.append(prompt_id)

    Server(Client(fake.url)).run(job(tmp_path), sent, Event())
    assert noted == list(fake.runs)


@pytest.mark.parametrize("path", ["/prompt", "/upload/image", "/view"])
@pytest.mark.parametrize("times", [1, 3])
def test_lost_answers_repeat_nothing(
    path: str, times: int, fake: FakeComfy, tmp_path: Path
) -> None:
    """The fake refuses to run one id twice."""
    fake.lost_answers = {path: times}
    run(fake, job(tmp_path))
    assert len(fake.runs) == 1
    # A run that is found to be there is not sent again.
    assert fake.lost_answers[path] == (times - 1 if path == "/prompt" else 0)


def test_a_slow_run_is_waited_for(fake: FakeComfy, tmp_path: Path) -> None:
    fake.held = {"words"}
    results: list[bytes] = []
    thread = threading.Thread(target=lambda: results.append(run(fake, job(tmp_path))))
    thread.start()
    wait_for(lambda: fake.queue, "the row is queued")
    # Long enough for the queue to be asked as well.
    thread.join(0.3)
    assert results == []
    fake.finish(fake.queue[0])
    thread.join()
    assert len(results) == 1


def test_a_server_that_forgets_has_lost_the_row(fake: FakeComfy, tmp_path: Path) -> None:
    fake.held = {"words"}
    errors: list[BaseException] = []

    def work() -> None:
        try:
            run(fake, job(tmp_path))
        except RowLost as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    wait_for(lambda: fake.queue, "the row is queued")
    fake.forget()
    thread.join()
    assert "was restarted" in str(errors[0])


def test_a_server_that_goes_away_is_lost(fake: FakeComfy, tmp_path: Path) -> None:
    fake.held = {"words"}
    errors: list[BaseException] = []

    def work() -> None:
        try:
            run(fake, job(tmp_path), patience=0.2)
        except PlaceLost as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    wait_for(lambda: fake.queue, "the row is queued")
    fake.stop()
    thread.join()
    assert "does not answer" in str(errors[0])
    assert not Server(Client(fake.url)).answers()


def test_an_earlier_run_is_gone_on_with(fake: FakeComfy, tmp_path: Path) -> None:
    one = job(tmp_path)
    Server(Client(fake.url)).run(one, lambda key: setattr(one, "sent", (fake.url, key)), Event())
    assert len(fake.runs) == 1
    run(fake, one)
    assert len(fake.runs) == 1
    # Unless the server knows nothing of it any more.
    fake.forget()
    run(fake, one)
    assert len(fake.runs) == 2
    one.sent = ("http://another", next(iter(fake.runs)))
    run(fake, one)
    assert len(fake.runs) == 3


def test_errors_of_the_workflow(fake: FakeComfy, tmp_path: Path) -> None:
    fake.errors = {"words": "CUDA out of memory\n"}
    with pytest.raises(RowFailed, match=r"^node 8 \(Edit\): OutOfMemoryError: CUDA out of memory$"):
        run(fake, job(tmp_path))


def test_a_run_without_files(fake: FakeComfy, tmp_path: Path) -> None:
    one = job(tmp_path)
    fake.held = {"words"}
    thread_error: list[BaseException] = []

    def work() -> None:
        try:
            run(fake, one)
        except RowFailed as error:
            thread_error.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    wait_for(lambda: fake.queue, "the row is queued")
    fake.history[fake.queue[0]] = {"outputs": {}, "status": None}
    thread.join()
    assert "end it with a Save Image node" in str(thread_error[0])


@pytest.mark.parametrize(
    ("name", "suffix"),
    [(".PNG", ".png"), ("/../../x", ".bin"), (".p/g", ".bin"), ("", ".bin"), (".webp", ".webp")],
)
def test_a_servers_names_decide_only_the_ending(
    name: str, suffix: str, fake: FakeComfy, tmp_path: Path
) -> None:
    fake.suffix = name
    result = Server(Client(fake.url)).run(job(tmp_path), lambda _: None, Event())
    assert [ending for ending, _ in result.files] == [suffix]


def test_stopping_withdraws_what_still_waits(fake: FakeComfy, tmp_path: Path) -> None:
    fake.held = {""}
    stop = Event()
    ended: list[str] = []

    def work(prompt: str) -> None:
        try:
            run(fake, job(tmp_path, prompt), stop=stop)
        except Stopped:
            ended.append(prompt)

    threads = []
    for number, prompt in enumerate(("first", "second"), 1):
        threads.append(threading.Thread(target=work, args=(prompt,)))
        threads[-1].start()
        wait_for(lambda number=number: len(fake.queue) == number, "the row is queued")
    running = fake.queue[0]
    stop.set()
    for thread in threads:
        thread.join()
    assert sorted(ended) == ["first", "second"]
    # The one that runs stays, and is collected by the next command.
    assert fake.queue == [running] and len(fake.withdrawn) == 2


def test_urls() -> None:
    assert Client("localhost:8188/").url == "http://localhost:8188"
    assert Client("https://[::1]:8/a/").url == "https://[::1]:8/a"
    for url in ("ftp://x", "http://", "http://x:port", "http://x:99999"):
        with pytest.raises(InputError, match="is no"):
            Client(url)


def test_a_password_goes_into_a_header_only(fake: FakeComfy) -> None:
    client = Client(fake.url.replace("://", "://me:s%20cret@"))
    assert client.url == fake.url
    client.get("/queue")
    assert fake.authorization[-1] == "Basic bWU6cyBjcmV0"
    fake.stop()
    with pytest.raises(Unreachable) as caught:
        client.get("/queue")
    assert "cret" not in str(caught.value) and caught.value.refused


def test_something_else_than_comfyui(fake: FakeComfy) -> None:
    client = Client(fake.url)
    with pytest.raises(Unreachable, match="is this ComfyUI"):
        client.get("/unknown")
    fake.files["page"] = b"<html>"
    with pytest.raises(Unreachable, match="is this ComfyUI"):
        client.get("/view?filename=page")
    assert Server(client).missing(PROMPT) == []
    assert Server(client).missing({"1": {"class_type": "a/b ?", "inputs": {}}}) == ["a/b ?"]


REFUSALS = [
    (b"<html>", "<html>"),
    (b'{"error": "No prompt"}', "No prompt"),
    (b'{"error": {"message": "m", "details": "d"}, "node_errors": {}}', "m d"),
    (b'{"error": {"message": "m", "details": "d"}, "node_errors": {"3": {}}}', "m d"),
    (b"[]", "[]"),
]


@pytest.mark.parametrize(("body", "text"), REFUSALS)
def test_reasons_of_a_refusal(body: bytes, text: str) -> None:
    assert refusal(body) == text
