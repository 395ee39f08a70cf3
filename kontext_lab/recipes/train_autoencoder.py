"""Recipe, part 2: the autoencoder of the linear latents of part 1. About 45 minutes of one core.

    python -m kontext_lab train autoencoder --run runs/autoencoder --pca runs/pca.safetensors

Nothing is left to learn for the encoder: its weights are written down so that it gives the scaled
components exactly, published scale and shift included (kontext_lab/training/linear_encoder.py).
The decoder starts as the linear inverse (linear_decoder.py) and learns, from those latents plus a
little noise, what a linear map can't know. Trained end to end instead, an autoencoder of this size
stays below 18 dB in the same time; started at random, its decoder leaves textures out for long.

A run that was stopped goes on at its last checkpoint and gives the same numbers: pictures and
noise depend on the seed and the step alone.
"""

from __future__ import annotations

import argparse
import random
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kontext_core.config import AutoEncoderParams
from kontext_core.finetune.run_log import RunLog
from kontext_core.latents import FLUX_LATENT
from kontext_core.metrics import psnr, ssim
from kontext_core.models.autoencoder import AutoEncoder, Decoder

from ..training.checkpoint import load_state, save_state
from ..training.ema import EMA
from ..training.linear_decoder import write_linear_decoder
from ..training.linear_encoder import write_linear_encoder
from ..training.muon import Muon
from ..training.patch_pca import PatchPCA
from ..world.render import render
from ..world.tasks import make_sample
from .fit_pca import SHIPPED, load_pca, pictures

PARAMS = AutoEncoderParams(
    ch=16, ch_mult=(1, 2, 4, 8), num_res_blocks=1, norm_groups=4, decoder_side=128
)
CANVASES = ((64, 64), (64, 64), (64, 64), (64, 96), (96, 64), (96, 96), (128, 128))
# Height, width and share of held-out pictures in an evaluation.
HELD_OUT = ((64, 64, 1), (64, 96, 1 / 4), (96, 64, 1 / 4), (96, 96, 1 / 4), (128, 128, 1 / 8))


