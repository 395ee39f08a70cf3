"""What travels on MODEL, CLIP and VAE sockets: the core's networks behind ComfyUI's own faces.

CLIP and VAE answer the calls that ComfyUI's nodes make (CLIP Text Encode, VAE Encode, VAE Decode,
tiled ones too). MODEL is understood by this pack's sampler; anything else that is asked of it says so.
"""

from __future__ import annotations

from .clip import KontextClip, make_clip
from .model import KontextModel, NotNativeError, make_model, require_model, resolutions_of
from .vae import KontextVAE, Pictures, make_vae, require_vae

__all__ = [
    "KontextClip",
    "KontextModel",
    "KontextVAE",
    "NotNativeError",
    "Pictures",
    "make_clip",
    "make_model",
    "make_vae",
    "require_model",
    "resolutions_of",
    "require_vae",
]
