"""A stand-in for Ray: its face, with tasks that run at once, in this process."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any


class RayError(Exception):
    pass


class RayTaskError(RayError):
    cause: Exception | None = None


class Task:
    """What `remote` gives: hashable, whatever came out. A method that returns an exception stands for a
    worker that died of it."""

    def __init__(self, value: Any) -> None:
        self.value = value


class FakeRay(types.ModuleType):
    """See the module's text; what tests look at and set is in the attributes."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.exceptions = types.SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
        self.options: dict[str, Any] = {}
        self.actor_options: dict[str, Any] = {}
        self.open = False
        self.busy = False
        self.fault: Exception | None = None

        self.actors: list[Actor] = []

    def init(self, **options: Any) -> None:
        if self.fault is not None:
            raise self.fault
        if options["address"] == "ray://none":
            raise ConnectionError("refused")
        self.options, self.open = options, True

    def shutdown(self) -> None:
        self.open = False

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0, "GPU": 3.0}

    def remote(self, **options: Any) -> Callable[[type], Any]:
        def wrap(kind: type) -> Any:
            def make(*arguments: Any) -> Any:
                self.actors.append(Actor(kind(*arguments)))
                return self.actors[-1]

            return types.SimpleNamespace(remote=make)

        self.actor_options = options
        return wrap

    def wait(
        self, tasks: list[Any], timeout: float | None = None, num_returns: int = 1
    ) -> tuple[list[Any], list[Any]]:
        """The one that was begun last is done first."""
        if self.busy:
            return [], tasks
        return tasks[-num_returns:], tasks[:-num_returns]

    def get(self, task: Any, timeout: float | None = None) -> Any:
        value = task.value if isinstance(task, Task) else task
        if isinstance(value, Exception):
            raise value
        return value


class Actor:
    """A worker; `dies` of its next tasks so many times."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.dies = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)

        def remote(*arguments: Any) -> Task:
            if self.dies:
                self.dies -= 1
                return Task(RayError("the worker died"))
            try:
                return Task(method(*arguments))
            except Exception as error:  # noqa: BLE001 - as Ray wraps whatever a task raises
                wrapped = RayTaskError(f"trace\n{error}")
                wrapped.cause = error
                return Task(wrapped)

        return types.SimpleNamespace(remote=remote)
