"""A control for the embedded autoencoder: a linear one that loses nothing when it encodes again.

The embedded encoder computes scaled principal components of 8x8 patches (`training.linear_encoder`). Here
is the linear map that it computes, fitted, and the best linear decoder of it. By the normal equations
their product is the identity on latents, A (S A' (A S A')^-1) = 1 with S the patches' covariance: decoding
and encoding again changes nothing but by rounding and clamping.
"""

from __future__ import annotations

import random

import torch
from einops import rearrange
from torch import Tensor

from kontext_core.pipeline import Pipeline

from ..world.render import render
from ..world.scene import random_scene
from .drift_arms import Codec

SIDE = 8


def _patches(pictures: Tensor) -> Tensor:
    return rearrange(pictures, "n c (h p) (w q) -> n h w (c p q)", p=SIDE, q=SIDE)


@torch.no_grad()
def linear_codec(pipeline: Pipeline, count: int = 256, seed: int = 0) -> tuple[Codec, float]:
    """The codec, and how far its latents are from the embedded encoder's: root mean square over their
    deviation. Fitted on `count` drawn scenes.
    """
    rng = random.Random(f"{seed}/linear codec")
    scenes = [random_scene(rng, rng.choice((1, 2, 3))) for _ in range(count)]
    pictures = torch.cat([render(scenes[i : i + 32], 64, 64) for i in range(0, count, 32)])
    made = torch.cat([pipeline.autoencoder.encode(part * 2 - 1) for part in pictures.split(32)])
    x = _patches(pictures).flatten(0, 2).double()
    z = made.movedim(1, -1).flatten(0, 2).double()
    mean_x, mean_z = x.mean(0), z.mean(0)
    # A little of white noise in every pixel: some patterns never occur in drawn scenes.
    covariance = (x - mean_x).T @ (x - mean_x) / len(x) + 1e-6 * torch.eye(x.shape[1])
    forth = torch.linalg.solve(covariance, (x - mean_x).T @ (z - mean_z) / len(x)).T
    inner = forth @ covariance @ forth.T
    back = torch.linalg.solve(inner, forth @ covariance).T
    residual = (x - mean_x) @ forth.T + mean_z - z
    off = float(residual.square().mean().sqrt() / z.std())
    a, b = forth.float(), back.float()
    m, k = mean_x.float(), mean_z.float()

    def encode(pictures: Tensor) -> Tensor:
        return ((_patches(pictures) - m) @ a.T + k).movedim(-1, 1).contiguous()

    def decode(latents: Tensor) -> Tensor:
        patches = (latents.movedim(1, -1) - k) @ b.T + m
        return rearrange(patches, "n h w (c p q) -> n c (h p) (w q)", p=SIDE, q=SIDE, c=3)

    return Codec(encode, decode), off
