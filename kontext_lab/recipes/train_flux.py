"""Recipe, part 4: the transformer, on linear latents, with the text encoder of part 3.

    python -m kontext_lab train flux --run runs/flux --begin kontext_core/assets/tiny --more 20000

Every step takes text to image, one-reference and two-reference samples together. Muon on the
matrices of the blocks, AdamW on everything else; the rate is held and falls to zero over the last
`--cool` steps. Kill it at any time: the same command goes on at the last checkpoint, with the same
numbers as if nothing had happened (same machine and `--threads`).

Several GPUs, or machines: `torchrun --nproc-per-node 8 -m kontext_lab.recipes.train_flux --device cuda
--folder runs/flux` and the other options as ever; see `training/scaling.py`.

`--begin` takes the weights of a model folder, or another run's checkpoint with its optimizers, so
that a long run at full rate can be cooled more than once: `--begin runs/flux/last.pt --more 2500
--cool 2500 --run runs/cooled`.
"""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kontext_core.config import FluxParams
from kontext_core.finetune.run_log import RunLog
from kontext_core.models.flux import Flux
from kontext_core.models.text import TextEncoder
from kontext_core.pipeline import load_pipeline

from ..training.batch import (
    OFF_GRID,
    UNNAMED,
    Group,
    ShardData,
    dropped,
    shards_of,
    step_groups,
)
from ..training.begin import build_flux
from ..training.checkpoint import load_state, save_state
from ..training.ema import EMA
from ..training.flow import sample_timesteps
from ..training.muon import Muon
from ..training.objective import CellLabels, group_velocity, weighted_flow_loss
from ..training.precision import multiplies_bfloat16, plain_attention, train_with
from ..training.scaling import CHECKPOINTING, Ranks, block_call, compile_blocks
from ..training.spread import spread_states, whole
from ..world.names import COLOURS, KINDS
from .fit_pca import SHIPPED, load_pca
from .probes import Probes
from .train_text import build_text, own_text

LABELS = 0.1  # weight of the cell labels beside the flow loss
REFERENCE_NOISE = 0.15


def load_text(path: Path) -> TextEncoder:
    """The averaged text encoder of part 3."""
    state = load_state(path)
    words = state["words"]
    text = build_text(words, state["text_params"]["width"], state["text_params"]["depth"])
    average = state["ema"]["average"]
    text.load_state_dict({
        key.removeprefix("text."): value for key, value in average.items()
        if key.startswith("text.")
    })  # fmt: skip
    return text


def optimizers(
    flux: Flux, *others: torch.nn.Module, text: torch.nn.Module, dtype: torch.dtype = torch.float32
) -> tuple[Muon, torch.optim.AdamW]:
    """Muon for the blocks' matrices, AdamW for the rest; the text encoder, if it moves, slowly.

    `dtype` is the one that Muon iterates in.
    """
    matrices = [
        p for n, p in flux.named_parameters() if p.ndim == 2 and "_blocks." in n and "mod" not in n
    ]
    # How sharp attention can get: at the common rate this would take thousands of steps to grow.
    sharpness = [p for n, p in flux.named_parameters() if n.endswith("_norm.scale")]
    chosen = {id(p) for p in (*matrices, *sharpness)}
    rest = [p for part in (flux, *others) for p in part.parameters() if id(p) not in chosen]
    groups = [
        {"params": rest, "base": 1.5e-3},
        {"params": list(text.parameters()), "base": 3e-4},
        {"params": sharpness, "base": 1e-2, "weight_decay": 0.0},
    ]
    muon = Muon(matrices, lr=0.02, dtype=dtype)
    return muon, torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01)


def rate(step: int, steps: int, cool: int, warm: int = 100) -> float:
    """Share of the full learning rate: warm-up, hold, linear fall to zero over the last `cool`."""
    return min(1.0, (step + 1) / warm, (steps - step) / max(1, cool))


