"""What travels on MODEL, CLIP and VAE sockets: the core's networks behind ComfyUI's own faces.

CLIP and VAE answer the calls that ComfyUI's nodes make (CLIP Text Encode, VAE Encode, VAE Decode,
tiled ones too). MODEL is understood by this pack's sampler; anything else that is asked of it says so.
"""

from __future__ import annotations

from .clip import KontextClip
from .model import KontextModel, NotNativeError, require_model
from .vae import KontextVAE

__all__ = ["KontextClip", "KontextModel", "KontextVAE", "NotNativeError", "require_model"]
