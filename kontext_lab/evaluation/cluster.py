"""Answers as tasks on a Ray cluster, one a (case, seed, arm): each worker holds the model in its own process.

Pictures travel with a task, so that the benchmark lies on this machine alone; rows are written and scored
here. How workers come and go stands in `kontext_core.cluster`.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kontext_core.cluster import Workers
from kontext_core.commands.device import usable_device
from kontext_core.errors import InputError, KontextError
from kontext_core.pipeline import load_pipeline

from .cases import EditCase
from .runner import AnswerJob, AnswerSettings, Ready, answer_case

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
# Tasks that a worker has at a time, so that it never waits for this process.
DEPTH = 2
# How often a case may be lost with its worker.
TRIES = 3


class Answerer:
    """What lives in a worker's process: a pipeline.

    Args:
        model: as `load_pipeline` takes it, on the worker's machine.
        device: "cpu", "cuda".
    """

    def __init__(self, model: str, device: str) -> None:
        self.pipeline = load_pipeline(model, device=usable_device(device))

    def ready(self) -> bool:
        """True, once it has started."""
        return True

    def answer(self, case: EditCase, seed: int, settings: AnswerSettings) -> tuple[Any, float]:
        """The picture as a NumPy array [1, h, w, 3], and the seconds it took."""
        began = time.perf_counter()
        made = answer_case(self.pipeline, case, seed, settings)
        return made.float().cpu().numpy(), round(time.perf_counter() - began, 3)


class AnswerCluster:
    """Workers that answer; `spread` is for `run_cases`. Use as a context; they end with it.

    Args:
        model, device: see `Answerer`.
        address, workers: see `Workers`.

    Raises:
        InputError: as `Workers`; a model that is not there ends it too.
    """

    def __init__(self, model: str, device: str, address: str = "", workers: int = 0) -> None:
        self.workers = Workers(
            Answerer, model, device, root=ROOT, address=address, count=workers, instead="or leave --ray out"
        )  # fmt: skip

    def __enter__(self) -> AnswerCluster:
        return self

    def __exit__(self, *failure: object) -> None:
        self.workers.__exit__(*failure)

    def spread(
        self, jobs: Sequence[AnswerJob], ready: Ready
    ) -> Iterator[tuple[AnswerJob, Tensor, float]]:
        """The answers, as they are done.

        Raises:
            KontextError: what `edit` raised; InputError where a case was lost with its worker too often.
        """
        ray = self.workers.ray
        waiting, running = list(jobs), {}
        load: Counter[int] = Counter()
        lost: Counter[AnswerJob] = Counter()
        while waiting or running:
            for job in list(waiting):
                number = min(range(len(self.workers.actors)), key=lambda n: load[n])
                if load[number] >= DEPTH:
                    break
                case = ready(job)
                if case is not None:
                    waiting.remove(job)
                    actor = self.workers.actors[number]
                    task = actor.answer.remote(_carried(case), job.seed, job.arm.settings)
                    running[task] = job, number
                    load[number] += 1
            if not running:
                raise InputError(
                    f"{waiting[0].case.key!r} goes on from {waiting[0].case.after!r}, which is not among the "
                    "cases; run all turns"
                )
            [task, *_], _ = ray.wait(list(running), num_returns=1)
            job, number = running.pop(task)
            load[number] -= 1
            try:
                picture, seconds = ray.get(task)
            except ray.exceptions.RayTaskError as error:
                cause = error.cause
                if isinstance(cause, KontextError):
                    raise cause from error
                said = str(cause or error).strip().splitlines()[-1]
                raise InputError(f"{job.case.key!r} could not be answered: {said}") from error
            except ray.exceptions.RayError as error:
                lost[job] += 1
                log.warning("%s: its worker died (%s)", job.case.key, type(error).__name__)
                if lost[job] >= TRIES:
                    raise InputError(
                        f"{job.case.key!r} was lost with its worker {TRIES} times ({type(error).__name__}); "
                        "is there enough memory? Take fewer workers"
                    ) from error
                waiting.insert(0, job)
                continue
            # Ray's arrays can't be written to.
            yield job, torch.from_numpy(picture.copy()), seconds


def _carried(case: EditCase) -> EditCase:
    """A case with its pictures in it, and without what only scorers look at."""
    try:
        images = tuple(i.read_bytes() if isinstance(i, Path) else i for i in case.images)
    except OSError as error:
        raise InputError(f"a picture of {case.key!r} can't be read ({error})") from error
    return replace(case, images=images, target=None, mask=None)
