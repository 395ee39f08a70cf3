"""Small random text encoders that take every id their tokenizers make."""

from __future__ import annotations

from typing import Any

from small_models import randomise

from kontext_core.models.clip import ClipParams, ClipTextModel
from kontext_core.models.t5 import T5Encoder, T5Params
from kontext_core.text.pair import FluxTextEncoders


def make_t5(seed: int = 0, **changes: Any) -> T5Encoder:
    """Three blocks of four heads; keywords go to `T5Params`."""
    values: dict[str, Any] = {"d_model": 64, "d_kv": 8, "d_ff": 96, "num_layers": 3, "num_heads": 4}
    encoder = T5Encoder(T5Params(**{**values, **changes}))
    randomise(encoder, seed)
    # As T5 is initialised: the query weights carry the scaling that its attention leaves out.
    for name, parameter in encoder.named_parameters():
        if name.endswith("SelfAttention.q.weight"):
            parameter.mul_(encoder.params.d_kv**-0.5)
    return encoder


def make_clip(seed: int = 0, **changes: Any) -> ClipTextModel:
    """Three layers of two heads; keywords go to `ClipParams`."""
    values: dict[str, Any] = {"width": 128, "mlp": 96, "num_layers": 3, "num_heads": 2}
    model = ClipTextModel(ClipParams(**{**values, **changes}))
    randomise(model, seed)
    return model


def make_pair(seed: int = 0, **options: Any) -> FluxTextEncoders:
    """Both of them; keywords go to `FluxTextEncoders`."""
    return FluxTextEncoders(make_t5(seed), make_clip(seed + 1), **options)
