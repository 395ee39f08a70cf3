"""What the autoencoder alone loses, by kind of scene: nothing the model draws can be better."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from kontext_core.metrics import ms_ssim, psnr, ssim
from kontext_core.pipeline import Pipeline

from ..world.names import CREATURES, GLYPHS, LOOKS, SHAPES, STYLES, TEXTURES
from ..world.render import render
from ..world.scene import random_scene
from ..world.thing import Scene
from .held_out import Advance

# What one picture there and back costs, in model evaluations; for progress only.
PASSED = 2


def _plain(rng: random.Random, **options: object) -> Scene:
    values = {"held_out": True, "gradient": 0.0, "textures": 0.0}
    return random_scene(rng, rng.choice((1, 2, 3)), **{**values, **options})  # type: ignore[arg-type]


def _boxed(rng: random.Random) -> Scene:
    scene = _plain(rng)
    return replace(scene, box=scene.things[0])


def _styled(style: str) -> Callable[[random.Random], Scene]:
    return lambda rng: replace(_plain(rng, kinds=SHAPES + CREATURES), style=style)


def _lit(look: str) -> Callable[[random.Random], Scene]:
    return lambda rng: replace(_plain(rng), look=look)


def _textured(texture: str) -> Callable[[random.Random], Scene]:
    return lambda rng: replace(_plain(rng), texture=texture)


SCENES: dict[str, Callable[[random.Random], Scene]] = {
    "shapes": lambda rng: _plain(rng, kinds=SHAPES),
    "creatures": lambda rng: _plain(rng, kinds=CREATURES),
    "glyphs": lambda rng: _plain(rng, kinds=GLYPHS),
    "gradient": lambda rng: _plain(rng, gradient=1.0),
    **{f"texture {name}": _textured(name) for name in TEXTURES if name != "plain"},
    **{f"look {name}": _lit(name) for name in LOOKS if name != "plain"},
    **{f"style {name}": _styled(name) for name in STYLES if name != "plain"},
    "box": _boxed,
}


@torch.no_grad()
def reconstruction(
    pipeline: Pipeline,
    count: int = 48,
    *,
    seed: int = 0,
    size: tuple[int, int] = (64, 64),
    tick: Advance = lambda count: None,
) -> dict[str, dict[str, float]]:
    """Encoded and decoded again: `count` held-out pictures of every kind in `SCENES`, and "all".

    Returns:
        Per kind: psnr and psnr_p10 (lowest tenth) in dB, ssim, and distance = 1 - MS-SSIM over
        three scales (a structural distance; nothing in it is learned). "all" also has
        latent_std, the spread of the latents in the model's space, 1 by design.
    """
    rows: dict[str, dict[str, float]] = {}
    gathered: list[dict[str, Tensor]] = []
    spread = []
    for name, make in SCENES.items():
        rng = random.Random(f"{seed}/reconstruction/{name}")
        x = render([make(rng) for _ in range(count)], *size)
        backs = []
        for part in x.split(32):
            put = part.to(pipeline.model.device, pipeline.model.dtype)
            raw = pipeline.autoencoder.encode(put * 2 - 1)
            spread.append(pipeline.model.latent_format.process_in(raw).float().flatten().cpu())
            backs.append((pipeline.autoencoder.decode(raw).float() / 2 + 0.5).clamp(0, 1).cpu())
            tick(len(part) * PASSED)
        back = torch.cat(backs)
        values = {"psnr": psnr(back, x), "ssim": ssim(back, x), "distance": 1 - ms_ssim(back, x)}
        gathered.append(values)
        rows[name] = _row(values)
    every = {key: torch.cat([values[key] for values in gathered]) for key in gathered[0]}
    rows["all"] = {**_row(every), "latent_std": round(float(torch.cat(spread).std()), 4)}
    return rows


def _row(values: dict[str, Tensor]) -> dict[str, float]:
    found = {key: round(float(value.mean()), 4) for key, value in values.items()}
    found["psnr_p10"] = round(float(values["psnr"].quantile(0.1)), 4)
    return found
