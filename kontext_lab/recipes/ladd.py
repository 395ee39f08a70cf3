"""Few steps: a LoRA by which the embedded model needs one or two steps where it needed four or more.

    python -m kontext_lab train ladd --run runs/ladd
    python -m kontext_lab train ladd --run runs/imitation --method imitation
    python -m kontext_lab bench few-steps --lora runs/ladd/lora.safetensors --lora runs/imitation/lora.safetensors

Latent adversarial diffusion distillation (LADD, arXiv 2403.12015): the student is the model with the
LoRA, the teacher the model without it. The teacher answers first, from noise and in the steps that it
needs; small heads on its features then tell its answers from the student's, and the student learns to
deceive them. Beside it a control that costs less: pi-Flow's imitation (arXiv 2510.14974), by squares and
without heads. Both at the guidance that users have. Kill it at any time: the same command goes on at the
last checkpoint, with the same numbers (same machine and `--threads`).
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections import defaultdict
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kontext_core.errors import InputError
from kontext_core.finetune.adapters import Adapters
from kontext_core.finetune.run_log import RunLog
from kontext_core.finetune.saving import save_lora
from kontext_core.models.flux import Flux
from kontext_core.models.text import TextEncoder
from kontext_core.pipeline import load_pipeline
from kontext_core.weights.files import find

from ..training.adversarial import (
    FeatureHeads,
    block_features,
    deceiving,
    hinge,
    renoising_timesteps,
)
from ..training.batch import STEPS as SHARD_STEPS
from ..training.batch import USES, Group, ShardData, schedule, shards_of, step_groups
from ..training.checkpoint import load_state, save_state
from ..training.ema import EMA
from ..training.few_steps import SHARES, euler, guess, imitation_loss, student_timesteps
from ..training.flow import noised
from ..training.objective import latent_velocity
from ..training.precision import multiplies_bfloat16, plain_attention, train_with
from .fit_pca import SHIPPED, load_pca
from .train_flux import rate
from .train_text import own_text

# What each method weighs its two losses by: deceiving the heads, imitating the teacher's way.
METHODS = {"ladd": (1.0, 0.0), "imitation": (0.0, 1.0), "both": (1.0, 1.0)}
TARGETS = "*_blocks.*, final_layer.*, img_in, time_in.*"
# Options that change how a run is run, not what comes out; models are told by their weights.
FREE = ("run", "model", "pca", "device", "threads", "workers", "save_every", "stop_at")


class Student:
    """The LoRA, the heads, and a step of both.

    Args:
        flux, text: the model; neither is changed.
        args: see `options`.

    Attributes:
        parts: everything that learns or remembers, by its name in a checkpoint.
    """

    def __init__(self, args: argparse.Namespace, flux: Flux, text: TextEncoder) -> None:
        self.args, self.flux, self.text = args, flux, text
        self.device = torch.device(args.device)
        self.deceive, self.imitate = METHODS[args.method]
        for part in (flux, text):
            part.to(self.device).requires_grad_(False)
        self.half = args.precision == "bfloat16"
        if self.half and self.device.type == "cpu":
            train_with(flux, plain_attention)
        self.adapters = Adapters(flux, TARGETS, args.rank, 1.0, args.seed).to(self.device)
        self.heads = FeatureHeads(
            len(args.blocks), flux.params.hidden_size, flux.params.vec_in_dim
        ).to(self.device)
        self.adam = torch.optim.AdamW(
            self.adapters.parameters(), lr=args.rate, betas=(0.5, 0.99), weight_decay=0.0
        )
        self.rival = torch.optim.AdamW(
            self.heads.parameters(), lr=args.head_rate, betas=(0.0, 0.99), weight_decay=0.01
        )
        self.average = EMA(self.adapters.pairs, decay=0.995)
        self.parts: dict[str, Any] = {
            "heads": self.heads, "adam": self.adam, "rival": self.rival, "average": self.average,
        }  # fmt: skip
        self.answers: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {
            "lora": self.adapters.state(),
            **{name: part.state_dict() for name, part in self.parts.items()},
        }

    def averaged(self) -> AbstractContextManager[None]:
        """Inside, the LoRA is the average of its last steps."""
        return self.average.applied()

    def load(self, state: dict[str, Any]) -> None:
        """Take what `state` gave."""
        self.adapters.load(state["lora"])
        for name, part in self.parts.items():
            part.load_state_dict(state[name])

    def step(self, number: int, groups: list[Group]) -> dict[str, float]:
        """Learn from one step's groups; gives the losses per sample."""
        args = self.args
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + number)
        # Heads have to know something before they can teach it.
        warm = 60 if self.deceive else 20
        for optimizer, full, grows in (
            (self.adam, args.rate, warm),
            (self.rival, args.head_rate, 10),
        ):
            share = rate(number, args.steps, args.cool, warm=grows)
            optimizer.param_groups[0]["lr"] = full * share
        count = sum(len(group.target) for group in groups)
        losses: defaultdict[str, float] = defaultdict(float)
        visit = schedule(number, SHARD_STEPS, USES)
        for index, group in enumerate(groups):
            held = group.to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
                with torch.no_grad():
                    words = self.text(held.ids)
                eps, right = self._answer(visit, index, held, words)
                found = self._losses(generator, held, words, eps, right)
            # No loss reaches what another one teaches, so one pass serves all.
            (torch.stack(list(found.values())).sum() / count).backward()
            for name, loss in found.items():
                losses[name] += loss.sum().item() / count
        torch.nn.utils.clip_grad_norm_(self.adapters.parameters(), 1.0)
        for optimizer in (self.adam, self.rival):
            optimizer.step()
            optimizer.zero_grad()
        self.average.update()
        return dict(losses)

    def _answer(
        self, visit: tuple[int, int], index: int, group: Group, words: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Noise and the teacher's answer from it, made when a group is met for the first time."""
        if visit not in self.answers:
            last = visit[0] - USES
            self.answers = {key: kept for key, kept in self.answers.items() if key[0] > last}
        kept = self.answers.setdefault(visit, [])
        if index == len(kept):
            key = f"{self.args.seed}/{visit[0]}/{visit[1]}/{index}"
            seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big")
            generator = torch.Generator().manual_seed(seed)
            eps = torch.randn(group.target.shape, generator=generator).to(self.device)
            right = euler(
                self.flux, *words, eps, self._guidance(len(eps)), group.references,
                self.args.teacher_steps,
            )  # fmt: skip
            kept.append((eps, right))
        return kept[index]

    def _guidance(self, count: int) -> Tensor:
        return torch.full((count,), self.args.guidance, device=self.device)

    def _losses(
        self, generator: torch.Generator, group: Group, words: tuple[Tensor, Tensor],
        eps: Tensor, right: Tensor,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Losses [b] by name; that of the heads does not reach the student, nor the student's them."""
        count, tokens = len(right), group.weight.shape[1]
        t = student_timesteps(count, tokens, SHARES, generator).to(self.device)
        fresh = torch.randn(right.shape, generator=generator).to(self.device)
        u = t * torch.rand(count, generator=generator).to(self.device)
        guidance = self._guidance(count)
        z = noised(right, fresh, t)
        with self.adapters.on(self.flux):
            velocity = latent_velocity(
                self.flux, *words, z, t, guidance, group.references
            )  # fmt: skip
        found: dict[str, Tensor] = {}
        if self.imitate:
            found["imitation"] = self.imitate * imitation_loss(
                self.flux, *words, group, z, velocity, t, u, guidance
            )
        if self.deceive:
            made = guess(z, velocity, t)
            again = renoising_timesteps(
                count, generator, self.args.renoise_mean, self.args.renoise_std
            ).to(self.device)
            noise = torch.randn(right.shape, generator=generator).to(self.device)

            def seen(x: Tensor) -> list[Tensor]:
                return block_features(
                    self.flux, self.args.blocks, *words, noised(x, noise, again), again,
                    guidance, group.references,
                )  # fmt: skip

            def values(features: list[Tensor]) -> Tensor:
                return self.heads(features, again, words[1], right.shape[2] // 2)

            of_made = seen(made)
            with torch.no_grad():
                of_right = seen(right)
            self.heads.requires_grad_(False)
            found["deceiving"] = self.deceive * deceiving(values(of_made))
            self.heads.requires_grad_(True)
            found["heads"] = hinge(values(of_right), values([x.detach() for x in of_made]))
        return found


def options() -> argparse.ArgumentParser:
    """The recipe's options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/ladd"))
    parser.add_argument("--model", default="tiny", help="an embedded model or a model folder")
    parser.add_argument("--pca", type=Path, default=SHIPPED)
    parser.add_argument("--method", choices=METHODS, default="ladd")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--cool", type=int, default=100, help="last steps, with a falling rate")
    parser.add_argument("--batch", type=float, default=0.5, help="multiplies the groups of a step")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-3, help="of the LoRA")
    parser.add_argument(
        "--head-rate", type=float, default=1e-3, help="of the discriminator's heads"
    )
    parser.add_argument(
        "--blocks", type=int, nargs="+", default=[1, 3, 5],
        help="of the teacher, with a head each; double-stream blocks first, from 0",
    )  # fmt: skip
    parser.add_argument("--renoise-mean", type=float, default=-1.0, help="the paper's m")
    parser.add_argument("--renoise-std", type=float, default=1.0, help="the paper's s")
    parser.add_argument("--guidance", type=float, default=2.5, help="of teacher and student")
    parser.add_argument("--teacher-steps", type=int, default=4, help="of the teacher's answers")
    parser.add_argument("--seed", type=int, default=23)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--precision", choices=("auto", "float32", "bfloat16"), default="auto",
        help="auto is bfloat16 where the hardware multiplies it faster, or what the run began with",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--save-every", type=int, default=100)
    parser.add_argument("--stop-at", type=int, help="leave after this step")
    return parser


def _about(args: argparse.Namespace, flux: Flux) -> dict[str, Any]:
    """What a run that goes on must share with its beginning: its options, and the model's weights."""
    weights = hashlib.sha256(args.pca.read_bytes())
    for tensor in flux.state_dict().values():
        weights.update(tensor.float().contiguous().numpy().tobytes())
    told = {name: value for name, value in vars(args).items() if name not in FREE}
    return {**told, "weights": weights.hexdigest()[:16]}


def _check_same(path: Path, then: dict[str, Any], now: dict[str, Any]) -> None:
    other = [name for name in now if then.get(name) != now[name]]
    if other:
        told = "; ".join(f"{name} was {then.get(name)!r}, is {now[name]!r}" for name in other[:6])
        raise InputError(
            f"the run in {path.parent} has other settings ({told}). Give those again to go on with "
            "it, or another folder with --run"
        )


def main(arguments: list[str] | None = None) -> None:
    args = options().parse_args(arguments)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    pipeline = load_pipeline(args.model, dtype=torch.float32)
    text = own_text(pipeline, find(args.model))
    checkpoint = args.run / "last.pt"
    state = load_state(checkpoint) if checkpoint.exists() else None
    if args.precision == "auto":
        # Measured, so a busy machine could decide otherwise the second time.
        half = multiplies_bfloat16(args.device)
        args.precision = "bfloat16" if half else "float32"
        if state is not None:
            args.precision = state["about"].get("precision", args.precision)
    about = _about(args, pipeline.model)
    student = Student(args, pipeline.model, text)
    first, totals = 0, []
    if state is not None:
        _check_same(checkpoint, state["about"], about)
        student.load(state)
        first, totals = state["step"], state["totals"]
        print(f"going on at step {first}", flush=True)
    last = min(args.stop_at or args.steps, args.steps)
    data = ShardData(
        load_pca(args.pca), text.tokenizer, text.params.min_length, seed=args.seed, scale=args.batch
    )
    loader = torch.utils.data.DataLoader(
        data, batch_size=None, sampler=shards_of(first, last), num_workers=args.workers,
        prefetch_factor=2 if args.workers else None,
    )  # fmt: skip
    log = RunLog(args.run / "log.jsonl", first)
    began = time.process_time()
    for step, groups in zip(
        range(first, last), step_groups(iter(loader), first, last), strict=True
    ):
        totals.append(student.step(step, groups))
        done = step + 1
        if done % 20 == 0 or done == last:
            means = {
                name: round(sum(row[name] for row in totals) / len(totals), 5) for name in totals[0]
            }
            row = {"step": done, **means, "seconds": round(time.process_time() - began)}
            print(log.write(row), flush=True)
            totals = []
        if done % args.save_every == 0 or done == last:
            save_state(
                checkpoint, {"step": done, "totals": totals, "about": about, **student.state()}
            )
            told = {**about, "blocks": list(args.blocks), "step": done}
            with student.averaged():
                save_lora(
                    args.run / "lora.safetensors", student.adapters, dtype=torch.float16, told=told
                )
    log.close()


if __name__ == "__main__":
    main()
