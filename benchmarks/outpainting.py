"""What the new area of a larger canvas is filled with before it is encoded: which fill works best.

    python benchmarks/outpainting.py [--cases 32] [--steps 8] [--output FILE] [--sheet FILE.png]

Held-out scenes on the embedded model, drawn at 96 x 64; the model sees their left 64 x 64 and paints all
of it, with a recolouring as its instruction. Only scenes whose right third is empty count, so that what
belongs there is known. "left out" drops the new area's tokens from the reference instead of filling
them. success: judged right in every attribute, things too many included; new: PSNR of the new area to
the right answer; empty: share of answers with no more than 2 % of the new area off by a quarter.
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

from kontext_core import edit, load_pipeline, save_image
from kontext_core.fit import Fit
from kontext_core.metrics import psnr
from kontext_core.pages import FILLS, new_area
from kontext_core.pipeline import Pipeline
from kontext_core.stitcher import Reference
from kontext_lab.bench.held_out import Case, assess, held_out_cases, summary
from kontext_lab.world.render import render

RESULTS = Path(__file__).resolve().parent / "results" / "outpainting.json"
WIDTH, HEIGHT, SEEN = 96, 64, 64
LEFT_OUT = "left out"


def known(case: Case) -> bool:
    """Whether nothing of its scene reaches into the new area."""
    scenes = [case.sample.references[0], replace(case.sample.references[0], things=())]
    drawn = render(scenes, HEIGHT, WIDTH)[..., SEEN:]
    return bool((drawn[0] - drawn[1]).abs().max() < 1 / 255)


def answer(pipeline: Pipeline, case: Case, fill: str, steps: int) -> Tensor:
    """The picture [3, h, w] that the model makes of the left part."""
    seen = case.references[0][..., :SEEN].movedim(0, -1)[None].contiguous()
    fit = Fit("exact", margins=(0, 0, WIDTH - SEEN, 0), fill=fill if fill in FILLS else FILLS[0])
    shown: Tensor | Reference = seen
    width = height = None
    if fill == LEFT_OUT:
        framing = fit.plan((SEEN, HEIGHT), pipeline.model.resolutions)
        assert framing.page is not None
        latent = pipeline.encode_framed(seen, framing)
        shown, fit = Reference(latent, mask=1 - new_area(framing.page)), Fit()
        width, height = WIDTH, HEIGHT
    made = edit(
        pipeline,
        case.sample.prompt,
        shown,
        seed=case.seed,
        steps=steps,
        width=width,
        height=height,
        fit=fit,
    )
    return made[0].movedim(-1, 0)


def measure(cases: Sequence[Case], made: Tensor) -> dict[str, object]:
    row = summary(assess(cases, made))
    right = torch.stack([case.target for case in cases])
    new = torch.zeros(len(cases), 1, HEIGHT, WIDTH)
    new[..., SEEN:] = 1
    off = ((made - right).abs().amax(1)[..., SEEN:] > 0.25).float().mean((1, 2))
    found = {key: row[key] for key in ("n", "success", "low", "high", "untouched")}
    found["new"] = round(float(psnr(made, right, new).mean()), 2)
    return {**found, "empty": round(float((off <= 0.02).float().mean()), 4)}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", type=int, default=32, help="drawn; those that count are fewer")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--sheet", type=Path, help="a picture: a row for each of 8 cases")
    options = parser.parse_args()
    pipeline = load_pipeline("tiny")
    drawn = held_out_cases("recolour", options.cases, wordings="grammar", size=(HEIGHT, WIDTH))
    cases = [case for case in drawn if known(case)]
    rows, columns = {}, [torch.stack([case.target for case in cases])]
    for fill in (*FILLS, LEFT_OUT):
        made = torch.stack([answer(pipeline, case, fill, options.steps) for case in cases])
        rows[fill] = measure(cases, made)
        columns.append(made)
        print(fill, json.dumps(rows[fill]), file=sys.stderr, flush=True)
    if options.sheet is not None:
        sheet = torch.cat([torch.cat(list(column[:8]), 1) for column in columns], 2)
        save_image(sheet.movedim(0, -1)[None], options.sheet)
    text = json.dumps({"drawn": options.cases, "steps": options.steps, "rows": rows}, indent=2)
    part = options.output.with_name(options.output.name + ".part")
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(options.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
