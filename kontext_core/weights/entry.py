"""One tensor of a weights file as its header describes it, and how names are shown in messages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

# Safetensors kinds and their bits (safetensors 0.6, `Dtype`); ggml's plain types share these names.
KIND_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip

# What torch can view; a kind that is missing here can be listed but not read.
TORCH_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "F32": torch.float32,
    "I64": torch.int64,
    "F64": torch.float64,
    "C64": torch.complex64,
}
for _kind, _name in (
    ("F8_E8M0", "float8_e8m0fnu"),
    ("U16", "uint16"),
    ("U32", "uint32"),
    ("U64", "uint64"),
):
    # These came to torch late.
    if hasattr(torch, _name):
        TORCH_DTYPES[_kind] = getattr(torch, _name)


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies and what it is.

    Attributes:
        name: as in the file.
        shape: logical shape in torch's order; honours `comfy.gguf.orig_shape.*`.
        kind: safetensors kind (`BF16`, `F8_E4M3`, ...) or ggml type name (`Q4_K`, ...).
        path: the file, one shard of several where a model is split.
        offset: of the first byte, counted from the start of `path`.
        nbytes: how many bytes it takes.
        stored_shape: shape as the header has it, where `shape` was overruled by metadata.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    path: Path
    offset: int
    nbytes: int
    stored_shape: tuple[int, ...] | None = None


def shown(name: object, limit: int = 90) -> str:
    """A name from a file as it may stand in a message: quoted, printable, cut."""
    text = str(name)
    if len(text) > limit:
        text = f"{text[: limit - 20]}...{text[-12:]}"
    return repr(text)


def shown_list(names: list[str], count: int = 3) -> str:
    """The first few names, and how many there are beyond them."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(shown(name) for name in names[:count]) + more
