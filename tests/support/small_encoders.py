"""Small random text encoders that take every id their tokenizers make."""

from __future__ import annotations

from typing import Any

import torch
from small_models import randomise
from torch import Tensor

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


OPENAI = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "encoder.layers.": "transformer.resblocks.",
}


def openai_name(name: str) -> tuple[str, int | None]:
    """A name of transformers' as openai/CLIP has it, and which third of the rows it is."""
    third = next((n for n, letter in enumerate("qkv") if f".{letter}_proj." in name), None)
    if third is not None:
        name = name.replace(f"self_attn.{'qkv'[third]}_proj.", "attn.in_proj_")
    for ours, theirs in OPENAI.items():
        name = name.replace(ours, theirs)
    return name.removeprefix("text_model."), third


def openai_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """CLIP's text half as openai/CLIP stores it, query, key and value in one matrix."""
    pieces: dict[str, dict[int | None, Tensor]] = {}
    for ours, tensor in state.items():
        name, third = openai_name(ours)
        pieces.setdefault(name, {})[third] = tensor
    return {name: torch.cat([of[i] for i in sorted(of, key=str)]) for name, of in pieces.items()}
