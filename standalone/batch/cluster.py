"""Rows as tasks on a Ray cluster: each worker runs the workflow in its own process, no server.

How workers come and go stands in `kontext_core.cluster`.
"""

from __future__ import annotations

import importlib
import os
import uuid
from collections.abc import Callable
from threading import Event
from typing import Any

from kontext_core.cluster import START_SECONDS, Workers
from kontext_core.errors import InputError

from ..loader import pack_root
from .place import PlaceLost, Result, RowFailed, RowRefused, Stopped
from .plan import PlannedRow
from .server import UPLOADS

# Who runs a prompt in a worker's process, by name, as only that process imports it. It is called
# with the folder of models and has `run(prompt, pictures)`.
RUNNER = "standalone.batch.worker:Worker"
LOOK_SECONDS = 0.25


class Remote:
    """What lives in a worker's process."""

    def __init__(self, runner: str, models: str | None) -> None:
        module, _, name = runner.partition(":")
        self.runner = getattr(importlib.import_module(module), name)(models)

    def ready(self) -> bool:
        """True, once it has started."""
        return True

    def run(self, prompt: dict[str, Any], pictures: dict[str, bytes]) -> dict[str, Any]:
        """See the runner."""
        return self.runner.run(prompt, pictures)


class Cluster:
    """The workers of a Ray cluster as places where rows run. Use as a context; they end with it."""

    def __init__(
        self, address: str = "", workers: int = 0, models: str | None = None, runner: str = RUNNER
    ) -> None:
        """
        Args:
            address, workers: as `Workers` has them.
            models: folder of models on every machine; None takes that of the checkout.

        Raises:
            InputError: as `Workers`; or this is not a checkout.
        """
        root = pack_root()
        if runner == RUNNER and not (root / "nodes").is_dir():
            raise InputError(
                f"--ray runs the pack's nodes, and there are none in {root}; run it from a "
                "checkout of the project"
            )
        self.workers = Workers(
            Remote, runner, models, root=root, environment=os.environ, address=address, count=workers,
            instead="or use --server",
        )  # fmt: skip

    def __enter__(self) -> list[WorkerPlace]:
        ray, actors = self.workers.ray, self.workers.actors
        return [WorkerPlace(ray, actor, f"ray-{i}") for i, actor in enumerate(actors, 1)]

    def __exit__(self, *failure: object) -> None:
        self.workers.__exit__(*failure)


class WorkerPlace:
    """One worker process as a place where rows run."""

    def __init__(self, ray: Any, actor: Any, name: str) -> None:
        self.ray, self.actor, self.name = ray, actor, name

    def answers(self) -> bool:
        """Whether it is there, or there again: Ray starts it anew after a crash."""
        try:
            return bool(self.ray.get(self.actor.ready.remote(), timeout=START_SECONDS))
        except self.ray.exceptions.RayError:
            return False

    def run(self, job: PlannedRow, sent: Callable[[str], None], stop: Event) -> Result:
        """Run a row to its end. What an earlier command sent is gone with its workers."""
        names, pictures = {}, {}
        for picture in job.pictures:
            name = f"{UPLOADS}/{picture.digest[:32]}{picture.path.suffix.lower()}"
            names[picture.digest] = name
            try:
                pictures[name] = picture.path.read_bytes()
            except OSError as error:
                raise RowFailed(f"the picture {picture.path} can't be read ({error})") from error
        sent(str(uuid.uuid4()))
        task = self.actor.run.remote(job.with_pictures(names), pictures)
        while not self.ray.wait([task], timeout=LOOK_SECONDS)[0]:
            if stop.is_set():
                raise Stopped("stopped")
        try:
            found = self.ray.get(task)
        except self.ray.exceptions.RayTaskError as error:
            raise RowFailed(str(error.cause or error).strip().splitlines()[-1]) from error
        except self.ray.exceptions.RayError as error:
            raise PlaceLost(f"{self.name} died ({type(error).__name__})") from error
        if "refused" in found:
            raise RowRefused(found["refused"])
        if "failed" in found:
            raise RowFailed(found["failed"])
        if not found["files"]:
            raise RowFailed("the workflow gave no file; end it with a Save Image node")
        return Result([(suffix, content) for suffix, content in found["files"]], found["seconds"])
