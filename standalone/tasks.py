"""The queue of jobs, the thread that works on them, and the history of finished ones."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from .engine import Engine, Job, Outcome, described
from .runtime import Listener

log = logging.getLogger(__name__)
MAX_HISTORY = 10_000


@dataclass(order=True)
class QueuedTask:
    """A queued job; smaller numbers run first."""

    number: float
    order: int
    job: Job = field(compare=False)
    listener: Listener = field(compare=False)

    def as_list(self) -> list[Any]:
        """The job as queue and history show it."""
        job = self.job
        return [self.number, job.prompt_id, job.prompt, job.extra_data, job.outputs]


class _Guarded:
    """Passes messages on to a listener; what that raises is logged and stops nobody."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener

    def send(self, event: str, data: dict[str, Any]) -> None:
        try:
            self.listener.send(event, data)
        except Exception:  # a run is worth more than a message about it
            log.exception("the message %r could not be sent", event)

    def preview(self, image: Image.Image, node: dict[str, Any]) -> None:
        try:
            self.listener.preview(image, node)
        except Exception:  # as above
            log.exception("a preview could not be sent")


class TaskQueue:
    """Runs tasks one after the other in a thread of its own."""

    def __init__(self, engine: Engine, on_change: Callable[[], None]) -> None:
        """`on_change` is called, from any thread, whenever the number of tasks changes."""
        self.engine = engine
        self.on_change = on_change
        self.history: dict[str, dict[str, Any]] = {}
        self.running: QueuedTask | None = None
        self._waiting: list[QueuedTask] = []
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
            heapq.heappush(self._waiting, QueuedTask(number, next(self._order), job, listener))
            self._lock.notify()
        self._tell()

    def remaining(self) -> int:
        """How many tasks run or wait."""
        with self._lock:
            return len(self._waiting) + (self.running is not None)

    def snapshot(self) -> tuple[list[QueuedTask], list[QueuedTask]]:
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
            self._tell()
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

    def _next(self) -> QueuedTask | None:
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
            self._work_once()

    def _work_once(self) -> None:
        try:
            task = self._next()
            if task is not None:
                self._finish(task)
        except BaseException:  # noqa: BLE001 - if this thread ends, nothing ever runs again
            log.exception("the queue's worker goes on after a fault of its own")

    def _finish(self, task: QueuedTask) -> None:
        listener = _Guarded(task.listener)
        try:
            self._tell()
            outcome = self._run(task, listener)
            with self._lock:
                self._remember(task, outcome)
        finally:
            with self._lock:
                self.running = None
            self._tell()
            listener.send("executing", {"node": None, "prompt_id": task.job.prompt_id})

    def _tell(self) -> None:
        try:
            self.on_change()
        except Exception:  # the number of tasks is only told, nothing depends on it
            log.exception("the change of the queue could not be told")

    def _run(self, task: QueuedTask, listener: Listener) -> Outcome:
        try:
            return self.engine.run(task.job, listener)
        except BaseException as error:  # noqa: BLE001 - a node may even call sys.exit
            log.exception("run %s failed outside of any node", task.job.prompt_id)
            told = described(error) | {
                "prompt_id": task.job.prompt_id,
                "node_id": "",
                "node_type": "",
                "executed": [],
                "current_inputs": {},
                "current_outputs": [],
                "timestamp": int(time.time() * 1000),
            }
            listener.send("execution_error", told)
            return Outcome("error", messages=[["execution_error", told]], error=told)

    def _remember(self, task: QueuedTask, outcome: Outcome) -> None:
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
