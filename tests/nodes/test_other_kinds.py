"""A CLIP, VAE or MODEL that belongs to other weights is refused by name, before anything runs.

On real ComfyUIs tests/native/test_loaders.py does the same with their own.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch


def text(features: int, pooled: int | None) -> list[list[Any]]:
    extra = {} if pooled is None else {"pooled_output": torch.zeros(1, pooled)}
    return [[torch.zeros(1, 5, features), extra]]


@pytest.mark.parametrize(
    ("features", "pooled", "says"),
    [
        (768, 768, r"Stable Diffusion 1's CLIP \(features of 768 numbers, pooled 768\)"),
        (2048, 1280, "SDXL's CLIP"),
        (4096, 2048, "Stable Diffusion 3's CLIP"),
        (4096, 768, "FLUX.1's T5-XXL and CLIP-L"),
        (40, 25, r"another text encoder \(features of 40 numbers, pooled 25\)"),
        (41, 24, r"another text encoder \(features of 41 numbers, pooled 24\)"),
    ],
)
def test_text_of_another_clip(pack: Any, model: Any, features: int, pooled: int, says: str) -> None:
    inputs = {"model": model, "latent_image": {"samples": torch.zeros(1, 16, 8, 8)}, "steps": 1}
    error = pack.error("ShapeError")
    other, own = text(features, pooled), text(40, 24)
    with pytest.raises(error, match=f"positive was made by {says}.*Load Text Encoders"):
        pack.run("KontextSampler", **inputs, positive=other)
    with pytest.raises(error, match=f"negative was made by {says}"):
        pack.run("KontextSampler", **inputs, positive=own, negative=other, cfg=2.0)
    # At cfg 1 nobody looks at it.
    pack.run("KontextSampler", **inputs, positive=own, negative=other)


def test_clip_of_another_model(pack: Any, model: Any, vae: Any) -> None:
    clip = SimpleNamespace(
        tokenize=lambda prompt: prompt,
        encode_from_tokens_scheduled=lambda tokens: text(2048, 1280),
    )
    with pytest.raises(pack.error("ShapeError"), match="the prompt was made by SDXL's CLIP"):
        pack.run("KontextEdit", model=model, clip=clip, vae=vae, prompt="a star", steps=1)


def test_widths_that_nobody_tells_are_left_alone(pack: Any) -> None:
    check = pack.module("nodes.conditioning").check_text
    check(text(7, 7), None, "positive")
    check(text(7, 7), SimpleNamespace(context_in_dim=7, vec_in_dim=None), "positive")
    check(text(7, None), SimpleNamespace(context_in_dim=7, vec_in_dim=8), "positive")
    check("no list", SimpleNamespace(context_in_dim=7, vec_in_dim=8), "positive")


@pytest.mark.parametrize(("channels", "sides"), [(4, 2), (128, 2), (16, 3)])
def test_vae_of_another_model(pack: Any, image: Any, channels: int, sides: int) -> None:
    vae = SimpleNamespace(latent_channels=channels, latent_dim=sides)
    says = f"latents of {channels} channels and {sides} dimensions.*ae.safetensors"
    error = pack.error("InputError")
    with pytest.raises(error, match=says):
        pack.run("KontextReference", image=image(1), vae=vae)
    with pytest.raises(error, match=says):
        pack.run("KontextFinish", samples={"samples": torch.zeros(1, 16, 8, 8)}, vae=vae)
    with pytest.raises(error, match=says):
        pack.run("KontextEdit", image1=image(1), vae=vae, prompt="a star")


def test_model_of_another_kind(pack: Any, clip: Any, vae: Any, image: Any) -> None:
    error = pack.error("KontextError")
    with pytest.raises(error, match="SimpleNamespace.*Kontext: Load Model"):
        pack.run(
            "KontextSampler",
            model=SimpleNamespace(),
            positive=text(40, 24),
            latent_image={"samples": torch.zeros(1, 16, 8, 8)},
        )
    # Before the picture, which is of another kind as well.
    with pytest.raises(error, match="SimpleNamespace.*Kontext: Load Model"):
        pack.run("KontextEdit", model=SimpleNamespace(), image1=torch.zeros(1), prompt="a star")


@pytest.mark.parametrize(
    ("open_", "there"), [("vae", "model"), ("model", "vae")], ids=["no vae", "no model"]
)
def test_an_embedded_one_does_not_stand_in_beside_a_file(
    pack: Any, model: Any, vae: Any, open_: str, there: str
) -> None:
    given = {"model": model, "vae": vae}[there]
    pack.run("KontextEdit", **{there: given}, prompt="a star", steps=1)
    given.resolutions = ((1024, 1024),)
    says = f"{open_} is not connected.*{there} comes from other weights"
    with pytest.raises(pack.error("InputError"), match=says):
        pack.run("KontextEdit", **{there: given}, prompt="a star", steps=1)
    # Together they are the user's choice.
    both = {"model": model, "vae": vae}
    pack.run("KontextEdit", **both, prompt="a star", steps=1, width=64, height=64)