class PictureBatches(torch.utils.data.Dataset[Tensor]):
    """Item n is the picture batch of step n, [about count * 64 * 64 / (H * W), 3, H, W], -1..1."""

    def __init__(self, seed: int, count: int) -> None:
        self.seed, self.count = seed, count

    def __getitem__(self, step: int) -> Tensor:
        rng = random.Random(f"{self.seed}/{step}")
        height, width = rng.choice(CANVASES)
        return scenes(rng, max(1, self.count * 4096 // (height * width)), height, width)


def scenes(rng: random.Random, count: int, height: int, width: int, held_out=False) -> Tensor:
    """Pictures [count, 3, height, width] in -1..1, of answers and of references."""
    samples = [make_sample(rng, held_out=held_out) for _ in range(count)]
    picked = [rng.choice((sample.target, *sample.references)) for sample in samples]
    return render(picked, height, width) * 2 - 1


def build(pca: PatchPCA, seed: int, params: AutoEncoderParams = PARAMS):
    """The model a run starts with, and what training has to restore in it after every step."""
    torch.manual_seed(seed)
    model = AutoEncoder(params)
    write_linear_encoder(model.encoder, pca, params)
    model.encoder.requires_grad_(False)
    sample = pca.encode(pictures(seed, 96))
    fixed = write_linear_decoder(model.decoder, pca, params, sample)
    return model, fixed


def optimizers(decoder: Decoder, lr: float, adam_lr: float, written: float) -> list[Any]:
    """Muon on the kernels inside, AdamW on the last one, biases and norms.

    What carries the linear inverse (the steps up and the first block after each) moves by only
    `written` of the rate; the rest starts by adding nothing and may hurry.
    """
    carries = re.compile(r"up\.\d\.upsample|up\.[012]\.block\.0|conv_in")
    free, written_kernels, others = [], [], []
    for name, parameter in decoder.named_parameters():
        if parameter.ndim < 4 or name.startswith("conv_out"):
            others.append(parameter)
        elif carries.match(name):
            written_kernels.append(parameter)
        else:
            free.append(parameter)
    return [
        Muon(free, lr=lr),
        Muon(written_kernels, lr=lr * written),
        torch.optim.AdamW(others, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def picture_loss(back: Tensor, x: Tensor) -> Tensor:
    """Mean over pictures of the root of the squared error, plus a little for outlines.

    The root lies between the squared error, which hard pictures rule, and its logarithm, the dB.
    """
    error = (back - x).square().flatten(1).mean(1)
    edges = sum(F.l1_loss(back.diff(dim=d), x.diff(dim=d)) for d in (-1, -2))
    return (error + 1e-5).sqrt().mean() + 0.1 * F.l1_loss(back, x) + 0.1 * edges


@torch.no_grad()
def held_out_scores(model: AutoEncoder, held: dict[str, Tensor], pca) -> dict[str, float]:
    """PSNR of the whole trip by size, SSIM at the first size, and the encoder's RMS error."""
    row: dict[str, float] = {}
    for name, x in held.items():
        raw = torch.cat([model.encode(part) for part in x.split(12)])
        back = torch.cat([model.decode(part) for part in raw.split(12)]).clamp(-1, 1) / 2 + 0.5
        suffix = "_" + name if row else ""
        if not row:
            row["ssim"] = float(ssim(back, x / 2 + 0.5).mean())
            row["z"] = float((FLUX_LATENT.process_in(raw) - pca.encode(x)).square().mean().sqrt())
        row["psnr" + suffix] = float(psnr(back, x / 2 + 0.5).mean())
    return {key: round(value, 4) for key, value in row.items()}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/autoencoder"))
    parser.add_argument("--pca", type=Path, default=SHIPPED)
    parser.add_argument("--steps", type=int, default=2700)
    parser.add_argument("--batch", type=int, default=16, help="pictures of 64x64 per step")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--lr", type=float, default=0.005)
    parser.add_argument("--adam-lr", type=float, default=3e-4)
    parser.add_argument("--written", type=float, default=0.1, help="see optimizers()")
    parser.add_argument("--noise", type=float, default=0.04, help="on latents of variance 1")
    parser.add_argument("--every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--held", type=int, default=96, help="held-out pictures of 64x64")
    parser.add_argument("--stop-at", type=int, default=None)
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    pca = load_pca(args.pca)
    model, fixed = build(pca, args.seed)
    model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    steppers = optimizers(model.decoder, args.lr, args.adam_lr, args.written)
    rates = [stepper.param_groups[0]["lr"] for stepper in steppers]
    ema = EMA({"model": model}, decay=0.995)
    checkpoint = args.run / "last.pt"
    first = 0
    if checkpoint.exists():
        state = load_state(checkpoint)
        model.load_state_dict(state["model"])
        for stepper, kept in zip(steppers, state["optimizers"], strict=True):
            stepper.load_state_dict(kept)
        ema.load_state_dict(state["ema"])
        fixed.take()
        first = state["step"]
        print(f"going on at step {first}", flush=True)
    last = args.stop_at or args.steps
    loader = torch.utils.data.DataLoader(
        PictureBatches(args.seed, args.batch), batch_size=None, sampler=range(first, last),
        num_workers=1, prefetch_factor=4,
    )  # fmt: skip
    held = {
        f"{w}x{h}": scenes(random.Random(99), max(1, int(part * args.held)), h, w, held_out=True)
        for h, w, part in HELD_OUT
    }
    log = RunLog(args.run / "log.jsonl", first)
    began = time.time()
    for step, x in zip(range(first, last), loader, strict=True):
        share = min(1.0, (step + 1) / 100, max(0.01, 1.2 * (1 - step / args.steps)))
        for stepper, rate in zip(steppers, rates, strict=True):
            stepper.param_groups[0]["lr"] = rate * share
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
        z = pca.encode(x)
        z = z + args.noise * torch.randn(z.shape, generator=generator)
        raw = FLUX_LATENT.process_out(z).contiguous(memory_format=torch.channels_last)
        back = model.decode(raw)
        loss = picture_loss(back, x)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.decoder.parameters(), 1.0)
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad()
        fixed.restore()
        ema.update()
        done = step + 1
        if done % args.every == 0 or done == last:
            error = (back.detach() - x).square().mean()
            row = {"step": done, "loss": round(loss.item(), 5), "error": round(error.item(), 5),
                   "seconds": round(time.time() - began)}  # fmt: skip
            with ema.applied():
                row.update(held_out_scores(model, held, pca))
            print(log.write(row), flush=True)
            save_state(checkpoint, {
                "step": done, "model": model.state_dict(), "ema": ema.state_dict(),
                "optimizers": [stepper.state_dict() for stepper in steppers],
                "params": asdict(model.params),
            })  # fmt: skip


if __name__ == "__main__":
    main()
