"""Recipe, part 5: what the exported model does on held-out scenes, as a table and sample sheets.

python training/evaluate.py --count 48 --steps 16 --sheets runs/sheets
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from PIL import Image

from kontext_core.evaluation.held_out import (
    Cases,
    autoencoder_scores,
    generate,
    held_out_cases,
    scores,
)
from kontext_core.pipeline import Pipeline, load_pipeline
from kontext_core.training.world.tasks import TASKS


def sheet(pipeline: Pipeline, cases: Cases, path: Path, rows: int = 8, **options) -> None:
    """One row per case: references, result, right answer. The prompts go beside it as text."""
    samples = cases.samples[:rows]
    references = [r[:rows] for r in cases.references]
    size = (cases.target.shape[2], cases.target.shape[3])
    out = generate(pipeline, [s.prompt for s in samples], references, size, **options)
    columns = [*references, out, cases.target[:rows]]
    picture = torch.cat([torch.cat(list(column), dim=1) for column in columns], dim=2)
    array = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC).save(path)
    path.with_suffix(".txt").write_text("\n".join(s.prompt for s in samples), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--count", type=int, default=48, help="cases per task")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--guidance", type=float, default=2.5)
    parser.add_argument("--cfg", type=float, default=1.0)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--trained", action="store_true", help="cases as training makes them")
    parser.add_argument("--sheets", type=Path, default=None)
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = load_pipeline(args.model)
    options = {"steps": args.steps, "guidance": args.guidance, "cfg": args.cfg}
    began = time.time()
    report: dict[str, dict[str, float]] = {"autoencoder": autoencoder_scores(pipeline)}
    print("autoencoder", {k: round(v, 2) for k, v in report["autoencoder"].items()})
    for task in args.tasks:
        cases = held_out_cases(task, args.count, held_out=not args.trained)
        report[task] = scores(pipeline, cases, **options)
        print(f"{task:14}", {k: round(v, 2) for k, v in report[task].items()}, flush=True)
        if args.sheets:
            sheet(pipeline, cases, args.sheets / f"{task}.png", **options)
    edits = [row["gain"] for row in report.values() if "gain" in row]
    if edits:
        print(
            f"mean gain over copying the best reference: {sum(edits) / len(edits):.2f} dB "
            f"({args.count} cases per task, {args.steps} steps, {time.time() - began:.0f} s)"
        )
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
