"""Recipe, part 4: the transformer, on linear latents, with the text encoder of part 3.

    python -m kontext_lab train flux --run runs/flux --steps 12000

Every step takes text to image, one-reference and two-reference samples together. Muon on the
matrices of the blocks, AdamW on everything else; the rate is held and falls to zero over the last
`--cool` steps. Kill it at any time: the same command goes on at the last checkpoint, with the same
numbers as if nothing had happened (same machine and `--threads`). `--begin OTHER/last.pt` goes on
from another run's state, so a long run at full rate can be cooled down more than once.
"""

from __future__ import annotations

import argparse
import random
import signal
import time
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from kontext_core.config import FluxParams
from kontext_core.models.flux import Flux
from kontext_core.models.text import TextEncoder

from ..training.batch import Group, StepData, encode_group, token_ids
from ..training.checkpoint import load_state, save_state
from ..training.ema import EMA
from ..training.flow import sample_timesteps
from ..training.muon import Muon
from ..training.objective import CellLabels, group_velocity, weighted_flow_loss
from ..training.run_log import RunLog
from ..world.scene import COLOURS, KINDS
from ..world.tasks import make_sample
from .fit_pca import load_pca
from .train_text import build_text

HELD_SEED = 987_654
LABELS = 0.1  # weight of the cell labels beside the flow loss


def build_flux(width: int = 128, heads: int = 4, depth: int = 2, singles: int = 4) -> Flux:
    """The transformer with its starting weights."""
    flux = Flux(
        FluxParams(
            vec_in_dim=128, context_in_dim=128, hidden_size=width, num_heads=heads, depth=depth,
            depth_single_blocks=singles,
            axes_dim=(width // heads - 24, 12, 12) if width // heads <= 48 else (16, 24, 24),
        )
    )  # fmt: skip
    for name, parameter in flux.named_parameters():
        # Modulation starts without an opinion: no shift, no scale, half-open gates.
        if "mod" in name and name.endswith("lin.weight"):
            torch.nn.init.zeros_(parameter)
        elif "mod" in name and name.endswith("lin.bias"):
            parts = parameter.data.view(-1, 3, width)
            parts.zero_()
            parts[:, 2] = 0.5
        elif name.startswith("final_layer"):
            torch.nn.init.zeros_(parameter)
    prefer_places(flux)
    return flux


@torch.no_grad()
def prefer_places(flux: Flux, strength: float = 1.5) -> None:
    """Some heads start out looking at the same place of the target, of reference 1 and of 2.

    Copying what an edit leaves alone needs exactly that, and rotary positions make it slow to
    find: neighbours are one radian apart in the fastest pair only. Query and key biases in the
    fastest pair of each axis give a logit proportional to cos(dt - d) + cos(dh) + cos(dw), with
    d the index the head looks at. Training is free to move away from it.
    """
    p = flux.params
    size = p.hidden_size // p.num_heads
    starts = [sum(p.axes_dim[:axis]) for axis in range(3)]
    biases = [block.img_attn.qkv.bias for block in flux.double_blocks]
    biases += [block.linear1.bias for block in flux.single_blocks]
    for bias in biases:
        for index in range(3):  # head 0 and those after 3 start without a preference
            head = (index + 1) * size
            for axis, start in enumerate(starts):
                turn = torch.tensor(float(-index if axis == 0 else 0))
                bias[head + start] = strength
                bias[p.hidden_size + head + start] = strength * turn.cos()
                bias[p.hidden_size + head + start + 1] = strength * turn.sin()


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
    flux: Flux, *others: torch.nn.Module, text: torch.nn.Module
) -> tuple[Muon, torch.optim.AdamW]:
    """Muon for the blocks' matrices, AdamW for the rest; the text encoder, if it moves, slowly."""
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
    return Muon(matrices, lr=0.02), torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01)


class Probes:
    """Flow loss at t = 0.9 on held-out cases: right words, scrambled words, 1 and 2 exchanged.

    An order-blind model has three equal numbers. Same noise for all, EMA weights.
    """

    def __init__(self, pca, text: TextEncoder, count: int = 64) -> None:
        rng = random.Random(HELD_SEED)
        self.groups: dict[str, Group] = {}
        for name, references in (("t2i", 0), ("edit", 1), ("two", 2)):
            samples = []
            while len(samples) < count:
                sample = make_sample(rng, references=references, held_out=True)
                if references == 1 or (sample.ordered and (references == 0 or sample.swapped)):
                    samples.append(sample)
            target, latents = encode_group(samples, pca, (64, 64))
            prompts = {"right": [s.prompt for s in samples]}
            prompts["scrambled"] = [" ".join(rng.sample(p.split(), len(p.split())))
                                    for p in prompts["right"]]  # fmt: skip
            if references == 2:
                prompts["exchanged"] = [exchanged(p) for p in prompts["right"]]
            for kind, texts in prompts.items():
                ids = token_ids(text.tokenizer, texts, text.params.min_length)
                none = torch.zeros(count, 16, 4, dtype=torch.long)
                self.groups[f"{name}/{kind}"] = Group(
                    ids, target, latents, none, none, torch.ones(count, 16)
                )

    @torch.no_grad()
    def __call__(self, flux: Flux, text: TextEncoder, device: torch.device) -> dict[str, float]:
        out = {}
        for name, held in self.groups.items():
            group = held.to(device)
            eps = torch.randn(held.target.shape, generator=torch.Generator().manual_seed(3))
            t, guidance = (torch.full((len(eps),), v, device=device) for v in (0.9, 2.5))
            eps = eps.to(device)
            velocity = group_velocity(flux, *text(group.ids), group, t, eps, guidance)
            loss = weighted_flow_loss(velocity.float(), group.target, eps, group.weight)
            out[name] = round(float(loss.mean()), 4)
        return out


