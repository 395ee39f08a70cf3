"""Recipe, part 1: principal components of 8x8 patches of the world. A few seconds.

    python -m kontext_lab train pca --out runs/pca.safetensors

The latents of everything that follows are these, scaled; see kontext_lab/training/patch_pca.py.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from kontext_core.metrics import psnr
from kontext_core.partial import whole_file

from ..training.patch_pca import PatchPCA, fit_patch_pca
from ..world.render import render
from ..world.tasks import make_sample

# What the shipped autoencoder's encoder computes; every model that is to use it needs these.
SHIPPED = Path(__file__).with_name("pca.safetensors")


def pictures(seed: int, count: int, held_out: bool = False) -> Tensor:
    """Pictures [count, 3, 64, 64] in -1..1: of each task's sample the answer or a reference."""
    rng = random.Random(seed)
    samples = [make_sample(rng, held_out=held_out) for _ in range(count)]
    scenes = [rng.choice((sample.target, *sample.references)) for sample in samples]
    return torch.cat([render(scenes[i : i + 64]) for i in range(0, count, 64)]) * 2 - 1


def load_pca(path: Path) -> PatchPCA:
    """What this recipe wrote."""
    return PatchPCA(**load_file(path))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/pca.safetensors"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=4000)
    args = parser.parse_args(arguments)
    pca = fit_patch_pca(pictures(args.seed, args.count))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(args.out) as file:
        file.write(save(pca.state_dict()))

    fresh = pictures(args.seed + 1, 500, held_out=True)
    latent = pca.encode(fresh)
    linear = psnr(pca.decode(latent).clamp(-1, 1) / 2 + 0.5, fresh / 2 + 0.5)
    print(f"latent std {latent.std():.3f}, per channel {latent.std((0, 2, 3)).tolist()}")
    print(f"linear reconstruction of held-out pictures {linear.mean():.2f} dB")


if __name__ == "__main__":
    main()
