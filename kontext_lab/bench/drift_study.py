"""The study of drift: every arm with both autoencoders, on turns without an edit and on local edits."""

from __future__ import annotations

import random
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from kontext_core.metrics import mse
from kontext_core.pipeline import Pipeline

from ..world.render import render
from ..world.scene import random_scene
from ..world.tasks import TASKS
from .drift import local_chains
from .drift_arms import ARMS, Asked, Codec, eight_bit, own_codec, run_arm
from .held_out import Advance, Case, assess, held_out_cases, summary, untouched_area
from .linear_codec import linear_codec

SIZE = (64, 64)
# Turns whose rows are kept.
TOLD = (1, 5, 10)
# What a table shows of an edit that changes everything.
GLOBAL = tuple(name for name, task in TASKS.items() if task.category == "global")


def study(
    pipeline: Pipeline,
    *,
    chains: int = 12,
    turns: int = 10,
    steps: int = 28,
    seed: int = 0,
    tick: Advance = lambda count: None,
) -> dict[str, object]:
    """All of it.

    Returns:
        settings; "edits" and "no-op", each by autoencoder ("embedded", "linear") and arm a list of
        rows, see `_row`; "global": success of single edits of whole pictures with nothing kept and
        with what is found to be unchanged kept; linear_off: see `linear_codec`; seconds.
    """
    began = time.perf_counter()
    linear, off = linear_codec(pipeline)
    codecs = {"embedded": own_codec(pipeline), "linear": linear}
    cases = local_chains(chains, turns, seed=seed, size=SIZE)
    results: dict[str, object] = {
        "benchmark": "drift",
        "settings": {"chains": chains, "turns": turns, "steps": steps, "seed": seed},
        "linear_off": round(off, 5),
        "round_trip": {
            name: _round_trip(codec, [chain[0].references[0] for chain in cases])
            for name, codec in codecs.items()
        },
    }
    idle = _idle(chains, turns, seed)
    for name, codec in codecs.items():
        for arm in ARMS:
            edits, no_op = (
                results.setdefault(kind, {}).setdefault(name, {})  # type: ignore[attr-defined]
                for kind in ("edits", "no-op")
            )
            edits[arm] = _edits(pipeline, codec, arm, cases, steps, tick)
            no_op[arm] = _no_op(pipeline, codec, arm, idle, steps, tick)
    results["global"] = _global(pipeline, chains, steps, seed, tick)
    results["seconds"] = round(time.perf_counter() - began)
    return results


def _row(turn: int, made: Tensor, first: Tensor, kept: Tensor) -> dict[str, object]:
    """Of the area that was never to change: dB of all its pixels together (a single
    picture with a wrong edit weighs much), the mean shift of its red, green and blue in 1/255, and the
    share of its pixels that are the first picture's to the bit."""
    inside = kept.expand_as(made) > 0
    error = mse(made, first, kept) * kept.flatten(1).mean(1)
    pooled = float(error.sum() / kept.flatten(1).mean(1).sum())
    shift = ((made - first) * kept).sum((0, 2, 3)) / kept.sum() * 255
    same = (made == first).all(1, keepdim=True)
    return {
        "turn": turn,
        "untouched": round(float(-10 * torch.log10(torch.tensor(max(pooled, 1e-10)))), 2),
        "shift": [round(float(value), 2) for value in shift],
        "identical": round(float(same[inside[:, :1]].float().mean()), 4),
        "area": round(float(kept.mean()), 4),
    }


def _edits(
    pipeline: Pipeline,
    codec: Codec,
    arm: str,
    chains: Sequence[Sequence[Case]],
    steps: int,
    tick: Advance,
) -> list[dict[str, object]]:
    turns, kept = [], []
    area = torch.ones(len(chains), 1, *SIZE)
    for turn in range(len(chains[0])):
        right = [chain[turn] for chain in chains]
        before = torch.stack([case.references[0] for case in right])
        after = torch.stack([case.target for case in right])
        untouched = untouched_area(before, after)
        area = area * untouched
        kept.append(area)
        turns.append(
            Asked([c.sample.prompt for c in right], [c.seed for c in right], 1 - untouched[:, 0])
        )
    first = eight_bit(torch.stack([chain[0].references[0] for chain in chains]))
    seen = run_arm(pipeline, codec, arm, first, turns, steps=steps, tick=tick)
    rows = []
    for turn, made in enumerate(seen, 1):
        if turn in TOLD:
            judged = summary(assess([chain[turn - 1] for chain in chains], made, tick))
            chosen = {key: judged[key] for key in ("n", "right", "success", "low", "high")}
            rows.append({**_row(turn, made, first, kept[turn - 1]), **chosen})
    return rows