def exchanged(prompt: str) -> str:
    """The same sentence with the two images exchanged, however they are numbered."""
    pairs = (("1", "2"), ("one", "two"), ("first", "second"))
    other = {a: b for pair in pairs for a, b in (pair, pair[::-1])}
    return " ".join(other.get(word, word) for word in prompt.replace(",", " ,").split())


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


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/flux"))
    parser.add_argument("--begin", type=Path, help="another run's checkpoint to go on from")
    parser.add_argument("--pca", type=Path, default=Path("runs/pca.safetensors"))
    parser.add_argument("--text", type=Path, default=Path("runs/text/last.pt"))
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument("--cool", type=int, default=2_000, help="last steps, with a falling rate")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--singles", type=int, default=4)
    parser.add_argument("--batch", type=float, default=1.0, help="multiplies the groups of a step")
    parser.add_argument("--train-text", action="store_true", help="let the text encoder move too")
    parser.add_argument("--extra", type=float, default=0.75, help="towards noise, in logits")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--save-every", type=int, default=200)
    parser.add_argument("--stop-at", type=int, help="leave after this step")
    args = parser.parse_args(arguments)
    device = torch.device(args.device)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    pca = load_pca(args.pca)
    text = load_text(args.text)
    words = text.tokenizer.words
    flux = build_flux(args.width, args.heads, args.depth, args.singles)
    labels = CellLabels(flux, len(KINDS), len(COLOURS))
    for part in (text, flux, labels):
        part.to(device)
    text.requires_grad_(args.train_text)
    muon, adam = optimizers(flux, labels, text=text)
    ema = EMA({"flux": flux, "text": text}, decay=0.998)
    parts = {"flux": flux, "text": text, "labels": labels, "muon": muon, "adam": adam, "ema": ema}
    checkpoint = args.run / "last.pt"
    first, totals = 0, []
    source = checkpoint if checkpoint.exists() else args.begin
    if source is not None:
        state = load_state(source)
        if state["words"] != words:
            raise SystemExit(f"{source} belongs to another text encoder than {args.text}")
        for name, part in parts.items():
            part.load_state_dict(state[name])
        first, totals = state["step"], state["totals"]
        print(f"going on at step {first}")
    minimum = text.params.min_length
    data = StepData(pca, text.tokenizer, minimum, seed=args.seed, scale=args.batch)
    last = args.stop_at or args.steps
    loader = torch.utils.data.DataLoader(
        data, batch_size=None, sampler=range(first, last), num_workers=args.workers,
        prefetch_factor=6 if args.workers else None,
    )  # fmt: skip
    probes = Probes(pca, text)
    log = RunLog(args.run / "log.jsonl", first)
    wanted_stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: wanted_stop.append(number))
    print(sum(p.numel() for p in flux.parameters()), "parameters")
    began, seen = time.time(), 0
    for step, groups in zip(range(first, last), loader, strict=True):
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
        share = rate(step, args.steps, args.cool)
        muon.param_groups[0]["lr"] = 0.02 * share
        for group in adam.param_groups:
            group["lr"] = group["base"] * share
        count = sum(len(group.target) for group in groups)
        flow = cells = 0.0
        for held in groups:
            t, eps, guidance, references = noise_for(held, generator, 0.15, args.extra)
            group, t, eps, guidance = (
                held.to(device),
                t.to(device),
                eps.to(device),
                guidance.to(device),
            )
            references = [r.to(device) for r in references]
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                txt, vec = text(group.ids)
                velocity = group_velocity(flux, txt, vec, group, t, eps, guidance, references)
                by_flow = weighted_flow_loss(velocity, group.target, eps, group.weight)
                by_cell = labels.loss(txt.shape[1], group.kind, group.colour, group.weight)
            ((by_flow + LABELS * by_cell).sum() / count).backward()
            flow += by_flow.sum().item() / count
            cells += by_cell.sum().item() / count
        torch.nn.utils.clip_grad_norm_([p for g in adam.param_groups for p in g["params"]], 1.0)
        muon.step()
        adam.step()
        muon.zero_grad()
        adam.zero_grad()
        ema.update()
        seen += count
        totals.append((flow, cells))
        done = step + 1
        if done % 50 == 0 or done == last:
            row = {"step": done, "loss": round(sum(f for f, _ in totals) / len(totals), 4),
                   "cells": round(sum(c for _, c in totals) / len(totals), 4),
                   "samples": done * count, "seconds": round(time.time() - began),
                   "ms": round(1000 * (time.time() - began) / seen, 2)}  # fmt: skip
            totals = []
            if done % 500 == 0 or done in (100, 200, 300, 400) or done == last:
                with ema.applied():
                    row.update(probes(flux, text, device))
            print(log.write(row), flush=True)
        if done % args.save_every == 0 or done == last or wanted_stop:
            save_state(checkpoint, {
                "step": done, "totals": totals, "words": words,
                **{name: part.state_dict() for name, part in parts.items()},
                "flux_params": asdict(flux.params), "text_params": asdict(text.params),
            })  # fmt: skip
        if wanted_stop:
            print(f"stopped at step {done}; the same command goes on from here")
            return


if __name__ == "__main__":
    main()
