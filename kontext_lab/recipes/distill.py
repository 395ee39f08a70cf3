"""Recipe, part 5: a student that takes the guidance value and needs one pass instead of two.

    python -m kontext_lab train distill --teacher runs/flux/last.pt --run runs/student

The student starts as the teacher and learns its guided velocity at guidance 1 to 6. Text encoder
and teacher stay as they are. The student is what ships.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from kontext_core.config import FluxParams
from kontext_core.finetune.run_log import RunLog
from kontext_core.models.flux import Flux

from ..training.batch import ShardData, dropped, shards_of, step_groups
from ..training.checkpoint import load_state, save_state
from ..training.distillation import (
    classifier_free_scale,
    empty_like,
    guided_velocity,
    sample_guidance,
)
from ..training.ema import EMA
from ..training.objective import group_velocity
from ..training.precision import multiplies_bfloat16, plain_attention, train_with
from .fit_pca import SHIPPED, load_pca
from .train_flux import REFERENCE_NOISE, noise_for, optimizers, rate
from .train_text import build_text


def averaged(state: dict, name: str) -> dict[str, torch.Tensor]:
    """One module's averaged weights out of a checkpoint of `train_flux.py`."""
    prefix = name + "."
    return {
        key.removeprefix(prefix): value for key, value in state["ema"]["average"].items()
        if key.startswith(prefix)
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--teacher", type=Path, default=Path("runs/flux/last.pt"))
    parser.add_argument("--run", type=Path, default=Path("runs/student"))
    parser.add_argument("--pca", type=Path, default=SHIPPED)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=19)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--save-every", type=int, default=100)
    parser.add_argument("--stop-at", type=int, help="leave after this step")
    args = parser.parse_args(arguments)
    device = torch.device(args.device)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    source = load_state(args.teacher)
    params = FluxParams(**source["flux_params"])
    text_params = source["text_params"]
    text = build_text(source["words"], text_params["width"], text_params["depth"])
    text.load_state_dict(averaged(source, "text"))
    teacher, student = Flux(params), Flux(params)
    for part in (teacher, student):
        part.load_state_dict(averaged(source, "flux"))
    for part in (text, teacher, student):
        part.to(device)
    teacher.requires_grad_(False)
    text.requires_grad_(False)
    half = multiplies_bfloat16(args.device)
    if half and device.type == "cpu":
        for part in (teacher, student):
            train_with(part, plain_attention)
    muon, adam = optimizers(
        student, text=nn.Module(), dtype=torch.bfloat16 if half else torch.float32
    )
    ema = EMA({"flux": student}, decay=0.99)
    parts = {"flux": student, "muon": muon, "adam": adam, "ema": ema}
    checkpoint = args.run / "student.pt"
    first, totals = 0, []
    if checkpoint.exists():
        state = load_state(checkpoint)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        first, totals = state["step"], state["totals"]
        print(f"going on at step {first}")
    data = ShardData(
        load_pca(args.pca), text.tokenizer, text.params.min_length, seed=args.seed, scale=args.batch
    )
    last = args.stop_at or args.steps
    loader = torch.utils.data.DataLoader(
        data, batch_size=None, sampler=shards_of(first, last), num_workers=args.workers,
        prefetch_factor=2 if args.workers else None,
    )  # fmt: skip
    log = RunLog(args.run / "log.jsonl", first)
    began, seen = time.time(), 0
    for step, groups in zip(
        range(first, last), step_groups(iter(loader), first, last), strict=True
    ):
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
        share = rate(step, args.steps, args.steps * 2 // 3, warm=20)
        muon.param_groups[0]["lr"] = 0.004 * share
        for group in adam.param_groups:
            group["lr"] = 0.3 * group["base"] * share
        count = sum(len(group.target) for group in groups)
        total = 0.0
        for visited in groups:
            held = dropped(visited, generator, texts=0.02)
            t, eps, _, references = noise_for(held, generator, REFERENCE_NOISE)
            guidance = sample_guidance(len(t), generator=generator)
            group = held.to(device)
            t, eps, guidance = (x.to(device) for x in (t, eps, guidance))
            references = [r.to(device) for r in references]
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                with torch.no_grad():
                    wanted, empty = text(group.ids), text(empty_like(group.ids))
                scale = classifier_free_scale(guidance)
                right = guided_velocity(teacher, wanted, empty, group, t, eps, scale, references)
                velocity = group_velocity(
                    student, wanted[0], wanted[1], group, t, eps, guidance, references
                )
            # Errors at high guidance are larger by nature; relative ones treat all values alike.
            error = (velocity - right).float().square().mean(-1) * group.weight
            loss = (error.mean(1) / scale).sum() / count
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(adam.param_groups[0]["params"], 1.0)
        muon.step()
        adam.step()
        muon.zero_grad()
        adam.zero_grad()
        ema.update()
        seen += count
        totals.append(total)
        done = step + 1
        if done % 20 == 0 or done == last:
            row = {
                "step": done,
                "loss": round(sum(totals) / len(totals), 5),
                "samples": done * count,
                "seconds": round(time.time() - began),
                "ms": round(1000 * (time.time() - began) / seen, 2),
            }
            print(log.write(row), flush=True)
            totals = []
        if done % args.save_every == 0 or done == last:
            average = {f"text.{key}": value for key, value in text.state_dict().items()}
            save_state(checkpoint, {
                "step": done, "totals": totals, "words": source["words"],
                **{name: part.state_dict() for name, part in parts.items()},
                "flux_params": asdict(params), "text_params": text_params,
            })  # fmt: skip
            # The same form as a teacher's, for export.
            save_state(args.run / "last.pt", {
                "step": done, "words": source["words"], "flux_params": asdict(params),
                "text_params": text_params, "teacher_step": source["step"],
                "ema": {"average": {**ema.average, **average}},
            })  # fmt: skip


if __name__ == "__main__":
    main()
