"""The queue of jobs, the thread that works on them, and the history of finished ones."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .engine import Engine, Job, Outcome
from .errors import Interrupted
from .runtime import Listener

__all__ = ["Task", "TaskQueue"]

log = logging.getLogger(__name__)
MAX_HISTORY = 10_000


@dataclass(order=True)
class Task:
    """A queued job; smaller numbers run first."""

    number: float
    order: int
    job: Job = field(compare=False)
    listener: Listener = field(compare=False)

    def as_list(self) -> list[Any]:
        """The job as queue and history show it."""
        job = self.job
        return [self.number, job.prompt_id, job.prompt, job.extra_data, job.outputs]


class TaskQueue:
    """Runs tasks one after the other in a thread of its own."""

    def __init__(self, engine: Engine, on_change: Callable[[], None]) -> None:
        """`on_change` is called, from any thread, whenever the number of tasks changes."""
        self.engine = engine
        self.on_change = on_change
        self.history: dict[str, dict[str, Any]] = {}
        self.running: Task | None = None
        self._waiting: list[Task] = []
        self._order = itertools.count()
        self._lock = threading.Condition()
        self._free = False
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="worker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stops after the current step and drops what waits."""
        with self._lock:
            self._closed = True
            self._waiting.clear()
            if self.running is not None:
                self.engine.runtime.interrupt()
            self._lock.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def put(self, number: float, job: Job, listener: Listener) -> None:
        with self._lock:
            heapq.heappush(self._waiting, Task(number, next(self._order), job, listener))
            self._lock.notify()
        self.on_change()

    def remaining(self) -> int:
        """How many tasks run or wait."""
        with self._lock:
            return len(self._waiting) + (self.running is not None)

    def snapshot(self) -> tuple[list[Task], list[Task]]:
        """(running, waiting in their order)."""
        with self._lock:
            return ([self.running] if self.running else []), sorted(self._waiting)

    def remove(self, prompt_id: str | None = None) -> bool:
        """Takes one waiting task, or all of them, out. Returns whether there was one."""
        with self._lock:
            kept = [t for t in self._waiting if prompt_id not in (None, t.job.prompt_id)]
            removed = len(kept) < len(self._waiting)
            self._waiting = kept
            heapq.heapify(self._waiting)
        if removed:
            self.on_change()
        return removed

    def interrupt(self, prompt_id: str | None = None) -> bool:
        """Stops the running task, if it is the one named. Returns whether it was told to.

        Under the lock, so that the wish can't reach a task that starts in the meantime.
        """
        with self._lock:
            if self.running is None or prompt_id not in (None, self.running.job.prompt_id):
                return False
            self.engine.runtime.interrupt()
            return True

    def free(self) -> None:
        """Forgets cached outputs (and so the models in them) before the next task."""
        with self._lock:
            self._free = True
            self._lock.notify()

    def _next(self) -> Task | None:
        with self._lock:
            while not self._waiting and not self._closed and not self._free:
                self._lock.wait()
            if self._free:
                self.engine.cache.clear()
                self._free = False
            if self._closed or not self._waiting:
                return None
            self.engine.runtime.forget_interrupt()
            self.running = heapq.heappop(self._waiting)
            return self.running

    def _work(self) -> None:
        while not self._closed:
            task = self._next()
            if task is None:
                continue
            self.on_change()
            outcome = self._run(task)
            with self._lock:
                self.running = None
                self._remember(task, outcome)
            self.on_change()
            task.listener.send("executing", {"node": None, "prompt_id": task.job.prompt_id})

    def _run(self, task: Task) -> Outcome:
        try:
            return self.engine.run(task.job, task.listener)
        except (Exception, Interrupted) as error:
            # The worker must outlive a fault of the engine, or nothing would ever run again.
            log.exception("run %s failed outside of any node", task.job.prompt_id)
            return Outcome(status="error", error={"exception_message": str(error)})

    def _remember(self, task: Task, outcome: Outcome) -> None:
        while len(self.history) >= MAX_HISTORY:
            del self.history[next(iter(self.history))]
        self.history[task.job.prompt_id] = {
            "prompt": task.as_list(),
            "outputs": outcome.outputs,
            "status": {
                "status_str": outcome.status,
                "completed": outcome.status == "success",
                "messages": outcome.messages,
            },
            "meta": outcome.meta(),
        }
