"""A self-contained FLUX.1 Kontext: references, sampler, autoencoder, weights. Knows no host.

    from kontext_core import edit, load_image
    image = edit("tiny", "put the star of image 1 on the background of image 2", [a, b], seed=7)

Names are resolved on first use, so that importing the package stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "AutoEncoder": ".models.autoencoder",
    "Cancelled": ".errors",
    "CheckpointError": ".errors",
    "Conditioning": ".guidance",
    "Context": ".stitcher",
    "Flux": ".models.flux",
    "InputError": ".errors",
    "KontextError": ".errors",
    "LatentFormat": ".latents",
    "ModelNotFoundError": ".errors",
    "Pipeline": ".pipeline",
    "Reference": ".stitcher",
    "ShapeError": ".errors",
    "TextEncoder": ".models.text",
    "edit": ".pipeline",
    "load_autoencoder": ".weights.load",
    "load_image": ".images",
    "load_model": ".weights.load",
    "load_pipeline": ".pipeline",
    "load_text_encoders": ".weights.load",
    "make_noise": ".sampling",
    "make_timesteps": ".schedule",
    "sample": ".sampling",
    "save_image": ".images",
    "stitch": ".stitcher",
}

__all__ = [
    "AutoEncoder",
    "Cancelled",
    "CheckpointError",
    "Conditioning",
    "Context",
    "Flux",
    "InputError",
    "KontextError",
    "LatentFormat",
    "ModelNotFoundError",
    "Pipeline",
    "Reference",
    "ShapeError",
    "TextEncoder",
    "edit",
    "load_autoencoder",
    "load_image",
    "load_model",
    "load_pipeline",
    "load_text_encoders",
    "make_noise",
    "make_timesteps",
    "sample",
    "save_image",
    "stitch",
]

if TYPE_CHECKING:
    from .errors import (
        Cancelled,
        CheckpointError,
        InputError,
        KontextError,
        ModelNotFoundError,
        ShapeError,
    )
    from .guidance import Conditioning
    from .images import load_image, save_image
    from .latents import LatentFormat
    from .models.autoencoder import AutoEncoder
    from .models.flux import Flux
    from .models.text import TextEncoder
    from .pipeline import Pipeline, edit, load_pipeline
    from .sampling import make_noise, sample
    from .schedule import make_timesteps
    from .stitcher import Context, Reference, stitch
    from .weights.load import load_autoencoder, load_model, load_text_encoders


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
