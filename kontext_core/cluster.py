"""Workers on a Ray cluster: processes that each hold one object, started, waited for and ended together.

Ray is an optional extra and is imported only when asked for. Every machine of the cluster needs this
project in the same place, with what it requires.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from .errors import InputError

START_SECONDS = 300.0
# How long Ray waits for helpers of its own when it starts on this machine. It gives up after seconds
# where other work keeps the processor busy: "Timed out waiting for file .../metrics_agent_port".
PATIENCE = "RAY_agent_register_timeout_ms"


class Workers:
    """A connection to Ray, and actors of one class on it. Use as a context; they end with it.

    Attributes:
        ray: the module.
        actors: Ray's handles.
    """

    def __init__(
        self,
        kind: type,
        *arguments: object,
        root: Path,
        environment: MutableMapping[str, str],
        address: str = "",
        count: int = 0,
        instead: str = "",
    ) -> None:
        """
        Args:
            kind: what a worker holds; it has a method `ready` that gives True.
            arguments: for it.
            root: the checkout, whose packages workers import.
            environment: this process's variables: workers keep its PYTHONPATH, and Ray reads its own.
            address: "auto" or "ray://host:10001" for a running cluster, "" starts one here.
            count: how many; 0 takes one for each GPU, or one where there is none.
            instead: what does without Ray, for the error: "or use --server".

        Raises:
            InputError: Ray is not installed, there is no cluster, or no worker starts.
        """
        try:
            import ray
        except ImportError as error:
            raise InputError(
                "--ray needs Ray, which is not installed; pip install ray, here and on every "
                f"machine of the cluster, {instead}"
            ) from error
        self.ray: Any = ray
        # Only for the workers: this process has its own imports.
        paths = [str(root), *filter(None, [environment.get("PYTHONPATH")])]
        variables = {"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}}
        if not address:
            environment.setdefault(PATIENCE, f"{START_SECONDS * 1000:.0f}")
        try:
            ray.init(
                address=address or None, runtime_env=variables, log_to_driver=False,
                include_dashboard=False if not address else None,
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - Ray raises the bare class itself
            where = f"there is no Ray cluster at {address!r}" if address else "Ray does not start"
            raise InputError(f"{where} ({str(error).strip()[:300]})") from error
        gpus = int(ray.cluster_resources().get("GPU", 0))
        count = count or max(gpus, 1)
        share = min(1.0, gpus / count) if gpus else 0
        remote = ray.remote(num_gpus=share, max_restarts=-1, max_task_retries=0)(kind)
        self.actors = [remote.remote(*arguments) for _ in range(count)]
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

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.ray.shutdown()
