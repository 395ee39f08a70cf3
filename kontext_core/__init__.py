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
    "Acceleration": ".accelerate",
    "AutoEncoder": ".models.autoencoder",
    "Cancelled": ".errors",
    "CheckpointError": ".errors",
    "Conditioning": ".guidance",
    "Crop": ".crop",
    "Context": ".stitcher",
    "Fit": ".fit",
    "Flux": ".models.flux",
    "InputError": ".errors",
    "KontextError": ".errors",
    "LatentFormat": ".latents",
    "ModelNotFoundError": ".errors",
    "Pipeline": ".pipeline",
    "Pruning": ".accelerate",
    "Reference": ".stitcher",
    "Region": ".accelerate",
    "Reuse": ".accelerate",
    "SamplerState": ".sampling",
    "SessionError": ".errors",
    "ShapeError": ".errors",
    "StepReuse": ".accelerate",
    "TextEncoder": ".models.text",
    "cut_crop": ".crop",
    "edit": ".pipeline",
    "load_autoencoder": ".weights.load",
    "load_image": ".images",
    "load_mask": ".images",
    "load_lora": ".lora.load",
    "load_model": ".weights.load",
    "load_pipeline": ".pipeline",
    "load_text_encoders": ".weights.load",
    "make_noise": ".sampling",
    "make_timesteps": ".schedule",
    "nearest_resolution": ".resolutions",
    "paste_crop": ".crop",
    "quantize_file": ".convert",
    "resize": ".images",
    "sample": ".sampling",
    "sample_steps": ".sampling",
    "save_image": ".writing",
    "set_loras": ".lora.apply",
    "stitch": ".stitcher",
    "to_model": ".images",
    "to_picture": ".images",
}

__all__ = [
    "Acceleration",
    "AutoEncoder",
    "Cancelled",
    "CheckpointError",
    "Conditioning",
    "Context",
    "Crop",
    "Fit",
    "Flux",
    "InputError",
    "KontextError",
    "LatentFormat",
    "ModelNotFoundError",
    "Pipeline",
    "Pruning",
    "Reference",
    "Region",
    "Reuse",
    "SamplerState",
    "SessionError",
    "ShapeError",
    "StepReuse",
    "TextEncoder",
    "cut_crop",
    "edit",
    "load_autoencoder",
    "load_image",
    "load_lora",
    "load_mask",
    "load_model",
    "load_pipeline",
    "load_text_encoders",
    "make_noise",
    "make_timesteps",
    "nearest_resolution",
    "paste_crop",
    "quantize_file",
    "resize",
    "sample",
    "sample_steps",
    "save_image",
    "set_loras",
    "stitch",
    "to_model",
    "to_picture",
]

if TYPE_CHECKING:
    from .accelerate import Acceleration, Pruning, Region, Reuse, StepReuse
    from .convert import quantize_file
    from .crop import Crop, cut_crop, paste_crop
    from .errors import (
        Cancelled,
        CheckpointError,
        InputError,
        KontextError,
        ModelNotFoundError,
        SessionError,
        ShapeError,
    )
    from .fit import Fit
    from .guidance import Conditioning
    from .images import load_image, load_mask, resize, to_model, to_picture
    from .latents import LatentFormat
    from .lora.apply import set_loras
    from .lora.load import load_lora
    from .models.autoencoder import AutoEncoder
    from .models.flux import Flux
    from .models.text import TextEncoder
    from .pipeline import Pipeline, edit, load_pipeline
    from .resolutions import nearest_resolution
    from .sampling import SamplerState, make_noise, sample, sample_steps
    from .schedule import make_timesteps
    from .stitcher import Context, Reference, stitch
    from .weights.load import load_autoencoder, load_model, load_text_encoders
    from .writing import save_image


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
