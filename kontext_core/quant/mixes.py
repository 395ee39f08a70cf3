"""Which type every tensor of a quantized Flux file gets.

The rules are those by which published FLUX.1 GGUF files were made (the image-model patch to
llama-quantize in ComfyUI-GGUF's tools, and its convert script), stated as facts:

- Vectors, and anything of at most 1024 numbers, are F32.
- `img_in`, `txt_in`, `time_in`, `vector_in`, `guidance_in` and `final_layer` are sensitive and small
  (0.5 % of the model): they stay as the source has them.
- Every other matrix gets the type the file is named for: attention, MLP, both linears of the single
  blocks, and the modulation layers too.
- `_M` and `_L` mixes give the fused q, k, v matrices of the double blocks more bits. With Flux's
  names no other rule of that patch applies, so `_S` is the type alone and Q3_K_L equals Q3_K_M.
- A matrix whose rows are not whole blocks stays as the source has it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType

from ..errors import CheckpointError
from .encode import NUMBERS
from .types import BLOCK_TYPES, is_packed

SENSITIVE = ("img_in.", "txt_in.", "time_in.", "vector_in.", "guidance_in.", "final_layer.")
FUSED_ATTENTION = "attn.qkv.weight"
SMALL = 1024


@dataclass(frozen=True)
class Mix:
    """A name under which files are published.

    Attributes:
        name: as in `flux1-kontext-dev-Q4_K_M.gguf`.
        kind: type of most matrices.
        attention: type of the fused q, k, v matrices.
        file_type: llama.cpp's number for `general.file_type`.
    """

    name: str
    kind: str
    attention: str
    file_type: int


MIXES = MappingProxyType(
    {
        name: Mix(name, kind, attention or kind, file_type)
        for name, kind, attention, file_type in (
            ("Q2_K", "Q2_K", "", 10),
            ("Q3_K", "Q3_K", "", 11),
            ("Q3_K_S", "Q3_K", "", 11),
            ("Q3_K_M", "Q3_K", "Q4_K", 12),
            ("Q3_K_L", "Q3_K", "Q4_K", 13),
            ("Q4_0", "Q4_0", "", 2),
            ("Q4_1", "Q4_1", "", 3),
            ("Q4_K", "Q4_K", "", 14),
            ("Q4_K_S", "Q4_K", "", 14),
            ("Q4_K_M", "Q4_K", "Q5_K", 15),
            ("Q5_0", "Q5_0", "", 8),
            ("Q5_1", "Q5_1", "", 9),
            ("Q5_K", "Q5_K", "", 16),
            ("Q5_K_S", "Q5_K", "", 16),
            ("Q5_K_M", "Q5_K", "Q6_K", 17),
            ("Q6_K", "Q6_K", "", 18),
            ("Q8_0", "Q8_0", "", 7),
            ("F16", "F16", "", 1),
            ("BF16", "BF16", "", 32),
            ("F32", "F32", "", 0),
            ("TQ1_0", "TQ1_0", "", 36),
            ("TQ2_0", "TQ2_0", "", 37),
            ("MXFP4", "MXFP4", "", 38),
        )
    }
)


def find_mix(name: str) -> Mix:
    """The mix of this name, in any case.

    Raises:
        CheckpointError: there is none; says which there are.
    """
    mix = MIXES.get(name.strip().upper())
    if mix is None:
        raise CheckpointError(
            f"files can't be written as {name!r}; choose one of {', '.join(MIXES)}"
        )
    return mix


def kind_for(mix: Mix, name: str, shape: tuple[int, ...], stored: str) -> str:
    """ggml type that a tensor gets.

    Args:
        name: under BFL's names, without a prefix.
        shape: logical, in torch's order.
        stored: `TensorEntry.kind` of the source.
    """
    if len(shape) < 2 or math.prod(shape) <= SMALL:
        return "F32"
    if mix.kind in NUMBERS:
        return mix.kind
    kind = mix.attention if name.endswith(FUSED_ATTENTION) else mix.kind
    whole = len(shape) == 2 and shape[1] % BLOCK_TYPES[kind].block_size == 0
    if whole and not name.startswith(SENSITIVE):
        return kind
    if stored in NUMBERS or is_packed(stored):
        return stored
    # float8 fits into bfloat16; with its scale it is rounded to a sixteenth of its own step.
    return "F32" if stored == "F64" else "BF16"
