"""What `edit` takes, in every form people have it, checked before anything is loaded or run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from PIL.Image import Image as PillowImage
from torch import Tensor

from .checks import is_number
from .errors import InputError
from .images import as_image
from .lora.load import Lora
from .names import write_numbers
from .stitcher import Reference

log = logging.getLogger(__name__)

# Of every FLUX.1 autoencoder: by them a latent is told from a picture.
LATENT_CHANNELS = 16
Image: TypeAlias = str | Path | PillowImage | Tensor | Reference
Images: TypeAlias = Image | Sequence[Image]
Loras: TypeAlias = str | Path | Lora | Sequence[str | Path | Lora | tuple[str | Path | Lora, float]]


def check_instruction(prompt: str, name: str = "the instruction") -> str:
    """Return the instruction stripped of surrounding blanks.

    Raises:
        InputError: nothing is left, or it is not a text.
    """
    if not isinstance(prompt, str):
        raise InputError(f"{name} is a {type(prompt).__name__}; expected a text")
    if not prompt.strip():
        raise InputError(
            f"{name} is empty; say what to make or to change, for example "
            '"put the star of image 1 on the background of image 2"'
        )
    return prompt.strip()


def as_prompts(prompt: str | Sequence[str]) -> list[str]:
    """One or several instructions as a list, each checked."""
    if isinstance(prompt, str):
        return [check_instruction(prompt)]
    if not isinstance(prompt, Sequence) or not prompt:
        raise InputError(f"prompt is {prompt!r}; expected an instruction, or a list of some")
    names = [f"instruction {number}" for number in range(1, len(prompt) + 1)]
    return [check_instruction(one, name) for one, name in zip(prompt, names, strict=True)]


def as_named(prompts: list[str], names: Sequence[str | None], count: int) -> list[str]:
    """Instructions with numbers in place of the names of `count` pictures; logs what was replaced.

    Raises:
        InputError: more names than pictures, or some that can't be used.
    """
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise InputError(f"names is {names!r}; expected a list, of a text or None for each picture")
    if len(names) > count:
        raise InputError(f"{len(names)} names for {count} pictures; give at most one for each")
    made = []
    for prompt in prompts:
        named = write_numbers(prompt, names)
        for written, number in named.found:
            log.info("%r in the instruction is image %d", written, number)
        for name, number in named.absent:
            log.warning("%r, the name of image %d, is not in the instruction", name, number)
        made.append(named.text)
    return made


def as_list(images: Images) -> list[Image]:
    """One or several pictures as a list."""
    if isinstance(images, Sequence) and not isinstance(images, str):
        return list(images)
    # A single one; a tensor would come apart into its rows.
    return [] if images is None else [images]


def as_given(image: Image, name: str) -> Tensor | Reference:
    """A checked picture [b, h, w, 3], or a reference that is encoded already.

    Raises:
        InputError, ShapeError: it is neither, or can't be used.
    """
    if isinstance(image, Reference):
        if not isinstance(image.latent, Tensor):
            raise InputError(
                f"{name} is a Reference whose latent is a {type(image.latent).__name__}; encode "
                "pictures with Pipeline.reference"
            )
        return image
    latent = isinstance(image, Tensor) and image.ndim == 4 and image.shape[1] == LATENT_CHANNELS
    if isinstance(image, Tensor) and latent and image.shape[-1] != 3:
        return Reference(image)
    return as_image(image, name)


def as_loras(loras: Loras) -> list[tuple[str | Path | Lora, float]]:
    """LoRAs with their strengths, their kinds checked."""
    parts = []
    for number, item in enumerate(_several(loras), 1):
        path, strength = item if isinstance(item, tuple) and len(item) == 2 else (item, 1.0)
        if not isinstance(path, str | Path | Lora):
            raise InputError(
                f"LoRA {number} is {item!r}; expected a path, a loaded LoRA, or one of them and its "
                'strength, ("a.safetensors", 0.8)'
            )
        if not is_number(strength):
            raise InputError(f"LoRA {number}: strength is {strength!r}; expected a finite number")
        parts.append((path, strength))
    return parts


def _several(loras: Loras) -> Sequence[Any]:
    """A single one as a list."""
    if isinstance(loras, str | Path | Lora):
        return [loras]
    pair = isinstance(loras, tuple) and len(loras) == 2 and is_number(loras[1])
    if pair:
        return [loras]
    if not isinstance(loras, Sequence):
        raise InputError(f"loras is {loras!r}; expected a list of paths, or of (path, strength)")
    return loras