def noise_for(
    group: Group, generator: torch.Generator, reference_noise: float, extra: float = 0.3
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """t, eps, guidance and references of one group, from the step's generator alone.

    `extra`: see `sample_timesteps`; more noise teaches layout, less teaches detail.
    """
    b = len(group.target)
    t = sample_timesteps(b, group.weight.shape[1], extra=extra, generator=generator)
    eps = torch.randn(group.target.shape, generator=generator)
    # No effect before distillation: the model only learns not to mind the value.
    guidance = 1 + 4 * torch.rand(b, generator=generator)
    references = []
    for reference in group.references:
        # A user's reference may be a picture of ours from the turn before, with its faults.
        level = reference_noise * torch.rand(b, 1, 1, 1, generator=generator).square()
        references.append(reference + level * torch.randn(reference.shape, generator=generator))
    return t, eps, guidance, references


def networks(args: argparse.Namespace) -> tuple[Flux, TextEncoder, dict[str, Any]]:
    """Transformer and text encoder to begin with, and the state of the run to go on from, if any."""
    checkpoint = args.run / "last.pt"
    source = checkpoint if checkpoint.exists() else args.begin
    if source is not None and source.is_dir():
        pipeline = load_pipeline(source)
        flux = Flux(pipeline.model.params)
        flux.load_state_dict(pipeline.model.state_dict())
        text = load_text(args.text) if args.text else own_text(pipeline, source)
        return flux, text, {}
    if source is None:
        if args.text is None:
            raise SystemExit("a run from scratch needs --text, the checkpoint of part 3")
        return (
            build_flux(args.width, args.heads, args.depth, args.singles),
            load_text(args.text),
            {},
        )
    state = load_state(source)
    flux = Flux(FluxParams(**state["flux_params"]))
    text = build_text(state["words"], state["text_params"]["width"], state["text_params"]["depth"])
    if args.text and not checkpoint.exists():
        text = load_text(args.text)
        if text.tokenizer.words != state["words"]:
            raise SystemExit(f"{source} belongs to another vocabulary than {args.text}")
        for values in (state["text"], state["ema"]["average"]):
            prefix = "" if values is state["text"] else "text."
            values.update({prefix + key: value for key, value in text.state_dict().items()})
    return flux, text, state


class Trainer:
    """One step: its groups forward and backward, then both optimizers and the average.

    Args:
        state: of a checkpoint to go on from, or empty.
        ranks: None is one process.

    Attributes:
        parts: everything that learns or remembers, by its name in a checkpoint.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        flux: Flux,
        text: TextEncoder,
        state: Mapping[str, Any] | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.args, self.flux, self.text = args, flux, text
        self.ranks = ranks or Ranks(0, 1, torch.device(args.device))
        self.device = self.ranks.device
        half = args.precision == "bfloat16"
        if args.precision == "auto":
            half = multiplies_bfloat16(args.device)
        # It is a matter of timing, so the first decides for all.
        self.half = self.ranks.total(half and self.ranks.first)[0] > 0
        self.labels = CellLabels(flux, len(KINDS), len(COLOURS))
        self.call = block_call(args.checkpointing)
        for name, part in (("text", text), ("flux", flux), ("labels", self.labels)):
            if state:
                part.load_state_dict(state[name])
            part.to(self.device)
        text.requires_grad_(args.train_text)
        if self.half and self.device.type == "cpu":
            train_with(flux, plain_attention)
        if args.compile:
            compile_blocks(flux)
        self.ranks.shard(flux, text, self.labels, methods={self.labels: "loss"})
        self.muon, self.adam = optimizers(
            flux, self.labels, text=text, dtype=torch.bfloat16 if self.half else torch.float32
        )
        self.ema = EMA({"flux": flux, "text": text}, decay=args.ema)
        self.parts: Mapping[str, Any] = {
            "flux": flux, "text": text, "labels": self.labels, "muon": self.muon,
            "adam": self.adam, "ema": self.ema,
        }  # fmt: skip
        if state:
            for name in ("muon", "adam", "ema"):
                self.parts[name].load_state_dict(state[name])
        for optimizer in (self.muon, self.adam):
            spread_states(optimizer)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it; all processes have to call this."""
        return {name: whole(part.state_dict()) for name, part in self.parts.items()}

    def step(self, number: int, groups: list[Group], share: float) -> tuple[float, float, int]:
        """Learn from one step's groups at a share of the full rates.

        Returns flow loss and label loss per sample, and the number of samples.
        """
        generator = torch.Generator().manual_seed(self.args.seed * 1_000_003 + number)
        self.muon.param_groups[0]["lr"] = 0.02 * share
        for group in self.adam.param_groups:
            group["lr"] = group["base"] * share
        count = sum(len(group.target) for group in groups)
        flow = cells = 0.0
        for group in groups:
            by_flow, by_cell = self._losses(dropped(group, generator), generator)
            # Processes' gradients are averaged; their sum is wanted.
            ((by_flow + LABELS * by_cell).sum() * (self.ranks.world / count)).backward()
            flow += by_flow.sum().item() / count
            cells += by_cell.sum().item() / count
        flow, cells = self.ranks.total(flow, cells)
        learned = [p for g in self.adam.param_groups for p in g["params"]]
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        for optimizer in (self.muon, self.adam):
            optimizer.step()
            optimizer.zero_grad()
        self.ema.update()
        return flow, cells, count

    def _losses(self, held: Group, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        *noise, blurred = noise_for(held, generator, REFERENCE_NOISE, self.args.extra)
        held, mine = self.ranks.share(held, *noise, *blurred)
        t, eps, guidance, *references = (x.to(self.device) for x in mine)
        group = held.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            with torch.set_grad_enabled(self.args.train_text):
                txt, vec = self.text(group.ids)
            velocity = group_velocity(
                self.flux, txt, vec, group, t, eps, guidance, references, self.call
            ).float()
            by_cell = self.labels.loss(txt.shape[1], group.kind, group.colour, group.weight)
        return weighted_flow_loss(velocity, group.target, eps, group.weight), by_cell


def options() -> argparse.ArgumentParser:
    """The recipe's options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    # torchrun takes --run for an option of its own.
    parser.add_argument("--run", "--folder", type=Path, default=Path("runs/flux"))
    parser.add_argument("--begin", type=Path, help="a model folder, or another run's checkpoint")
    parser.add_argument("--pca", type=Path, default=SHIPPED)
    parser.add_argument("--text", type=Path, help="checkpoint of part 3, in place of --begin's")
    parser.add_argument("--steps", type=int, default=12_000, help="of the whole run")
    parser.add_argument("--more", type=int, help="steps from --begin on, in place of --steps")
    parser.add_argument("--cool", type=int, default=2_000, help="last steps, with a falling rate")
    parser.add_argument("--rate", type=float, default=1.0, help="share of the full rates")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--singles", type=int, default=4)
    parser.add_argument("--batch", type=float, default=1.0, help="multiplies the groups of a step")
    parser.add_argument("--train-text", action="store_true", help="let the text encoder move too")
    parser.add_argument("--extra", type=float, default=0.25, help="towards noise, in logits")
    parser.add_argument("--ema", type=float, default=0.998, help="decay of the averaged weights")
    parser.add_argument("--unnamed", type=float, default=UNNAMED, help="share of unnamed colours")
    parser.add_argument("--off-grid", type=float, default=OFF_GRID, help="share off the grid")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--precision", choices=("auto", "float32", "bfloat16"), default="auto",
        help="auto is bfloat16 where the hardware multiplies it faster",
    )  # fmt: skip
    parser.add_argument("--checkpointing", choices=CHECKPOINTING, default="none")
    parser.add_argument("--compile", action="store_true", help="each block by itself")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--save-every", type=int, default=200)
    parser.add_argument("--no-probes", action="store_true", help="log the training's loss alone")
    parser.add_argument("--stop-at", type=int, help="leave after this step")
    return parser


def main(arguments: list[str] | None = None) -> None:
    args = options().parse_args(arguments)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    ranks = Ranks.start(args.device)
    flux, text, state = networks(args)
    trainer = Trainer(args, flux, text, state, ranks)
    words = text.tokenizer.words
    first = state.get("step", 0)
    totals = [tuple(pair) for pair in state.get("totals", [])]
    seen = state.get("seen", 0)
    began = state.get("began", first)
    if not (args.run / "last.pt").exists():
        began = first
    steps = args.steps if args.more is None else began + args.more
    last = min(args.stop_at or steps, steps)
    if ranks.first:
        print(f"going on at step {first}" if first else "beginning", "of", steps, flush=True)
    pca = load_pca(args.pca)
    data = ShardData(
        pca, text.tokenizer, text.params.min_length, seed=args.seed, scale=args.batch,
        unnamed=args.unnamed, off_grid=args.off_grid,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(
        data, batch_size=None, sampler=shards_of(first, last), num_workers=args.workers,
        prefetch_factor=2 if args.workers else None,
    )  # fmt: skip
    probes = None if args.no_probes else Probes(pca, text)
    log = RunLog(args.run / "log.jsonl", first) if ranks.first else None
    wanted_stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: wanted_stop.append(number))
    if ranks.first:
        print(sum(p.numel() for p in flux.parameters()), "parameters", flush=True)
    start, made = time.time(), 0
    for step, groups in zip(
        range(first, last), step_groups(iter(loader), first, last), strict=True
    ):
        share = args.rate * rate(step - began, steps - began, args.cool)
        flow, cells, count = trainer.step(step, groups, share)
        seen += count
        made += count
        totals.append((flow, cells))
        done = step + 1
        if done % 50 == 0 or done == last:
            seconds = time.time() - start
            row = {"step": done, "loss": round(sum(f for f, _ in totals) / len(totals), 4),
                   "cells": round(sum(c for _, c in totals) / len(totals), 4),
                   "samples": seen, "seconds": round(seconds),
                   "ms": round(1000 * seconds / made, 2)}  # fmt: skip
            totals = []
            due = done % 500 == 0 or done in (100, 200, 300, 400) or done == last
            if probes is not None and due:
                with trainer.ema.applied():
                    row.update(probes(flux, text, trainer.device))
            if log is not None:
                print(log.write(row), flush=True)
        # All stop after the same step, whichever of them was told to.
        stopping = ranks.total(len(wanted_stop))[0] > 0
        if done % args.save_every == 0 or done == last or stopping:
            parts = trainer.state()
            if ranks.first:
                save_state(args.run / "last.pt", {
                    "step": done, "seen": seen, "began": began, "totals": totals, "words": words,
                    **parts,
                    "flux_params": asdict(flux.params), "text_params": asdict(text.params),
                })  # fmt: skip
        if stopping:
            break
    ranks.stop()


if __name__ == "__main__":
    main()
