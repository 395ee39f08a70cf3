"""Recipe, part 3: the transformer and its text encoder, from scratch, on linear latents.

    python training/train_flux.py --run runs/flux --steps 24000

Runs beside part 2 (the autoencoder). Every step takes text to image, one-reference and
two-reference samples together; more than half of the samples are sentences whose word order
matters. Muon on the matrices of the blocks, AdamW on everything else; the rate is held, then
falls to zero. Stop it at any time: the same command goes on at the last checkpoint. On several
cores start one process each with --world N --rank 0 .. N-1 and a share of the --groups.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist
from fit_pca import load_pca
from torch import Tensor

from kontext_core.config import FluxParams, TextEncoderParams
from kontext_core.latents import pack
from kontext_core.models.flux import Flux
from kontext_core.models.text import FIRST_WORD, TextEncoder
from kontext_core.stitcher import Reference, stitch
from kontext_core.training.batch import Group, StepData, encode_group, token_ids
from kontext_core.training.checkpoint import load_state, save_state
from kontext_core.training.ema import EMA
from kontext_core.training.flow import flow_loss, noised, sample_timesteps
from kontext_core.training.muon import Muon
from kontext_core.training.world.tasks import make_sample
from kontext_core.training.world.wording import vocabulary

HELD_SEED = 987_654


def build(words: list[str], width: int = 128) -> tuple[Flux, TextEncoder]:
    """Both models with their starting weights."""
    text = TextEncoder(
        TextEncoderParams(
            vocab_size=FIRST_WORD + len(words), width=width, depth=2, num_heads=4,
            out_dim=width, vec_dim=width, min_length=16, max_length=128,
        ),
        words,
    )  # fmt: skip
    torch.nn.init.normal_(text.embed.weight, std=0.5)
    flux = Flux(
        FluxParams(
            vec_in_dim=width, context_in_dim=width, hidden_size=width, num_heads=4, depth=2,
            depth_single_blocks=4, axes_dim=(8, 12, 12),
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
    return flux, text


_CONTEXTS: dict[tuple, Tensor] = {}


def ids_for(target: Tensor, references: list[Tensor]) -> Tensor:
    """Rotary ids of target and references, from the same `stitch` that inference uses."""
    key = (tuple(target.shape[1:]), *(tuple(r.shape[1:]) for r in references))
    if key not in _CONTEXTS:
        shape = (1, *target.shape[1:])
        blank = [Reference(torch.zeros(1, *r.shape[1:])) for r in references]
        _CONTEXTS[key] = stitch(shape, blank).img_ids
    return _CONTEXTS[key]


def group_loss(
    flux: Flux, text: TextEncoder, group: Group, t: Tensor, eps: Tensor, guidance: Tensor,
    reference_noise: float = 0.0,
) -> Tensor:  # fmt: skip
    """Rectified-flow loss of each sample; the loss sees target tokens only."""
    txt, vec = text(group.ids)
    x, noise = pack(group.target), pack(eps)
    references = [pack(r) for r in group.references]
    if reference_noise:
        # References come from an encoder that only nearly matches the linear latents.
        references = [r + reference_noise * torch.randn_like(r) for r in references]
    img = torch.cat([noised(x, noise, t), *references], dim=1)
    velocity = flux(
        img, ids_for(group.target, group.references), txt,
        torch.zeros(1, txt.shape[1], 3), t, vec, guidance, target_tokens=x.shape[1],
    )  # fmt: skip
    return flow_loss(velocity, x, noise)


class Probes:
    """Loss at t = 0.9 on held-out cases: with the right words, scrambled words, 1 and 2 exchanged.

    An order-blind model has three equal numbers. Same noise for all, EMA weights.
    """

    def __init__(self, pca, tokenizer, min_length: int, count: int = 64) -> None:
        rng = random.Random(HELD_SEED)
        self.groups: dict[str, list[tuple[str, Group]]] = {}
        for name, references in (("t2i", 0), ("edit", 1), ("two", 2)):
            samples = []
            while len(samples) < count:
                sample = make_sample(rng, references=references, held_out=True)
                if references == 1 or (sample.ordered and (references == 0 or sample.swapped)):
                    samples.append(sample)
            target, latents = encode_group(samples, pca, 64, 64)
            prompts = {"right": [s.prompt for s in samples]}
            prompts["scrambled"] = [" ".join(rng.sample(p.split(), len(p.split())))
                                    for p in prompts["right"]]  # fmt: skip
            if references == 2:
                flip = str.maketrans("12", "21")
                prompts["exchanged"] = [p.translate(flip) for p in prompts["right"]]
            self.groups[name] = [
                (kind, Group(token_ids(tokenizer, texts, min_length), target, latents))
                for kind, texts in prompts.items()
            ]

    @torch.no_grad()
    def __call__(self, flux: Flux, text: TextEncoder) -> dict[str, float]:
        out = {}
        for name, variants in self.groups.items():
            for kind, group in variants:
                b = len(group.target)
                eps = torch.randn(group.target.shape, generator=torch.Generator().manual_seed(3))
                loss = group_loss(
                    flux, text, group, torch.full((b,), 0.9), eps, torch.full((b,), 2.5)
                )
                out[f"{name}/{kind}"] = round(float(loss.mean()), 4)
        return out


def average_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """Mean over all processes, in one message; a parameter without gradient counts as zero."""
    flat = torch.cat([
        (p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in parameters
    ])  # fmt: skip
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    start = 0
    for p in parameters:
        p.grad = flat[start : start + p.numel()].view_as(p).clone()
        start += p.numel()


def rate(step: int, steps: int, hold: float, warm: int = 100) -> float:
    """Share of the full learning rate: warm-up, hold, linear fall to zero."""
    start = hold * steps
    return min(1.0, (step + 1) / warm, max(0.0, (steps - step) / (steps - start)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/flux"))
    parser.add_argument("--pca", type=Path, default=Path("runs/pca.safetensors"))
    parser.add_argument("--steps", type=int, default=24_000)
    parser.add_argument("--hold", type=float, default=0.5, help="share before the rate falls")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--save-every", type=int, default=500)
    parser.add_argument(
        "--groups", default="14,30,20", help="samples a step with 0, 1 and 2 references"
    )
    parser.add_argument("--rank", type=int, default=0, help="of this process")
    parser.add_argument("--world", type=int, default=1, help="processes that average gradients")
    parser.add_argument("--port", type=int, default=29_511, help="where they meet on this machine")
    parser.add_argument("--stop-at", type=int, default=None, help="leave after this step")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    if args.world > 1:
        meet = f"tcp://127.0.0.1:{args.port}"
        dist.init_process_group("gloo", init_method=meet, rank=args.rank, world_size=args.world)
    pca = load_pca(args.pca)
    words = vocabulary()
    flux, text = build(words)
    matrices = [
        p for n, p in flux.named_parameters() if p.ndim == 2 and "_blocks." in n and "mod" not in n
    ]
    chosen = {id(p) for p in matrices}
    rest = [p for p in (*flux.parameters(), *text.parameters()) if id(p) not in chosen]
    muon = Muon(matrices, lr=0.02)
    adam = torch.optim.AdamW(rest, lr=1.5e-3, betas=(0.9, 0.98), weight_decay=0.01)
    ema = EMA({"flux": flux, "text": text}, decay=0.998)
    checkpoint = args.run / "last.pt"
    first = 0
    if checkpoint.exists():
        state = load_state(checkpoint)
        if state["words"] != words:
            raise SystemExit("the world's vocabulary changed since this run began; start another")
        flux.load_state_dict(state["flux"])
        text.load_state_dict(state["text"])
        muon.load_state_dict(state["muon"])
        adam.load_state_dict(state["adam"])
        ema.load_state_dict(state["ema"])
        first = state["step"]
        print(f"going on at step {first}")
    data = StepData(
        pca, text.tokenizer, text.params.min_length, seed=args.seed + 1_000 * args.rank,
        groups=tuple(enumerate(int(count) for count in args.groups.split(","))),
    )  # fmt: skip
    last = args.stop_at or args.steps
    loader = torch.utils.data.DataLoader(
        data, batch_size=None, sampler=range(first, last), num_workers=args.workers,
        prefetch_factor=6 if args.workers else None,
    )  # fmt: skip
    probes = Probes(pca, text.tokenizer, text.params.min_length)
    args.run.mkdir(parents=True, exist_ok=True)
    log = (args.run / "log.jsonl").open("a", encoding="utf-8")
    print(sum(p.numel() for p in (*matrices, *rest)), "parameters")
    began, seen = time.time(), 0
    totals: list[float] = []
    for step, groups in zip(range(first, last), loader, strict=True):
        noise_seed = (args.seed + 1_000 * args.rank) * 1_000_003 + step
        generator = torch.Generator().manual_seed(noise_seed)
        share = rate(step, args.steps, args.hold)
        muon.param_groups[0]["lr"] = 0.02 * share
        adam.param_groups[0]["lr"] = 1.5e-3 * share
        count = sum(len(group.target) for group in groups)
        losses = []
        for group in groups:
            b = len(group.target)
            tokens = group.target.shape[2] * group.target.shape[3] // 4
            t = sample_timesteps(b, tokens, generator=generator)
            eps = torch.randn(group.target.shape, generator=generator)
            # Guidance has no effect yet: the model only learns not to mind the value.
            guidance = 1 + 4 * torch.rand(b, generator=generator)
            loss = group_loss(flux, text, group, t, eps, guidance, 0.05).sum() / count
            loss.backward()
            losses.append(loss.item() * count / b)
        if args.world > 1:
            average_gradients([*matrices, *rest])
        torch.nn.utils.clip_grad_norm_(rest, 1.0)
        muon.step()
        adam.step()
        muon.zero_grad()
        adam.zero_grad()
        ema.update()
        seen += count
        totals.append(sum(losses) / len(losses))
        done = step + 1
        if args.rank:
            continue
        if done % 100 == 0 or done == last:
            row = {"step": done, "loss": round(sum(totals) / len(totals), 4),
                   "groups": [round(x, 3) for x in losses], "seconds": round(time.time() - began),
                   "ms": round(1000 * (time.time() - began) / seen, 2)}  # fmt: skip
            totals = []
            if done % 500 == 0 or done in (100, 200, 300, 400) or done == last:
                with ema.applied():
                    row.update(probes(flux, text))
            print(json.dumps(row), flush=True)
            log.write(json.dumps(row) + "\n")
            log.flush()
        if done % args.save_every == 0 or done == last:
            save_state(checkpoint, {
                "step": done, "words": words, "flux": flux.state_dict(),
                "text": text.state_dict(), "muon": muon.state_dict(), "adam": adam.state_dict(),
                "ema": ema.state_dict(), "flux_params": asdict(flux.params),
                "text_params": asdict(text.params),
            })  # fmt: skip


if __name__ == "__main__":
    main()
