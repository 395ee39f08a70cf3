"""How near the distilled student comes to its teacher's two passes, at every guidance value.

    python -m kontext_lab train export --flux runs/flux/last.pt --out runs/teacher
    python -m kontext_lab train guidance --teacher runs/teacher --out runs/guidance.json

Same cases, same noise. The teacher runs with true guidance (two passes a step, at the scale that
the value stands for), the student with the value as input (one). PSNR to the right answer, and of the student's picture to the teacher's.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from kontext_core.metrics import psnr
from kontext_core.partial import whole_file
from kontext_core.pipeline import load_pipeline

from ..bench.held_out import answers, assess, held_out_cases
from ..training.distillation import classifier_free_scale
from ..world.tasks import TASKS


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--teacher", type=Path, required=True, help="folder with both passes")
    parser.add_argument("--student", default="tiny", help="folder of the student")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1, 2, 2.5, 3, 4, 5])
    parser.add_argument("--cases", type=int, default=6, help="of each task")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/guidance.json"))
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    teacher, student = load_pipeline(args.teacher), load_pipeline(args.student)
    cases = [case for task in TASKS for case in held_out_cases(task, args.cases, seed=5)]
    target = torch.stack([case.target for case in cases])
    rows = []
    for value in args.guidance:
        row: dict[str, float] = {"guidance": value}
        pictures = {
            "teacher": answers(teacher, cases, steps=args.steps, cfg=classifier_free_scale(value)),
            "student": answers(student, cases, steps=args.steps, guidance=value),
        }
        for name, made in pictures.items():
            row[f"{name}_psnr"] = round(float(psnr(made, target).mean()), 2)
            right = [outcome.verdict.right for outcome in assess(cases, made)]
            row[f"{name}_success"] = round(sum(right) / len(right), 3)
        row["student_to_teacher"] = round(float(psnr(*pictures.values()).mean()), 2)
        rows.append(row)
        print(json.dumps(row), flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    out = {"cases": len(cases), "steps": args.steps, "rows": rows}
    with whole_file(args.out) as file:
        file.write((json.dumps(out, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
