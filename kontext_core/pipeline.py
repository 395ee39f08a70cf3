"""The whole way in one call: pictures and an instruction in, a picture out. Needs no host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .errors import InputError
from .guidance import Conditioning
from .images import check_image, resize, to_model, to_picture
from .models.autoencoder import AutoEncoder
from .models.flux import Flux
from .models.text import TextEncoder
from .resolutions import check_size, nearest_resolution
from .sampling import Callback, make_noise, sample
from .schedule import make_timesteps
from .stitcher import Reference, stitch
from .weights.load import load_autoencoder, load_model, load_text_encoders

if TYPE_CHECKING:
    from .text.pair import FluxTextEncoders

__all__ = ["Pipeline", "check_instruction", "edit", "load_pipeline"]


@dataclass(frozen=True, eq=False)
class Pipeline:
    """The three networks that belong together."""

    model: Flux
    autoencoder: AutoEncoder
    text_encoder: TextEncoder | FluxTextEncoders


def load_pipeline(
    name: str | Path = "tiny",
    *,
    vae: str | Path | None = None,
    t5: str | Path | None = None,
    clip_l: str | Path | None = None,
    max_length: int = 256,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Pipeline:
    """All three networks.

    Args:
        name: "tiny", a model folder, a diffusers pipeline's folder or an all-in-one checkpoint, which
            have everything; or a file of the transformer alone, together with the others.
        vae, t5, clip_l: files of the other networks, in place of what `name` has.
        max_length: T5's padding, see `load_text_encoders`.
        dtype, device: see `load_model`.

    Raises:
        ModelNotFoundError, CheckpointError: as `load_model`.
    """
    model = load_model(name, dtype=dtype, device=device)
    autoencoder = load_autoencoder(vae or name, dtype=dtype, device=device)
    text_encoder = load_text_encoders(
        t5 or name, clip_l, max_length=max_length, dtype=dtype, device=device
    )
    return Pipeline(model, autoencoder, text_encoder)


def check_instruction(prompt: str, name: str = "the instruction") -> str:
    """Return the instruction stripped of surrounding blanks.

    Raises:
        InputError: nothing is left.
    """
    if not prompt.strip():
        raise InputError(
            f"{name} is empty; say what to make or to change, for example "
            '"put the star of image 1 on the background of image 2"'
        )
    return prompt.strip()


def edit(
    model: str | Path | Pipeline,
    prompt: str,
    images: Sequence[Tensor] = (),
    *,
    seed: int = 0,
    steps: int = 28,
    guidance: float | None = 2.5,
    width: int | None = None,
    height: int | None = None,
    batch: int = 1,
    negative: str | None = None,
    cfg: float = 1.0,
    method: str = "offset",
    denoise: float = 1.0,
    solver: str = "euler",
    schedule: str = "kontext",
    loras: Sequence[tuple[str | Path, float]] = (),
    callback: Callback | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Tensor:
    """Edit pictures by an instruction, or make one from words alone.

    Args:
        model: a loaded `Pipeline`, or what `load_pipeline` takes as its `name`.
        prompt: the instruction; pictures are "image 1", "image 2", ... in it.
        images: [1, h, w, 3] floats in 0..1 each. Every one is resized to the model's nearest
            trained size, the first one's is the result's unless width and height are given.
        seed: 0 .. 2^64 - 1; same noise as ComfyUI's for the same latent size.
        steps, denoise, schedule: see `schedule.make_timesteps`. denoise below 1 starts from the
            first picture.
        guidance: see `guidance.Conditioning`.
        width, height: of the result in pixels, multiples of 16, both or neither.
        batch: how many results, 1..64, from one noise stream.
        negative, cfg: true classifier-free guidance, off at cfg 1.
        method: how references are placed, see `stitch`.
        loras: (file, strength) of each LoRA for this one run, as low-rank branches in place of any
            that were set before; keys that match nothing are logged.
        solver, callback, should_stop: see `sampling.sample`.

    Returns:
        [batch, height, width, 3] float32 in 0..1 on the CPU.

    Raises:
        InputError (ShapeError), ModelNotFoundError, CheckpointError, Cancelled.
    """
    prompt = check_instruction(prompt)
    if not 1 <= batch <= 64:
        raise InputError(f"batch is {batch}; expected 1 to 64")
    if (width is None) != (height is None):
        raise InputError(f"width is {width} and height {height}; give both, or neither")
    if denoise < 1 and not images:
        raise InputError(f"denoise is {denoise}, which starts from a picture, but none was given")
    for number, image in enumerate(images, 1):
        check_image(image, f"image {number}")
    pipeline = model if isinstance(model, Pipeline) else load_pipeline(model)
    flux, autoencoder = pipeline.model, pipeline.autoencoder
    latent_format = flux.latent_format

    if width is not None and height is not None:
        size = check_size(width, height)
    elif images:
        size = nearest_resolution(images[0].shape[2], images[0].shape[1], flux.resolutions)
    else:
        size = nearest_resolution(1, 1, flux.resolutions)

    with torch.no_grad(), _with_loras(flux, loras):
        references = []
        for image in images:
            fitted = nearest_resolution(image.shape[2], image.shape[1], flux.resolutions)
            references.append(Reference(autoencoder.encode(to_model(resize(image, *fitted)))))
        start = None
        if denoise < 1:
            start = autoencoder.encode(to_model(resize(images[0], *size)))
        scale = latent_format.downscale
        shape = (batch, latent_format.channels, size[1] // scale, size[0] // scale)
        context = stitch(shape, references, method=method, latent_format=latent_format)
        wanted = Conditioning(*pipeline.text_encoder.encode([prompt]), guidance)
        unwanted = None
        if cfg != 1.0:
            unwanted = Conditioning(*pipeline.text_encoder.encode([negative or ""]), guidance)
        latent = sample(
            flux,
            context,
            wanted,
            make_timesteps(steps, context.target_tokens, schedule=schedule, denoise=denoise),
            noise=make_noise(seed, shape),
            latent=start,
            negative=unwanted,
            cfg=cfg,
            solver=solver,
            callback=callback,
            should_stop=should_stop,
        )
        return to_picture(autoencoder.decode(latent)).cpu()


@contextmanager
def _with_loras(flux: Flux, loras: Sequence[tuple[str | Path, float]]) -> Iterator[None]:
    """LoRAs on the model for as long as this lasts."""
    if not loras:
        yield
        return
    from .lora.apply import set_loras
    from .lora.load import load_lora

    set_loras(flux, [(load_lora(path), strength) for path, strength in loras])
    try:
        yield
    finally:
        set_loras(flux, [])
