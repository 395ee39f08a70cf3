"""Recipe, part 2: the autoencoder, anchored on the linear latents of part 1.

    python training/train_autoencoder.py --run runs/autoencoder --steps 9000

The encoder regresses the scaled principal components; the decoder learns pictures from those
components plus a little noise, and in the last part from the encoder's own latents. The published
scale and shift are inside the weights: `encode` gives raw = z / 0.3611 + 0.1159. Trained end to
end instead, an autoencoder of this size stays below 18 dB in the same time.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from fit_pca import load_pca
from torch import Tensor

from kontext_core.config import AutoEncoderParams
from kontext_core.evaluation.metrics import psnr, ssim
from kontext_core.latents import FLUX_LATENT
from kontext_core.models.autoencoder import AutoEncoder
from kontext_core.training.checkpoint import load_state, save_state
from kontext_core.training.ema import EMA
from kontext_core.training.world.render import render
from kontext_core.training.world.tasks import make_sample

PARAMS = AutoEncoderParams(ch=16, ch_mult=(1, 2, 4, 8), num_res_blocks=1, norm_groups=4)
CANVASES = ((64, 64), (64, 64), (64, 64), (64, 96), (96, 64), (96, 96))


class Pictures(torch.utils.data.Dataset[Tensor]):
    """Item n is the picture batch of step n, [count, 3, H, W] in -1..1."""

    def __init__(self, seed: int, count: int, held_out: bool = False) -> None:
        self.seed, self.count, self.held_out = seed, count, held_out

    def __getitem__(self, step: int) -> Tensor:
        rng = random.Random(f"{self.seed}/{step}")
        height, width = (64, 64) if self.held_out else rng.choice(CANVASES)
        count = max(4, self.count * 4096 // (height * width))
        scenes = []
        for _ in range(count):
            sample = make_sample(rng, held_out=self.held_out)
            scenes.append(rng.choice((sample.target, *sample.references)))
        return render(scenes, height, width) * 2 - 1


def edge_loss(a: Tensor, b: Tensor) -> Tensor:
    """Mean difference of horizontal and vertical gradients: keeps outlines from blurring."""
    return sum(F.l1_loss(a.diff(dim=d), b.diff(dim=d)) for d in (-1, -2))  # type: ignore[return-value]


@torch.no_grad()
def held_out_scores(model: AutoEncoder, pictures: Tensor, pca) -> dict[str, float]:
    """PSNR of the whole trip, of the decoder on exact components, and the encoder's error."""
    scores: dict[str, list[Tensor]] = {"psnr": [], "ssim": [], "exact": [], "z": []}
    for x in pictures.split(32):
        z = pca.encode(x)
        raw = model.encode(x)
        back = model.decode(raw).clamp(-1, 1) / 2 + 0.5
        exact = model.decode(FLUX_LATENT.process_out(z)).clamp(-1, 1) / 2 + 0.5
        scores["psnr"].append(psnr(back, x / 2 + 0.5))
        scores["ssim"].append(ssim(back, x / 2 + 0.5))
        scores["exact"].append(psnr(exact, x / 2 + 0.5))
        scores["z"].append((FLUX_LATENT.process_in(raw) - z).square().flatten(1).mean(1).sqrt())
    return {name: round(float(torch.cat(values).mean()), 4) for name, values in scores.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/autoencoder"))
    parser.add_argument("--pca", type=Path, default=Path("runs/pca.safetensors"))
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--joint", type=float, default=0.75, help="share before the joint part")
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--stop-at", type=int, default=None)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    pca = load_pca(args.pca)
    model = AutoEncoder(PARAMS).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.98))
    ema = EMA({"model": model}, decay=0.997)
    checkpoint = args.run / "last.pt"
    first = 0
    if checkpoint.exists():
        state = load_state(checkpoint)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        ema.load_state_dict(state["ema"])
        first = state["step"]
        print(f"going on at step {first}")
    last = args.stop_at or args.steps
    loader = torch.utils.data.DataLoader(
        Pictures(args.seed, args.batch), batch_size=None, sampler=range(first, last),
        num_workers=1, prefetch_factor=4,
    )  # fmt: skip
    held = Pictures(99, 96, held_out=True)[0]
    args.run.mkdir(parents=True, exist_ok=True)
    log = (args.run / "log.jsonl").open("a", encoding="utf-8")
    began = time.time()
    for step, x in zip(range(first, last), loader, strict=True):
        share = min(1.0, (step + 1) / 100, max(0.02, 1 - step / args.steps))
        optimizer.param_groups[0]["lr"] = args.lr * share
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
        x = x.contiguous(memory_format=torch.channels_last)
        z = pca.encode(x)
        raw = model.encode(x)
        anchor = (FLUX_LATENT.process_in(raw) - z).square().mean()
        noise = 0.05 * torch.randn(z.shape, generator=generator)
        if step < args.joint * args.steps:
            seen = FLUX_LATENT.process_out(z + noise)
        else:
            # The decoder now sees what it will see later; the anchor holds the latents still.
            seen = raw.detach() + noise / FLUX_LATENT.scale_factor
        back = model.decode(seen)
        error = (back - x).square().mean()
        loss = 2 * anchor + error + 0.1 * F.l1_loss(back, x) + 0.1 * edge_loss(back, x)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.update()
        done = step + 1
        if done % 250 == 0 or done == last:
            row = {"step": done, "error": round(error.item(), 5), "anchor": round(anchor.item(), 5),
                   "seconds": round(time.time() - began)}  # fmt: skip
            with ema.applied():
                row.update(held_out_scores(model, held, pca))
            print(json.dumps(row), flush=True)
            log.write(json.dumps(row) + "\n")
            log.flush()
            save_state(checkpoint, {
                "step": done, "model": model.state_dict(), "optimizer": optimizer.state_dict(),
                "ema": ema.state_dict(), "params": asdict(PARAMS),
            })  # fmt: skip


if __name__ == "__main__":
    main()
