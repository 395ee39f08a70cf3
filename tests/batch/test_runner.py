"""Rows on several places: who runs what, places that go away, and what stopping leaves."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from fake_comfy import wait_for

from kontext_core.errors import InputError
from kontext_core.tables.rows import Row
from standalone.batch.columns import Columns
from standalone.batch.journal import MANIFEST, Journal
from standalone.batch.place import PlaceLost, Result, RowFailed, RowLost, RowRefused, Stopped
from standalone.batch.plan import PlannedRow, make_jobs
from standalone.batch.runner import Runner, Summary
from standalone.batch.store import Store

PROMPT = {"1": {"class_type": "A", "inputs": {"text": "t", "seed": 3}}}


@dataclass
class FakePlace:
    """`script` gives by row name, per try, what happens; "done" when it is used up."""

    name: str
    script: dict[str, list[Exception]] = field(default_factory=dict)
    back: list[bool] = field(default_factory=list)
    always_away: bool = False
    ran: list[str] = field(default_factory=list)
    resumed: list[str] = field(default_factory=list)
    gate: Event | None = None
    most: int = 0
    active: int = 0
    guard: threading.Lock = field(default_factory=threading.Lock)

    def run(self, job: PlannedRow, sent: Callable[[str], None], stop: Event) -> Result:
        name = job.row.name
        if self.always_away:
            raise PlaceLost(f"{self.name} does not answer")
        with self.guard:
            self.ran.append(name)
            self.active += 1
            self.most = max(self.most, self.active)
        try:
            if job.sent is not None and job.sent[0] == self.name:
                self.resumed.append(name)
            else:
                sent(f"{self.name}-{name}")
            if self.gate is not None:
                while not self.gate.wait(0.01):
                    if stop.is_set():
                        raise Stopped("stopped")
            waiting = self.script.get(name)
            if waiting:
                raise waiting.pop(0)
            return Result([(".png", name.encode())], 1.5)
        finally:
            with self.guard:
                self.active -= 1

    def answers(self) -> bool:
        return not self.always_away and (self.back.pop(0) if self.back else True)


def jobs_of(count: int, *bad: int) -> list[PlannedRow]:
    rows = [
        Row(n, f"r{n}", {"text": str(n)}, "it is bad" if n in bad else "")
        for n in range(1, count + 1)
    ]
    return make_jobs(rows, Columns(PROMPT), Path())


def work(folder: Path, jobs: list[PlannedRow], *places: FakePlace, **options: Any) -> Summary:
    with Journal(folder) as journal:
        return Runner(jobs, places, journal, Store(folder), **options).run()


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / MANIFEST).read_text().splitlines()]


def test_every_row_once_on_all_places(tmp_path: Path) -> None:
    a, b = FakePlace("a"), FakePlace("b")
    summary = work(tmp_path, jobs_of(9, 4), a, b)
    assert sorted(a.ran + b.ran) == [f"r{n}" for n in (1, 2, 3, 5, 6, 7, 8, 9)]
    assert (summary.done, summary.failed, summary.left, summary.already) == (8, 1, 0, 0)
    assert [record["row"] for record in summary.records] == list(range(1, 10))
    assert summary.records[3]["error"] == "it is bad"
    done = summary.records[0]
    assert (done["seed"], done["seconds"], done["lost"]) == (3, 1.5, 0)
    assert (tmp_path / done["files"][0]["file"]).read_bytes() == b"r1"
    for name in {record["name"] for record in events(tmp_path)} - {"r4"}:
        order = [e["event"] for e in events(tmp_path) if e["name"] == name]
        assert order == ["sent", "done"]


def test_no_more_rows_at_a_time_than_asked(tmp_path: Path) -> None:
    gate = Event()
    place = FakePlace("a", gate=gate)
    thread = threading.Thread(target=work, args=(tmp_path, jobs_of(8), place), kwargs={"depth": 3})
    thread.start()
    wait_for(lambda: place.active == 3, "three rows at a time")
    gate.set()
    thread.join()
    assert place.most == 3


def test_again_runs_only_what_is_left(tmp_path: Path) -> None:
    work(tmp_path, jobs_of(3), FakePlace("a", {"r2": [RowFailed("no")]}))
    place = FakePlace("a")
    summary = work(tmp_path, jobs_of(4), place)
    assert place.ran == ["r2", "r4"]
    assert (summary.done, summary.already, summary.failed) == (2, 2, 0)
    assert [record["event"] for record in summary.records] == ["already", "done", "already", "done"]
    # A deleted result is made anew.
    (tmp_path / "r3.png").unlink()
    place = FakePlace("a")
    work(tmp_path, jobs_of(4), place)
    assert place.ran == ["r3"]


def test_a_lost_places_rows_go_elsewhere(tmp_path: Path) -> None:
    """Each of the place's threads finds out by itself; what it had is done by the other."""
    a, b = FakePlace("a", always_away=True), FakePlace("b")
    told: list[str] = []
    summary = work(tmp_path, jobs_of(4), a, b, tell=lambda event, job, text: told.append(event))
    assert sorted(b.ran) == ["r1", "r2", "r3", "r4"]
    assert summary.done == 4
    assert told.count("done") == 4 and set(told) <= {"done", "retry"}


