"""A running ComfyUI, or the embedded host, as a place where rows run."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from threading import Event, Lock
from typing import Any, TypeVar

from kontext_core.errors import InputError

from ..prompt import Prompt
from .client import Client, Unreachable
from .place import (
    PlaceLost,
    Result,
    RowFailed,
    RowLost,
    RowRefused,
    Stopped,
    check_status,
    contents_of,
)
from .plan import Picture, PlannedRow

T = TypeVar("T")

# Below the server's input folder. Files are named by content, so a picture is there once.
UPLOADS = "kontext_batch"
# A port that nobody listens on: a restart takes longer, and the queue is gone after it anyway.
REFUSED_SECONDS = 3.0
RETRY_SECONDS = 0.5
FIRST_POLL, LAST_POLL, SLOWER = 0.05, 1.0, 1.3
# Whether it is still queued is asked less often: the answer holds the whole queue.
QUEUE_SECONDS = 5.0


class Server:
    """Threads may share it: each runs a row of its own.

    `patience`: seconds without an answer after which it is taken for lost.
    """

    def __init__(self, client: Client, patience: float = 60.0) -> None:
        self.client = client
        self.name = client.url
        self.patience = patience
        self._uploaded: dict[str, str] = {}
        self._guard = Lock()

    def answers(self) -> bool:
        """Whether it is there."""
        try:
            self.client.get("/queue")
        except Unreachable:
            return False
        return True

    def missing(self, prompt: Prompt) -> list[str]:
        """The node types of a workflow that it does not have, sorted.

        Raises:
            Unreachable: no answer.
        """
        kinds = sorted({node["class_type"] for node in prompt.values()})
        return [kind for kind in kinds if self.client.node(kind) is None]

    def run(self, job: PlannedRow, sent: Callable[[str], None], stop: Event) -> Result:
        """Run a row to its end, or wait for the run it was sent as."""
        prompt_id = self._running(job, stop)
        if prompt_id is None:
            names = {picture.digest: self._bring(picture, stop) for picture in job.pictures}
            prompt_id = str(uuid.uuid4())
            sent(prompt_id)
            self._submit(job.with_pictures(names), prompt_id, stop)
        return self._result(self._wait(prompt_id, stop), stop)

    def _running(self, job: PlannedRow, stop: Event) -> str | None:
        """The id under which an earlier command, or an earlier try, left the row here."""
        if job.sent is None or job.sent[0] != self.name:
            return None
        return job.sent[1] if self._knows(job.sent[1], stop) else None

    def _knows(self, prompt_id: str, stop: Event) -> bool:
        def ask() -> bool:
            client = self.client
            # It may end between the first two questions.
            return (
                client.history(prompt_id) is not None
                or client.is_queued(prompt_id)
                or client.history(prompt_id) is not None
            )

        return self._steady(ask, stop)

    def _bring(self, picture: Picture, stop: Event) -> str:
        """What the server calls a picture, which is brought there once."""
        with self._guard:
            if picture.digest in self._uploaded:
                return self._uploaded[picture.digest]
        try:
            content = picture.path.read_bytes()
        except OSError as error:
            raise RowFailed(f"the picture {picture.path} can't be read ({error})") from error
        name = picture.digest[:32] + picture.path.suffix.lower()
        try:
            there = self._steady(lambda: self.client.upload(name, content, UPLOADS), stop)
        except InputError as error:
            raise RowRefused(str(error)) from error
        with self._guard:
            self._uploaded[picture.digest] = there
        return there

    def _submit(self, prompt: Prompt, prompt_id: str, stop: Event) -> None:
        began: float | None = None
        while True:
            try:
                refusal = self.client.submit(prompt, prompt_id)
            except Unreachable as error:
                began = began or time.monotonic()
                self._hold_on(error, began, stop)
                # The answer may have been lost, not the question.
                if self._knows(prompt_id, stop):
                    return
                continue
            if refusal:
                with self._guard:
                    # It may miss a picture that somebody deleted there.
                    self._uploaded.clear()
                raise RowRefused(refusal)
            return

    def _wait(self, prompt_id: str, stop: Event) -> dict[str, Any]:
        """The history's entry of a run once it has ended."""
        pause, asked = FIRST_POLL, time.monotonic()
        while True:
            entry = self._steady(lambda: self.client.history(prompt_id), stop)
            if entry is not None:
                return entry
            if time.monotonic() - asked > QUEUE_SECONDS:
                if not self._knows(prompt_id, stop):
                    raise RowLost(f"{self.name} was restarted and has forgotten the row")
                asked = time.monotonic()
            if stop.wait(pause):
                self._withdraw(prompt_id)
                raise Stopped("stopped")
            pause = min(pause * SLOWER, LAST_POLL)

    def _withdraw(self, prompt_id: str) -> None:
        try:
            self.client.withdraw(prompt_id)
        except Unreachable:
            # The next command finds out what became of it.
            pass

    def _result(self, entry: dict[str, Any], stop: Event) -> Result:
        seconds = check_status(entry)
        files = []
        for file in contents_of(entry):
            content = self._steady(lambda file=file: self.client.download(file), stop)
            if content is None:
                raise RowLost(f"{self.name} no longer has the result {file['filename'][:100]!r}")
            files.append((_suffix(file["filename"]), content))
        if not files:
            raise RowFailed("the workflow gave no file; end it with a Save Image node")
        return Result(files, seconds)

    def _steady(self, call: Callable[[], T], stop: Event) -> T:
        """A call's answer, asked for again while the server is only slow."""
        began: float | None = None
        while True:
            try:
                return call()
            except Unreachable as error:  # noqa: PERF203 - a network call costs a thousand times more
                began = began or time.monotonic()
                self._hold_on(error, began, stop)

    def _hold_on(self, error: Unreachable, began: float, stop: Event) -> None:
        limit = min(REFUSED_SECONDS, self.patience) if error.refused else self.patience
        if time.monotonic() - began >= limit:
            raise PlaceLost(str(error)) from error
        if stop.wait(RETRY_SECONDS):
            raise Stopped("stopped")


def _suffix(name: str) -> str:
    """A file's ending, if it is a plain one; names of a server decide nothing else."""
    found = re.search(r"\.[A-Za-z0-9]{1,8}$", name)
    return found[0].lower() if found else ".bin"