def _idle(count: int, turns: int, seed: int) -> tuple[Tensor, list[Asked]]:
    """Pictures, and turns that ask for the colour that a thing has already."""
    rng = random.Random(f"{seed}/idle")
    scenes = [random_scene(rng, 1, textures=0.0) for _ in range(count)]
    prompts = [f"make the {one.things[0].kind} {one.things[0].colour}" for one in scenes]
    masks = torch.zeros(count, *SIZE)
    asked = [
        Asked(
            prompts, [zlib.crc32(f"{seed}/idle/{i}/{turn}".encode()) for i in range(count)], masks
        )
        for turn in range(turns)
    ]
    return eight_bit(render(scenes, *SIZE)), asked


def _no_op(
    pipeline: Pipeline,
    codec: Codec,
    arm: str,
    idle: tuple[Tensor, list[Asked]],
    steps: int,
    tick: Advance,
) -> list[dict[str, object]]:
    first, turns = idle
    seen = run_arm(pipeline, codec, arm, first, turns, steps=steps, tick=tick)
    everything = torch.ones(len(first), 1, *SIZE)
    return [_row(t, made, first, everything) for t, made in enumerate(seen, 1) if t in TOLD]


def _global(
    pipeline: Pipeline, count: int, steps: int, seed: int, tick: Advance
) -> dict[str, dict[str, object]]:
    """Nothing of a picture whose light or style is changed may be taken for unchanged."""
    cases = [
        case
        for task in GLOBAL
        for case in held_out_cases(task, count, seed=seed, size=SIZE)
        if len(case.references) == 1
    ]
    first = torch.stack([case.references[0] for case in cases])
    asked = Asked(
        [c.sample.prompt for c in cases], [c.seed for c in cases], torch.ones(len(cases), *SIZE)
    )
    found = {}
    for arm in ("latents", "kept"):
        [made] = run_arm(pipeline, own_codec(pipeline), arm, first, [asked], steps=steps, tick=tick)
        judged = summary(assess(cases, made, tick))
        found[arm] = {key: judged[key] for key in ("n", "right", "success", "low", "high")}
    return found


def _round_trip(codec: Codec, pictures: Sequence[Tensor]) -> dict[str, object]:
    """Shift of the mean of red, green and blue in 1/255 by encoding and decoding, and how much of the
    latents' deviation a second encoding moves."""
    first = torch.stack(list(pictures))
    with torch.no_grad():
        latents = codec.encode(first)
        made = codec.decode(latents)
        again = codec.encode(made)
    shift = (made - first).mean((0, 2, 3)) * 255
    moved = (again - latents).square().mean().sqrt() / latents.std()
    return {
        "shift": [round(float(value), 2) for value in shift],
        "moved": round(float(moved), 5),
    }


def table(results: dict) -> str:
    """The rows as text."""
    lines = []
    for kind in ("edits", "no-op"):
        for name, arms in results[kind].items():
            lines.append(f"{kind}, {name} autoencoder: untouched dB (identical, right) after turn")
            for arm, rows in arms.items():
                cells = [
                    f"{row['turn']}: {row['untouched']:.1f} ({row['identical']:.0%}"
                    + (f", {row['right']}/{row['n']})" if "right" in row else ")")
                    for row in rows
                ]
                lines.append(f"  {arm:8} " + "   ".join(cells))
    for arm, row in results["global"].items():
        lines.append(f"edits of the whole picture, {arm}: {row['right']} of {row['n']} right")
    return "\n".join(lines)


def write(results: dict, path: str | Path) -> Path:
    """As JSON, whole or not at all."""
    import json

    from kontext_core.partial import whole_file
    from kontext_core.writing import check_folder

    target = Path(path)
    check_folder(target.parent)
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(target) as file:
        file.write((json.dumps(results, indent=1) + "\n").encode())
    return target
