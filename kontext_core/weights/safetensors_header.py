"""Reads the header of a .safetensors file, with every number checked before it is used.

Format: 8 bytes little-endian header length, that many bytes of JSON, then the tensors' bytes
without holes (huggingface/safetensors, README "Format").
"""

from __future__ import annotations

import itertools
import json
import math
import re
import struct
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import CheckpointError
from .entry import KIND_BITS, TensorEntry, shown

# A full FLUX.1 header has 100 to 200 KB, LoRAs with training logs reach many MB. The safetensors
# library stops here too; how much there is to parse is bounded by MAX_MARKS.
MAX_HEADER = 100_000_000
MAX_DIMS = 16
# Commas and brackets outside of texts: six a tensor, so this is room for 50 thousand.
MAX_MARKS = 300_000
CUT_OFF = "it is still being written or its download was cut off: wait, or download it again"
BROKEN = "the file is damaged: download it again"


def read_safetensors_header(
    path: Path, file: BinaryIO, size: int
) -> tuple[dict[str, str], dict[str, TensorEntry]]:
    """Metadata and entries of an open file of `size` bytes.

    Raises:
        CheckpointError: anything that does not agree with the format; names file, tensor, remedy.
    """
    length = _header_length(path, file, size)
    file.seek(8)
    header = _parse(path, file.read(length))
    metadata = _metadata(path, header.pop("__metadata__", {}))
    start = 8 + length
    entries = {name: _entry(path, name, value, start) for name, value in header.items()}
    _check_layout(path, entries, start, size)
    return metadata, entries


def _header_length(path: Path, file: BinaryIO, size: int) -> int:
    file.seek(0)
    raw = file.read(9)
    if len(raw) < 9:
        raise CheckpointError(f"{path}: has {size} bytes, too few for a weights file; {CUT_OFF}")
    length = struct.unpack("<Q", raw[:8])[0]
    if length > MAX_HEADER and raw[8:9] != b"{":
        raise CheckpointError(
            f"{path}: neither a safetensors nor a GGUF file, by its first bytes {raw[:8]!r}; "
            "expected one of them. Check what was downloaded"
        )
    if length > size - 8:
        raise CheckpointError(
            f"{path}: its header says it is {length} bytes long, the file has {size}; {CUT_OFF}"
        )
    if length > MAX_HEADER:
        raise CheckpointError(
            f"{path}: header of {length} bytes; expected at most {MAX_HEADER}. {BROKEN}"
        )
    if raw[8:9] != b"{":
        raise CheckpointError(
            f"{path}: not a safetensors file: its header starts with {raw[8:9]!r}, expected '{{'. "
            "Check what was downloaded"
        )
    return length


def _parse(path: Path, raw: bytes) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))
            raise CheckpointError(
                f"{path}: {shown(twice)} stands twice in the header, so it is not clear which one "
                f"counts; {BROKEN}"
            )
        return found

    if _lists_too_much(raw):
        raise CheckpointError(
            f"{path}: its header lists more than {MAX_MARKS} things; expected some thousand "
            f"tensors. {BROKEN}"
        )
    try:
        header = json.loads(raw, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        reason = shown(error, 160)[1:-1]
        raise CheckpointError(
            f"{path}: its header is not valid JSON ({reason}); {BROKEN}"
        ) from None
    if not isinstance(header, dict):
        raise CheckpointError(
            f"{path}: its header is a {type(header).__name__}; expected a JSON object. {BROKEN}"
        )
    return header


def _lists_too_much(raw: bytes) -> bool:
    """Whether more than MAX_MARKS commas and brackets stand outside of texts."""
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") <= MAX_MARKS:
        return False
    # Texts with as many are met: training logs, themselves JSON.
    plain = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    found = re.finditer(rb'"[^"]*"|[,\[{]', plain)
    # At most two texts follow each other without a mark (a name and its value).
    return next(itertools.islice(found, 3 * MAX_MARKS, None), None) is not None


def _metadata(path: Path, value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{path}: __metadata__ is a {type(value).__name__}; expected an object of strings. "
            f"{BROKEN}"
        )
    # The format wants strings; some trainers write numbers, which harm nobody.
    return {key: text if isinstance(text, str) else json.dumps(text) for key, text in value.items()}


def _entry(path: Path, name: str, value: Any, start: int) -> TensorEntry:
    def refuse(what: str) -> CheckpointError:
        return CheckpointError(f"{path}: tensor {shown(name)} {what}. {BROKEN}")

    if not isinstance(value, dict):
        raise refuse(f"is described by a {type(value).__name__}; expected an object")
    kind, shape, offsets = value.get("dtype"), value.get("shape"), value.get("data_offsets")
    if not isinstance(kind, str) or kind not in KIND_BITS:
        known = ", ".join(KIND_BITS)
        raise CheckpointError(
            f"{path}: tensor {shown(name)} is of kind {shown(kind, 40)}; expected one of {known}. "
            "Update the pack or use a bf16, fp8 or GGUF file"
        )
    if not isinstance(shape, list) or len(shape) > MAX_DIMS or not all(map(_is_count, shape)):
        raise refuse(f"has shape {shown(shape, 60)[1:-1]}; expected a short list of sizes")
    # Empty tensors too: torch could not make one of such sides.
    if math.prod(max(side, 1) for side in shape) >= 1 << 60:
        raise refuse(f"has shape {shown(shape, 60)[1:-1]}; expected fewer numbers")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise refuse(f"has data_offsets {shown(offsets, 60)[1:-1]}; expected two byte positions")
    begin, end = offsets
    bits = KIND_BITS[kind]
    for side in shape:
        bits *= side
    if bits % 8 or end - begin != bits // 8:
        raise refuse(
            f"is {kind} {shown(shape, 60)[1:-1]}, {shown((bits + 7) // 8, 40)[1:-1]} bytes, but its "
            f"data_offsets span {end - begin}"
        )
    return TensorEntry(name, tuple(shape), kind, path, start + begin, end - begin)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _check_layout(path: Path, entries: dict[str, TensorEntry], start: int, size: int) -> None:
    """Tensors must follow each other from the header to the end of the file."""
    position, before = start, ""
    for entry in sorted(entries.values(), key=lambda e: (e.offset, e.nbytes)):
        if entry.offset + entry.nbytes > size:
            raise CheckpointError(
                f"{path}: tensor {shown(entry.name)} ends at byte {entry.offset + entry.nbytes}, "
                f"the file at {size}; {CUT_OFF}"
            )
        if entry.offset < position:
            raise CheckpointError(
                f"{path}: tensors {shown(before)} and {shown(entry.name)} overlap at byte "
                f"{entry.offset}; {BROKEN}"
            )
        if entry.offset > position:
            raise CheckpointError(
                f"{path}: {entry.offset - position} bytes before tensor {shown(entry.name)} belong "
                f"to nothing; {BROKEN}"
            )
        position, before = entry.offset + entry.nbytes, entry.name
    if position != size:
        raise CheckpointError(
            f"{path}: {size - position} bytes after the last tensor belong to nothing, the header "
            f"tells of {position} bytes; {BROKEN}"
        )
