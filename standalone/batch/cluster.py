"""Rows as tasks on a Ray cluster: each worker runs the workflow in its own process, no server.

Ray is an optional extra and is imported only when asked for. Every machine of the cluster needs
this project in the same place, with what it requires.
"""

from __future__ import annotations

import importlib
import os
import uuid
from collections.abc import Callable
from threading import Event
from typing import Any

from kontext_core.errors import InputError

from ..loader import pack_root
from .place import PlaceLost, Result, RowFailed, RowRefused, Stopped
from .plan import PlannedRow
from .server import UPLOADS

# Who runs a prompt in a worker's process, by name, as only that process imports it. It is called
# with the folder of models and has `run(prompt, pictures)`.
RUNNER = "standalone.batch.worker:Worker"
LOOK_SECONDS = 0.25
START_SECONDS = 300.0
# How long Ray waits for helpers of its own when it starts on this machine. It gives up after seconds
# where other work keeps the processor busy: "Timed out waiting for file .../metrics_agent_port".
PATIENCE = "RAY_agent_register_timeout_ms"


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
    """A connection to Ray, and the workers on it. Use as a context; workers end with it."""

    def __init__(
        self, address: str = "", workers: int = 0, models: str | None = None, runner: str = RUNNER
    ) -> None:
        """
        Args:
            address: "auto" or "ray://host:10001" for a running cluster, "" starts one here.
            workers: how many; 0 takes one for each GPU, or one where there is none.
            models: folder of models on every machine; None takes that of the checkout.

        Raises:
            InputError: Ray is not installed, no cluster there, or this is not a checkout.
        """
        try:
            import ray
        except ImportError as error:
            raise InputError(
                "--ray needs Ray, which is not installed; pip install ray, here and on every "
                "machine of the cluster, or use --server"
            ) from error
        root = pack_root()
        if runner == RUNNER and not (root / "nodes").is_dir():
            raise InputError(
                f"--ray runs the pack's nodes, and there are none in {root}; run it from a "
                "checkout of the project"
            )
        self.ray = ray
        # Only for the workers: this process has its own imports.
        paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}}
        if not address:
            os.environ.setdefault(PATIENCE, f"{START_SECONDS * 1000:.0f}")
        try:
            ray.init(
                address=address or None, runtime_env=environment, log_to_driver=False,
                include_dashboard=False if not address else None,
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - Ray raises the bare class itself
            where = f"there is no Ray cluster at {address!r}" if address else "Ray does not start"
            raise InputError(f"{where} ({str(error).strip()[:300]})") from error
        gpus = int(ray.cluster_resources().get("GPU", 0))
        self.count = workers or max(gpus, 1)
        share = min(1.0, gpus / self.count) if gpus else 0
        remote = ray.remote(num_gpus=share, max_restarts=-1, max_task_retries=0)(Remote)
        self.actors = [remote.remote(runner, models) for _ in range(self.count)]
        self._wait_for_one()

    def _wait_for_one(self) -> None:
        """The others may start while it works already."""
        tasks = [actor.ready.remote() for actor in self.actors]
        reason = f"none within {START_SECONDS:.0f} s"
        try:
            started, _ = self.ray.wait(tasks, timeout=START_SECONDS)
            if started and self.ray.get(started[0]):
                return
        except self.ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
        self.ray.shutdown()
        raise InputError(
            f"no worker of the cluster could start ({reason}); every machine needs this project "
            "in the same place, with what it requires, and a GPU where the cluster has any"
        )

    def __enter__(self) -> list[WorkerPlace]:
        return [WorkerPlace(self.ray, actor, f"ray-{i}") for i, actor in enumerate(self.actors, 1)]

    def __exit__(self, *_: object) -> None:
        self.ray.shutdown()


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
