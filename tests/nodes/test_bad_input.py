"""Every bad input gets a typed error that says what was wrong and what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch


def nan_picture() -> torch.Tensor:
    broken = torch.rand(1, 64, 64, 3)
    broken[0, 10, 10, 1] = float("nan")
    return broken


BAD_PICTURES = [
    pytest.param(nan_picture, "NaN", id="nan"),
    pytest.param(lambda: torch.rand(1, 1, 1, 3), "1x1", id="1x1"),
    # Strides of 0: the check must come before anything is copied.
    pytest.param(lambda: torch.zeros(1).expand(1, 20000, 20000, 3), "20000x20000", id="20000"),
    pytest.param(lambda: torch.zeros(1, 64, 64, 1), "shape", id="one channel"),
    pytest.param(lambda: torch.zeros(1, 64, 64, 3, dtype=torch.uint8), "dtype", id="bytes"),
]


@pytest.mark.parametrize(("make", "says"), BAD_PICTURES)
@pytest.mark.parametrize("fit", ["trained size", "keep"])
def test_reference_picture(
    pack: Any, vae: Any, make: Callable[[], torch.Tensor], says: str, fit: str
) -> None:
    with pytest.raises(pack.error("InputError"), match=says):
        pack.run("KontextReference", image=make(), vae=vae, fit=fit)


@pytest.mark.parametrize(("make", "says"), BAD_PICTURES)
def test_edit_picture(pack: Any, make: Callable[[], torch.Tensor], says: str) -> None:
    with pytest.raises(pack.error("InputError"), match=says):
        pack.run("KontextEdit", image2=make(), prompt="a star")


@pytest.mark.parametrize(("make", "says"), BAD_PICTURES[:2])
def test_vae_encode_picture(vae: Any, pack: Any, make: Any, says: str) -> None:
    with pytest.raises(pack.error("InputError"), match=says):
        vae.encode(make())


def test_reference_takes_one_source(pack: Any, vae: Any, image: Any) -> None:
    error = pack.error("InputError")
    with pytest.raises(error, match="an image and a latent"):
        pack.run(
            "KontextReference",
            image=image(1),
            vae=vae,
            latent={"samples": torch.zeros(1, 16, 8, 8)},
        )
    with pytest.raises(error, match="no VAE"):
        pack.run("KontextReference", image=image(1))


def test_reference_that_is_never_there(pack: Any, vae: Any, image: Any) -> None:
    with pytest.raises(pack.error("InputError"), match="start is 0.5 and end 0.5"):
        pack.run("KontextReference", image=image(1), vae=vae, start=0.5, end=0.5)


def test_two_masks_for_one_reference(pack: Any, vae: Any, image: Any) -> None:
    with pytest.raises(pack.error("ShapeError"), match="batch of 2"):
        pack.run("KontextReference", image=image(1), vae=vae, mask=torch.ones(2, 64, 64))


def test_stitch_without_any_size(pack: Any, encode: Any) -> None:
    with pytest.raises(pack.error("InputError"), match="neither a latent nor a reference"):
        pack.run("KontextStitch", conditioning=encode("a star"))


def test_reference_of_another_kind_of_model(pack: Any) -> None:
    with pytest.raises(pack.error("ShapeError"), match="the reference latent.*4, 8, 8"):
        pack.run("KontextReference", latent={"samples": torch.ones(1, 4, 8, 8)})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"denoise": 0.0}, "denoise is 0"),
        ({"cfg": 3.0}, "nothing is connected to negative"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"seed": -1}, "seed is -1"),
        ({"solver": "magic"}, "magic"),
        ({"schedule": "magic"}, "magic"),
        ({"latent_image": {"samples": torch.ones(1, 4, 8, 8)}}, "4 channels"),
        ({"latent_image": {"samples": torch.ones(1, 16, 1, 8, 8)}}, "latent holds"),
        ({"latent_image": {}}, "NoneType"),
    ],
)
def test_sampler_settings(
    pack: Any, model: Any, encode: Any, changes: dict[str, Any], says: str
) -> None:
    inputs = {
        "model": model,
        "positive": encode("a star"),
        "latent_image": {"samples": torch.zeros(1, 16, 8, 8)},
        "steps": 1,
    }
    with pytest.raises(pack.error("InputError"), match=says):
        pack.run("KontextSampler", **{**inputs, **changes})


def test_conditioning_of_another_text_encoder(pack: Any, model: Any) -> None:
    foreign = [[torch.zeros(1, 5, 4096), {"pooled_output": torch.zeros(1, 768)}]]
    with pytest.raises(pack.error("ShapeError"), match="belong together"):
        pack.run(
            "KontextSampler",
            model=model,
            positive=foreign,
            latent_image={"samples": torch.zeros(1, 16, 8, 8)},
            steps=1,
        )


def test_finish(pack: Any, vae: Any) -> None:
    with pytest.raises(pack.error("ShapeError"), match="4, 8, 8"):
        pack.run("KontextFinish", samples={"samples": torch.zeros(1, 4, 8, 8)}, vae=vae)
    with pytest.raises(pack.error("InputError"), match="no original"):
        pack.run(
            "KontextFinish",
            samples={"samples": torch.zeros(1, 16, 8, 8)},
            vae=vae,
            mask=torch.ones(1, 64, 64),
        )


@pytest.mark.parametrize("name", ["embedded: huge", "embedded: ", ""])
def test_unknown_embedded_model(pack: Any, name: str) -> None:
    with pytest.raises(pack.error("ModelNotFoundError"), match="embedded: tiny"):
        pack.run("KontextLoadModel", model_name=name)


def test_unknown_file_without_a_host(pack: Any) -> None:
    module = pack.module("nodes.host")
    module.set_host(module.PlainHost())
    with pytest.raises(pack.error("ModelNotFoundError"), match="no-such.safetensors"):
        pack.run("KontextLoadVAE", model_name="no-such.safetensors")


def test_two_different_text_encoders(pack: Any) -> None:
    with pytest.raises(pack.error("InputError"), match="same twice"):
        pack.run("KontextLoadTextEncoders", clip_l_name="embedded: other")


@pytest.mark.parametrize("prompt", ["", "  \n "])
def test_empty_instruction(pack: Any, prompt: str) -> None:
    with pytest.raises(pack.error("InputError"), match="empty"):
        pack.run("KontextEdit", prompt=prompt)
    said = pack.nodes["KontextEdit"].validate_inputs(prompt=prompt)
    assert isinstance(said, str)
    assert "empty" in said


def test_instruction_that_comes_over_a_link_is_judged_later(pack: Any) -> None:
    assert pack.nodes["KontextEdit"].validate_inputs(prompt=None) is True
    assert pack.nodes["KontextEdit"].validate_inputs(prompt="a star") is True


@pytest.mark.parametrize(
    ("size", "says"), [((64, 0), "both"), ((0, 64), "both"), ((72, 64), "multiple of 16")]
)
def test_size_of_an_edit(pack: Any, size: tuple[int, int], says: str) -> None:
    with pytest.raises(pack.error("InputError"), match=says):
        pack.run("KontextEdit", prompt="a star", width=size[0], height=size[1])
