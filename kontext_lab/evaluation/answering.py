"""Who answers: a pipeline in this process, or workers on a Ray cluster, as a command's options say."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kontext_core.checks import check_whole
from kontext_core.errors import InputError

if TYPE_CHECKING:
    from kontext_core.pipeline import Pipeline

    from .runner import Spread


def add_ray(parser: argparse.ArgumentParser) -> None:
    """Add `--ray` and `--ray-workers`."""
    parser.add_argument(
        "--ray", nargs="?", const="", metavar="ADDRESS",
        help="answer on a Ray cluster (auto, ray://host:10001), or on one started here; needs pip install ray",
    )  # fmt: skip
    parser.add_argument(
        "--ray-workers", type=int, metavar="N", help="how many (one for each GPU, or one)"
    )


@contextmanager
def answering(options: argparse.Namespace) -> Iterator[tuple[Pipeline | None, Spread]]:
    """The pipeline of `options.model`, or None, and how answers are made.

    Raises:
        InputError: what `load_pipeline` and `AnswerCluster` raise, or options that don't fit.
    """
    if options.ray is None:
        if options.ray_workers is not None:
            raise InputError(f"--ray-workers is {options.ray_workers}, without --ray; give both")
        from kontext_core.commands.device import usable_device
        from kontext_core.pipeline import load_pipeline

        from .runner import one_by_one

        yield load_pipeline(options.model, device=usable_device(options.device)), one_by_one
        return
    workers = 0
    if options.ray_workers is not None:
        workers = check_whole(options.ray_workers, "--ray-workers", 1, 1000)
    from .cluster import AnswerCluster

    # Workers have another folder to start from.
    model = options.model if options.model == "tiny" else str(Path(options.model).resolve())
    with AnswerCluster(model, options.device, options.ray, workers) as cluster:
        yield None, cluster.spread
