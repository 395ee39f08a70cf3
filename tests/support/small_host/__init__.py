"""A node pack for test hosts only: ComfyUI's own loaders build FLUX.1's networks at the sizes of small
files instead of the published ones, which they take for granted. The files' names and forms stay.

The sizes are those of published_files.py. ComfyUI imports this; pytest must not.
"""

from __future__ import annotations

from typing import Any

import comfy.model_detection as detection
import comfy.sd
import comfy.sd1_clip as encoders

NODE_CLASS_MAPPINGS: dict[str, Any] = {}

SIZES = {
    "t5xxl_model_config": {"d_model": 256, "d_kv": 64, "d_ff": 256, "num_heads": 4},
    "clip_l_model_config": {
        "hidden_size": 128,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
    },
}
CHANNELS = 32

_encoder = encoders.SDClipModel.__init__
_detect = detection.detect_unet_config
_engine: Any = comfy.sd.AutoencodingEngine


def small_encoder(self: Any, *args: Any, **kwargs: Any) -> None:
    _encoder(self, *args, **{**kwargs, "model_options": {**kwargs["model_options"], **SIZES}})


def small_flux(state: Any, prefix: str, *args: Any, **kwargs: Any) -> Any:
    found = _detect(state, prefix, *args, **kwargs)
    if found is not None and found.get("image_model") == "flux":
        hidden, context = state[f"{prefix}txt_in.weight"].shape
        found |= {"hidden_size": hidden, "context_in_dim": context, "num_heads": hidden // 128}
    return found


def small_autoencoder(*args: Any, **kwargs: Any) -> Any:
    for half in ("encoder_config", "decoder_config"):
        config = kwargs[half]
        kwargs[half] = {**config, "params": {**config["params"], "ch": CHANNELS}}
    return _engine(*args, **kwargs)


encoders.SDClipModel.__init__ = small_encoder
detection.detect_unet_config = small_flux
comfy.sd.AutoencodingEngine = small_autoencoder
