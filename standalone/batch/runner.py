"""Rows to places and back: who works on what, and what happens when a place is lost."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition, Event, Thread
from typing import Any

from .journal import Journal
from .place import Place, PlaceLost, Result, RowFailed, RowLost, RowRefused, Stopped
from .plan import PlannedRow
from .store import Store

log = logging.getLogger(__name__)

FIRST_PROBE, LAST_PROBE = 0.5, 15.0
# How long threads may take to put things away once the batch is to end.
GOODBYE_SECONDS = 5.0


@dataclass
class Summary:
    """How a batch went. `records` are the rows' last events, in the order of the rows."""

    folder: Path
    done: int = 0
    already: int = 0
    failed: int = 0
    left: int = 0
    records: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class _State:
    """What threads share about a place. `away_since` is None while it answers."""

    place: Place
    away_since: float | None = None


class Runner:
    """Works through jobs on several places at once, `depth` rows each.

    A row whose place is lost goes elsewhere, at most `retries` times; a place that comes back
    gets rows again. When none has answered for `patience` seconds, what is left stays left.
    """

    def __init__(
        self,
        jobs: Sequence[PlannedRow],
        places: Sequence[Place],
        journal: Journal,
        store: Store,
        *,
        depth: int = 2,
        retries: int = 3,
        patience: float = 60.0,
        tell: Callable[[str, PlannedRow, str], None] | None = None,
    ) -> None:
        """`tell(event, job, text)` hears of "already", "done", "failed" and "retry"."""
        self.jobs = list(jobs)
        self.states = [_State(place) for place in places]
        self.journal, self.store = journal, store
        self.depth, self.retries, self.patience = depth, retries, patience
        self.tell = tell or (lambda *_: None)
        self.summary = Summary(store.folder)
        self._records: dict[str, dict[str, Any]] = {}
        self._pending: deque[PlannedRow] = deque()
        self._active = 0
        # Reentrant: telling of a failed row happens inside as well as outside.
        self._change = Condition()
        self._stop = Event()
        self._fault: BaseException | None = None

    def run(self) -> Summary:
        """Work until every row has ended or no place is left.

        Raises:
            InputError: a result or the manifest can't be written.
            KeyboardInterrupt: Ctrl-C; what waits on servers is withdrawn, and what runs there is
                collected by the next command.
        """
        self._sort_out()
        names = {state.place.name for state in self.states}
        for job in self._pending:
            if job.sent is not None and job.sent[0] not in names:
                job.sent = None
        threads = [
            Thread(target=self._thread, args=(state,), name=f"{state.place.name} {i}", daemon=True)
            for state in self.states
            for i in range(min(self.depth, max(len(self._pending), 1)))
        ]
        try:
            for thread in threads:
                thread.start()
            self._watch()
        finally:
            self._stop.set()
            with self._change:
                self._change.notify_all()
            end = time.monotonic() + GOODBYE_SECONDS
            for thread in threads:
                thread.join(max(0.0, end - time.monotonic()))
        if self._fault is not None:
            raise self._fault
        return self.finish()

    def finish(self) -> Summary:
        """The summary as of now."""
        summary = self.summary
        summary.records = [self._records[job.key] for job in self.jobs if job.key in self._records]
        summary.left = len(self.jobs) - summary.done - summary.already - summary.failed
        return summary

    def _sort_out(self) -> None:
        """What is finished already, what can't run, what is left to do."""
        for job in self.jobs:
            record = self.journal.finished(job.key)
            if record is not None:
                self.summary.already += 1
                self._records[job.key] = {**record, "event": "already"}
                self.tell("already", job, "")
            elif job.problem:
                self._failed(job, "", job.problem)
            else:
                sent = self.journal.sent(job.key)
                if sent is not None:
                    job.sent, job.sent_seed = (sent["server"], sent["id"]), sent.get("seed")
                self._pending.append(job)

    def _watch(self) -> None:
        with self._change:
            while (self._pending or self._active) and self._fault is None:
                now = time.monotonic()
                here = {
                    state.place.name
                    for state in self.states
                    if state.away_since is None or now - state.away_since <= self.patience
                }
                if not here:
                    log.warning("no server has answered for %.0f s", self.patience)
                    return
                for job in [j for j in self._pending if j.refused and not here - set(j.refused)]:
                    self._pending.remove(job)
                    self._failed(job, *list(job.refused.items())[-1])
                # Short, so that Ctrl-C is heard on every system.
                self._change.wait(0.2)

    def _thread(self, state: _State) -> None:
        try:
            self._work(state)
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            with self._change:
                self._fault = self._fault or error
                self._change.notify_all()

    def _work(self, state: _State) -> None:
        while not self._is_over():
            self._wait_until_back(state)
            job = self._take(state)
            if job is None:
                continue
            try:
                self._run(state.place, job)
            except Stopped:
                self._give_back(job)
                return
            except RowFailed as error:
                self._failed(job, state.place.name, str(error))
                self._release()
            except RowRefused as error:
                self._refused(job, state.place.name, str(error))
            except RowLost as error:
                # Nothing is left there to go on with.
                job.sent = None
                self._lost(job, state.place.name, str(error))
            except PlaceLost as error:
                with self._change:
                    state.away_since = state.away_since or time.monotonic()
                log.warning("%s; its rows go elsewhere", error)
                self._lost(job, state.place.name, str(error))

    def _run(self, place: Place, job: PlannedRow) -> None:
        began = time.monotonic()
        about = {"key": job.key, "row": job.row.number, "name": job.row.name, "server": place.name}

        def sent(prompt_id: str) -> None:
            job.sent, job.sent_seed = (place.name, prompt_id), job.seed
            self.journal.write("sent", **about, id=prompt_id, seed=job.seed)

        result = place.run(job, sent, self._stop)
        files = self._keep(job, result)
        record = self.journal.write(
            "done",
            **about,
            id=job.sent[1] if job.sent else "",
            seed=job.sent_seed,
            seconds=result.seconds,
            total_seconds=round(time.monotonic() - began, 3),
            lost=job.attempts,
            files=files,
        )
        with self._change:
            self._records[job.key] = record
            self.summary.done += 1
        self.tell("done", job, place.name)
        self._release()

    def _keep(self, job: PlannedRow, result: Result) -> list[dict[str, Any]]:
        several = len(result.files) > 1
        return [
            self.store.put(f"{job.row.name}_{index}" if several else job.row.name, suffix, content)
            for index, (suffix, content) in enumerate(result.files, 1)
        ]

    def _take(self, state: _State) -> PlannedRow | None:
        """The next job for a place; waits while others may still give some back. None when there
        will be none, or the place is away."""
        with self._change:
            while not self._is_over() and state.away_since is None:
                for job in self._pending:
                    if self._is_for(job, state):
                        self._pending.remove(job)
                        self._active += 1
                        return job
                self._change.wait(0.5)
        return None

    def _is_over(self) -> bool:
        return self._stop.is_set() or not (self._pending or self._active)

    def _is_for(self, job: PlannedRow, state: _State) -> bool:
        if state.place.name in job.refused:
            return False
        if job.sent is None or job.sent[0] == state.place.name:
            return True
        home = next((s for s in self.states if job.sent and s.place.name == job.sent[0]), None)
        # Where it may be running already, unless that place is away.
        return home is None or home.away_since is not None

    def _release(self) -> None:
        with self._change:
            self._active -= 1
            self._change.notify_all()

    def _give_back(self, job: PlannedRow) -> None:
        with self._change:
            self._pending.appendleft(job)
            self._active -= 1
            self._change.notify_all()

    def _lost(self, job: PlannedRow, name: str, reason: str) -> None:
        job.attempts += 1
        if job.attempts > self.retries:
            self._failed(job, name, f"lost {job.attempts} times, the last time: {reason}")
            self._release()
            return
        self.tell("retry", job, reason)
        self._give_back(job)

    def _refused(self, job: PlannedRow, name: str, reason: str) -> None:
        job.refused[name] = reason
        job.sent = None
        if all(state.place.name in job.refused for state in self.states):
            self._failed(job, name, reason)
            self._release()
            return
        self.tell("retry", job, reason)
        self._give_back(job)

    def _failed(self, job: PlannedRow, server: str, reason: str) -> None:
        record = self.journal.write(
            "failed", key=job.key, row=job.row.number, name=job.row.name, server=server,
            seed=job.seed, error=reason,
        )  # fmt: skip
        with self._change:
            self._records[job.key] = record
            self.summary.failed += 1
        self.tell("failed", job, reason)

    def _wait_until_back(self, state: _State) -> None:
        pause = FIRST_PROBE
        while state.away_since is not None and not self._is_over():
            if state.place.answers():
                with self._change:
                    state.away_since = None
                    self._change.notify_all()
                return
            self._stop.wait(pause)
            pause = min(pause * 2, LAST_PROBE)
