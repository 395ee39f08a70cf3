"""A reference of another size than the target: resized onto its grid, or its ids scaled onto it?

    python benchmarks/reference_grid.py [--cases 16] [--steps 8] [--output FILE]

Local edits of held-out scenes on the embedded model. The picture is drawn at one size and the target
painted at another one of the same shape. "own place" leaves the reference's tokens where its own size
puts them, "scaled ids" spreads them over the target's grid (fractional positions, centres upon
centres), "resized" brings the picture itself to the target's size. Answers are judged at the target's
size, beside the right one; untouched is the PSNR of what the edit leaves alone, to the same scene drawn
at the target's size.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from kontext_core import (
    Conditioning,
    Reference,
    load_pipeline,
    make_noise,
    make_timesteps,
    resize,
    sample,
    stitch,
    to_model,
    to_picture,
)
from kontext_core.pipeline import Pipeline
from kontext_core.stitcher import Context
from kontext_lab.bench.held_out import Case, assess, draw, held_out_cases, summary
from kontext_lab.world.tasks import TASKS

RESULTS = Path(__file__).resolve().parent / "results" / "reference_grid.json"
LOCAL = tuple(name for name, task in TASKS.items() if task.category == "local")
ARMS = ("own place", "scaled ids", "resized")
# (width, height) of the picture and of the target.
SIZES = (((64, 64), (64, 64)), ((64, 64), (80, 80)), ((64, 64), (96, 96)), ((64, 64), (128, 128)),
         ((96, 96), (64, 64)), ((96, 64), (144, 96)))  # fmt: skip


def scaled(context: Context) -> Context:
    """The only reference's ids spread over the target's grid."""
    target, reference = context.layout
    ids = context.img_ids.clone()
    for axis, to, by in ((1, target.rows, reference.rows), (2, target.columns, reference.columns)):
        own = ids[:, target.tokens :, axis]
        ids[:, target.tokens :, axis] = (own + 0.5) * to / by - 0.5
    return replace(context, img_ids=ids)


@torch.no_grad()
def answer(pipeline: Pipeline, case: Case, shown: Tensor, arm: str, steps: int) -> Tensor:
    """The picture [3, h, w] that the model makes of `shown`, [3, h, w], at the case's size."""
    height, width = case.target.shape[-2:]
    picture = shown.movedim(0, -1)[None]
    if arm == "resized":
        picture = resize(picture, width, height)
    flux = pipeline.model
    reference = Reference(pipeline.autoencoder.encode(to_model(picture)))
    shape = (1, flux.latent_format.channels, height // 8, width // 8)
    context = stitch(shape, [reference], latent_format=flux.latent_format)
    if arm == "scaled ids":
        context = scaled(context)
    words = Conditioning(*pipeline.text_encoder.encode([case.sample.prompt]), 2.5)
    timesteps = make_timesteps(steps, context.target_tokens)
    latent = sample(flux, context, words, timesteps, noise=make_noise(case.seed, shape))
    return to_picture(pipeline.autoencoder.decode(latent))[0].movedim(-1, 0)


def measure(
    pipeline: Pipeline, picture: Sequence[int], target: Sequence[int], count: int, steps: int
) -> dict[str, dict[str, object]]:
    """A row for every arm."""
    asked = [case for task in LOCAL for case in held_out_cases(task, count, wordings="grammar")]
    samples, seeds = [case.sample for case in asked], [case.seed for case in asked]
    shown = draw(samples, seeds, (picture[1], picture[0]))
    cases = draw(samples, seeds, (target[1], target[0]))
    rows = {}
    for arm in ARMS:
        made = torch.stack([
            answer(pipeline, case, one.references[0], arm, steps)
            for case, one in zip(cases, shown, strict=True)
        ])  # fmt: skip
        row = summary(assess(cases, made))
        rows[arm] = {key: row[key] for key in ("n", "success", "low", "high", "psnr", "untouched")}
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", type=int, default=16, help="of each kind of local edit")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    pipeline = load_pipeline("tiny")
    found = {}
    for picture, target in SIZES:
        name = f"{picture[0]} x {picture[1]} at {target[0]} x {target[1]}"
        found[name] = measure(pipeline, picture, target, options.cases, options.steps)
        print(name, json.dumps(found[name]), file=sys.stderr, flush=True)
    text = json.dumps({"cases": options.cases, "steps": options.steps, "rows": found}, indent=2)
    part = options.output.with_name(options.output.name + ".part")
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(options.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