def test_a_place_that_comes_back_goes_on_with_its_own_row(tmp_path: Path) -> None:
    place = FakePlace("a", {"r1": [PlaceLost("gone")]}, back=[False, True])
    summary = work(tmp_path, jobs_of(1), place, depth=1)
    assert (place.ran, place.resumed) == (["r1", "r1"], ["r1"])
    assert summary.done == 1 and summary.records[0]["lost"] == 1


def test_a_row_is_lost_only_so_often(tmp_path: Path) -> None:
    losses: list[Exception] = [RowLost("restarted") for _ in range(9)]
    place = FakePlace("a", {"r1": losses})
    summary = work(tmp_path, jobs_of(2), place, retries=2)
    assert (place.ran.count("r1"), place.resumed) == (3, [])
    assert (summary.done, summary.failed) == (1, 1)
    assert summary.records[0]["error"] == "lost 3 times, the last time: restarted"


def test_a_refused_row_is_tried_on_every_place_once(tmp_path: Path) -> None:
    def refusing(*names: str) -> dict[str, list[Exception]]:
        return {name: [RowRefused("no such file")] for name in names}

    a, b = FakePlace("a", refusing("r1", "r2")), FakePlace("b", refusing("r2"))
    summary = work(tmp_path, jobs_of(3), a, b)
    assert (summary.done, summary.failed) == (2, 1)
    assert summary.records[1]["error"] == "no such file"
    assert a.ran.count("r2") == b.ran.count("r2") == 1


def test_refused_here_and_away_there_is_failed(tmp_path: Path) -> None:
    """Nobody is left who could take it, though one place answers."""
    a = FakePlace("a", {"r1": [RowRefused("no such file")]})
    summary = work(tmp_path, jobs_of(1), a, FakePlace("b", always_away=True), patience=0.3)
    assert (summary.failed, summary.left) == (1, 0)


def test_no_place_left_leaves_rows_left(tmp_path: Path) -> None:
    summary = work(tmp_path, jobs_of(3, 2), FakePlace("a", always_away=True), patience=0.3)
    assert (summary.done, summary.failed, summary.left) == (0, 1, 2)
    # And they are what the next command runs.
    place = FakePlace("a")
    assert work(tmp_path, jobs_of(3, 2), place).done == 2


def test_rows_of_a_crashed_command_are_collected_where_they_went(tmp_path: Path) -> None:
    jobs = jobs_of(3)
    with Journal(tmp_path) as journal:
        about = {"row": 1, "name": "r1", "seed": 77}
        journal.write("sent", key=jobs[0].key, server="b", id="x", **about)
        journal.write("sent", key=jobs[1].key, server="no longer named", id="y", **about)
    a, b = FakePlace("a"), FakePlace("b")
    summary = work(tmp_path, jobs, a, b)
    assert (b.resumed, a.resumed) == (["r1"], [])
    assert summary.done == 3
    # The seed is the one it went out with.
    assert [record["seed"] for record in summary.records] == [77, 3, 3]


def test_what_breaks_inside_a_thread_reaches_the_caller(tmp_path: Path) -> None:
    place = FakePlace("a", {"r1": [ZeroDivisionError("a fault")]})
    with pytest.raises(ZeroDivisionError, match="a fault"):
        work(tmp_path, jobs_of(3), place)


def test_a_full_disk_ends_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise InputError("can't write it; free some space")

    monkeypatch.setattr(Store, "put", full)
    with pytest.raises(InputError, match="free some space"):
        work(tmp_path, jobs_of(3), FakePlace("a"))


def test_ctrl_c_leaves_what_the_next_command_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Event()
    place = FakePlace("a", gate=gate)

    def watch(runner: Runner) -> None:
        wait_for(lambda: place.active == 2, "two rows at a time")
        raise KeyboardInterrupt

    monkeypatch.setattr(Runner, "_watch", watch)
    with Journal(tmp_path) as journal, pytest.raises(KeyboardInterrupt):
        Runner(jobs_of(4), [place], journal, Store(tmp_path)).run()
    assert [event["event"] for event in events(tmp_path)] == ["sent", "sent"]
    monkeypatch.undo()
    gate.set()
    summary = work(tmp_path, jobs_of(4), place)
    assert summary.done == 4 and sorted(place.resumed) == ["r1", "r2"]


def test_several_results_of_one_row(tmp_path: Path) -> None:
    class Two(FakePlace):
        def run(self, job: PlannedRow, sent: Callable[[str], None], stop: Event) -> Result:
            sent("x")
            return Result([(".png", b"1"), (".webp", b"2")])

    summary = work(tmp_path, jobs_of(1), Two("a"))
    files = [entry["file"] for entry in summary.records[0]["files"]]
    assert files == ["r1_1.png", "r1_2.webp"]
