"""Writes files with full headers and nothing but zeros behind them, which take no disk space."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from published import Listing

BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "U8": 8, "I8": 8}
ALIGNMENT = 32


def sparse_safetensors(
    path: Path, listing: Listing, metadata: Mapping[str, str] | None = None
) -> Path:
    """A .safetensors file of zeros; `listing` gives kind and shape by name."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name, (kind, shape) in listing.items():
        end = position + math.prod(shape) * BITS[kind] // 8
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + position)
    return path


def sparse_gguf(
    path: Path, listing: Listing, metadata: Mapping[str, str | int | list[int]] | None = None
) -> Path:
    """A GGUF file of zeros; `metadata` values may be texts, uint32 numbers and int32 lists."""
    values = {"general.architecture": "flux"} if metadata is None else dict(metadata)
    raw = b"GGUF" + struct.pack("<IQQ", 3, len(listing), len(values))
    for key, value in values.items():
        raw += _text(key)
        if isinstance(value, str):
            raw += struct.pack("<I", 8) + _text(value)
        elif isinstance(value, int):
            raw += struct.pack("<II", 4, value)
        else:
            raw += struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)
    position = 0
    for name, (kind, shape) in listing.items():
        ggml = GGMLQuantizationType[kind]
        block, size = GGML_QUANT_SIZES[ggml]
        raw += _text(name) + struct.pack("<I", len(shape))
        raw += struct.pack(f"<{len(shape)}Q", *reversed(shape))
        raw += struct.pack("<IQ", int(ggml), position)
        position += -(-math.prod(shape) // block * size // ALIGNMENT) * ALIGNMENT
    raw += b"\0" * (-len(raw) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(raw)
        file.truncate(len(raw) + position)
    return path


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw
