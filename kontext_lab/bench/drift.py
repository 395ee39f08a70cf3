"""Drift: edit after edit, each on the picture that the one before gave."""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from kontext_core.errors import KontextError
from kontext_core.metrics import psnr
from kontext_core.pipeline import Pipeline

from ..world.tasks import TASKS, make_chain
from .held_out import EDITS, Advance, Case, answers, assess, draw, summary, untouched_area


def local_chains(
    count: int, turns: int = 10, *, seed: int = 0, size: tuple[int, int] = (64, 64)
) -> list[list[Case]]:
    """Chains of edits of which each changes a part only, so that some of the picture stays.

    Every case shows the right answer of the one before; `drift` puts the model's in its place.

    Raises:
        KontextError: the world gave too few such chains.
    """
    rng = random.Random(f"{seed}/chains")
    chains: list[list[Case]] = []
    for _ in range(400 * count):
        if len(chains) == count:
            break
        samples = make_chain(rng, turns)
        # No picture in training has more than three things.
        if all(
            TASKS[sample.task].category in EDITS and len(sample.target.things) <= 3
            for sample in samples
        ):
            name = f"{seed}/chain/{len(chains)}"
            seeds = [zlib.crc32(f"{name}/{turn}".encode()) for turn in range(turns)]
            chains.append(draw(samples, seeds, size))
    if len(chains) < count:
        raise KontextError(
            f"only {len(chains)} of {count} chains of {turns} local edits could be drawn; ask for "
            "fewer turns"
        )
    return chains


def drift(
    pipeline: Pipeline,
    chains: Sequence[Sequence[Case]],
    *,
    steps: int = 28,
    guidance: float = 2.5,
    tick: Advance = lambda count: None,
) -> tuple[list[dict[str, object]], list[Tensor]]:
    """The naive loop, turn by turn: nothing puts untouched pixels back.

    Returns:
        Per turn: success (and its interval) of the whole chain so far; psnr and ssim to the
        chain's right answer; untouched: dB, against the first picture, of the area that no edit
        so far was about; area: its mean share of the picture; clean: success of the same edit on
        the right picture. And per turn the pictures [chains, 3, h, w], the first ones before.
    """
    options = {"steps": steps, "guidance": guidance, "tick": tick}
    every = [chain[turn] for turn in range(len(chains[0])) for chain in chains]
    fresh = assess(every, answers(pipeline, every, **options), tick)  # type: ignore[arg-type]
    first = torch.stack([chain[0].references[0] for chain in chains])
    kept = torch.ones(len(chains), 1, *first.shape[-2:])
    pictures = first
    rows: list[dict[str, object]] = []
    seen = [first]
    for turn in range(len(chains[0])):
        right = [chain[turn] for chain in chains]
        before = torch.stack([case.references[0] for case in right])
        after = torch.stack([case.target for case in right])
        kept = kept * untouched_area(before, after)
        asked = [replace(c, references=(p,)) for c, p in zip(right, pictures, strict=True)]
        pictures = answers(pipeline, asked, **options)  # type: ignore[arg-type]
        # Judged beside the chain's right pictures: a fault of an earlier turn still counts.
        row = summary(assess(right, pictures, tick))
        values = psnr(pictures, first, kept)[kept.flatten(1).any(1)]
        row["untouched"] = round(float(values.mean()), 4) if len(values) else None
        row["area"] = round(float(kept.mean()), 4)
        row["clean"] = summary(fresh[turn * len(chains) : (turn + 1) * len(chains)])["success"]
        rows.append({"turn": turn + 1, **row})
        seen.append(pictures)
    return rows, seen
