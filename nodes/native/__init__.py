"""What travels on MODEL, CLIP and VAE sockets: the core's networks behind ComfyUI's own faces.

In a real ComfyUI they are its own kinds: a ModelPatcher around its Flux, a CLIP, a VAE (`wrapper`,
`host_clip`, `host_vae`, imported only there). Elsewhere CLIP and VAE answer the calls that ComfyUI's nodes
make, and MODEL is understood by this pack's sampler; anything else that is asked of it says so.
"""

from __future__ import annotations

from .clip import KontextClip
from .model import KontextModel, NotNativeError, require_model, resolutions_of
from .sockets import make_clip, make_model, make_vae, sockets
from .vae import KontextVAE, VaeCalls, require_vae

__all__ = [
    "KontextClip",
    "KontextModel",
    "KontextVAE",
    "NotNativeError",
    "VaeCalls",
    "make_clip",
    "make_model",
    "make_vae",
    "require_model",
    "resolutions_of",
    "require_vae",
    "sockets",
]
