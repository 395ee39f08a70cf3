"""Reads the header of a GGUF file, with every count and length checked before it is used.

Format: ggml-org/ggml docs/gguf.md. Versions 2 and 3, little-endian. Values are read one by one from
a buffered file, so nothing of a size that the file only claims is ever allocated.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import CheckpointError
from ..quant.types import BLOCK_TYPES
from .entry import TensorEntry, shown

CUT_OFF = "it is still being written or its download was cut off: wait, or download it again"
BROKEN = "the file is damaged: download it again"

SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q",
    12: "<d",
}  # fmt: skip
STRING, ARRAY = 8, 9
# Far beyond anything published: the largest vocabularies have 300 thousand words, FLUX.1 780
# tensors, chat templates some 20 KB. They bound the time a damaged header can take.
MAX_TEXTS = 600_000
MAX_ENTRIES = 20_000
MAX_NAME = 1 << 16
MAX_TEXT = 16 << 20
MAX_HEADER = 256 << 20
MAX_ALIGNMENT = 1 << 20
# Arrays up to this length are read at once; orig_shape metadata is one.
SHORT_ARRAY = 64

_BY_ID = {block.ggml_id: block for block in BLOCK_TYPES.values()}
# Repacked types of 2024, which ggml dropped again.
_DROPPED = {
    4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8",
    36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8",
}  # fmt: skip


@dataclass(frozen=True)
class GgufArray:
    """A metadata array that was skipped over: where it lies in the file."""

    kind: int
    count: int
    offset: int


class _Cursor:
    """Reads forward through an open file and refuses to go past its end."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self.path, self.file = path, file
        self.size = size
        self.position = 0
        self.where = "header"
        self.texts_left = MAX_TEXTS

    def broken(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {self.where}: {what}; {BROKEN}")

    def take(self, count: int) -> bytes:
        if count > self.size - self.position:
            raise CheckpointError(
                f"{self.path}: {self.where}: needs {count} bytes at {self.position}, the file ends "
                f"at {self.size}; {CUT_OFF}"
            )
        if self.position + count > MAX_HEADER:
            raise self.broken(f"header runs on past {MAX_HEADER} bytes")
        raw = self.file.read(count)
        if len(raw) != count:
            raise CheckpointError(f"{self.path}: {self.where}: file became shorter; {CUT_OFF}")
        self.position += count
        return raw

    def number(self, code: str) -> Any:
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def text(self, limit: int) -> str:
        length = self.number("<Q")
        if length > limit:
            raise self.broken(f"text of {length} bytes; expected at most {limit}")
        raw = self.take(length)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            # Vocabularies hold pieces of characters; a name never does, and shows as damaged.
            return raw.decode("utf-8", errors="backslashreplace")

    def skip(self, count: int) -> None:
        if count > self.size - self.position:
            raise CheckpointError(
                f"{self.path}: {self.where}: {count} bytes at {self.position} go past the file's "
                f"end at {self.size}; {CUT_OFF}"
            )
        self.position += count
        if self.position > MAX_HEADER:
            raise self.broken(f"header runs on past {MAX_HEADER} bytes")
        self.file.seek(self.position)


def read_gguf_header(
    path: Path, file: BinaryIO, size: int
) -> tuple[dict[str, Any], dict[str, TensorEntry]]:
    """Metadata and entries of an open file of `size` bytes.

    Long arrays come as `GgufArray`, to be read with `read_gguf_array`.

    Raises:
        CheckpointError: anything that does not agree with the format; names file, tensor, remedy.
    """
    file.seek(4)
    cursor = _Cursor(path, file, size)
    cursor.position = 4
    version = cursor.number("<I")
    if version not in (2, 3):
        if version & 0xFFFF == 0 and version >> 24:
            raise CheckpointError(
                f"{path}: a big-endian GGUF file; expected little-endian. Download the usual one"
            )
        raise CheckpointError(
            f"{path}: GGUF version {version}; expected 2 or 3. Download a current file"
        )
    tensors, pairs = cursor.number("<Q"), cursor.number("<Q")
    for what, count in (("tensors", tensors), ("metadata entries", pairs)):
        # The smallest tensor entry takes 32 bytes, the smallest metadata entry 13.
        if count > min(MAX_ENTRIES, size // 13):
            raise cursor.broken(f"{count} {what} in a file of {size} bytes")
    metadata: dict[str, Any] = {}
    for index in range(pairs):
        cursor.where = f"metadata entry {index}"
        key = cursor.text(MAX_NAME)
        cursor.where = f"metadata {shown(key)}"
        if key in metadata:
            raise cursor.broken("stands twice in the header")
        metadata[key] = _value(cursor, cursor.number("<I"))
    infos = [_tensor_info(cursor, index) for index in range(tensors)]
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 0 < alignment <= MAX_ALIGNMENT:
        raise CheckpointError(
            f"{path}: general.alignment is {shown(alignment, 40)}; expected a number of bytes such "
            f"as 32. {BROKEN}"
        )
    start = -(-cursor.position // alignment) * alignment
    return metadata, _entries(path, infos, metadata, start, size)


def read_gguf_array(path: Path, array: GgufArray) -> list[Any]:
    """The values of an array that the header reader skipped.

    Raises:
        CheckpointError: the file has changed since.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            cursor = _Cursor(path, file, size)
            cursor.where = "metadata array"
            cursor.skip(array.offset)
            return _items(cursor, array.kind, array.count)
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read any more ({error})") from error


def _value(cursor: _Cursor, kind: int) -> Any:
    if kind in SCALARS:
        if kind == 7:  # a byte that is neither 0 nor 1 must not become a bool by chance
            return bool(cursor.number("<B"))
        return cursor.number(SCALARS[kind])
    if kind == STRING:
        return cursor.text(MAX_TEXT)
    if kind != ARRAY:
        raise cursor.broken(f"value of unknown type {kind}")
    item, count = cursor.number("<I"), cursor.number("<Q")
    if item in SCALARS:
        if count <= SHORT_ARRAY:
            return _items(cursor, item, count)
        array = GgufArray(item, count, cursor.position)
        cursor.skip(count * struct.calcsize(SCALARS[item]))
        return array
    if item != STRING:
        raise cursor.broken(f"array of type {item}; expected numbers or texts")
    if count > min(cursor.texts_left, (cursor.size - cursor.position) // 8):
        raise cursor.broken(f"array of {count} texts")
    cursor.texts_left -= count
    if count <= SHORT_ARRAY:
        return _items(cursor, item, count)
    array = GgufArray(item, count, cursor.position)
    for _ in range(count):
        length = cursor.number("<Q")
        if length > MAX_TEXT:
            raise cursor.broken(f"text of {length} bytes; expected at most {MAX_TEXT}")
        # Read, not sought: a seek throws the buffer away and takes longer.
        cursor.take(length)
    return array


def _items(cursor: _Cursor, kind: int, count: int) -> list[Any]:
    if kind == STRING:
        return [cursor.text(MAX_TEXT) for _ in range(count)]
    code = SCALARS[kind]
    raw = cursor.take(count * struct.calcsize(code))
    return [value for (value,) in struct.iter_unpack(code, raw)]


def _tensor_info(cursor: _Cursor, index: int) -> tuple[str, tuple[int, ...], int, int]:
    """Name, ggml dimensions (fastest first), type id and offset of one tensor."""
    cursor.where = f"tensor {index}"
    name = cursor.text(MAX_NAME)
    cursor.where = f"tensor {shown(name)}"
    count = cursor.number("<I")
    if count > 8:
        raise cursor.broken(f"{count} dimensions; expected at most 4")
    dims = tuple(cursor.number("<Q") for _ in range(count))
    kind, offset = cursor.number("<I"), cursor.number("<Q")
    return name, dims, kind, offset


def _entries(
    path: Path,
    infos: list[tuple[str, tuple[int, ...], int, int]],
    metadata: dict[str, Any],
    start: int,
    size: int,
) -> dict[str, TensorEntry]:
    entries: dict[str, TensorEntry] = {}
    for name, dims, kind, offset in infos:

        def refuse(what: str, name: str = name) -> CheckpointError:
            return CheckpointError(f"{path}: tensor {shown(name)} {what}; {BROKEN}")

        if name in entries:
            raise refuse("stands twice in the header")
        block = _BY_ID.get(kind)
        if block is None:
            known = f"{_DROPPED[kind]}, dropped from ggml" if kind in _DROPPED else "unknown"
            raise CheckpointError(
                f"{path}: tensor {shown(name)} is of ggml type {kind} ({known}); expected one of "
                f"{', '.join(BLOCK_TYPES)}. Use a file of another type, such as Q4_K_M or Q8_0"
            )
        shape = tuple(reversed(dims))
        weights = math.prod(shape)
        # Empty tensors too: torch could not make one of such sides.
        absurd = math.prod(max(side, 1) for side in shape) >= 1 << 60
        if absurd or (shape and shape[-1] % block.block_size):
            raise refuse(
                f"is {block.name} of shape {shown(shape, 60)[1:-1]}; expected rows that are "
                f"multiples of {block.block_size}, and fewer numbers"
            )
        if not shape and block.block_size > 1:
            raise refuse(f"is a single {block.name} number")
        nbytes = weights // block.block_size * block.type_size
        if start + offset + nbytes > size:
            raise CheckpointError(
                f"{path}: tensor {shown(name)} ends at byte {start + offset + nbytes}, the file at "
                f"{size}; {CUT_OFF}"
            )
        logical = _orig_shape(path, name, shape, weights, metadata)
        entries[name] = TensorEntry(
            name, logical, block.name, path, start + offset, nbytes,
            None if logical == shape else shape,
        )  # fmt: skip
    end, before = start, ""
    for entry in sorted(entries.values(), key=lambda e: (e.offset, e.nbytes)):
        if entry.offset < end and entry.nbytes:
            raise CheckpointError(
                f"{path}: tensors {shown(before)} and {shown(entry.name)} overlap at byte "
                f"{entry.offset}; {BROKEN}"
            )
        end, before = max(end, entry.offset + entry.nbytes), entry.name
    return entries


def _orig_shape(
    path: Path, name: str, shape: tuple[int, ...], weights: int, metadata: dict[str, Any]
) -> tuple[int, ...]:
    """The shape before the file's writer folded it, which ComfyUI-GGUF keeps as metadata."""
    key = f"comfy.gguf.orig_shape.{name}"
    value = metadata.get(key)
    if value is None:
        return shape
    if (
        not isinstance(value, list)
        or not all(type(side) is int and side >= 0 for side in value)
        or math.prod(value) != weights
    ):
        raise CheckpointError(
            f"{path}: {shown(key)} is {shown(value, 60)[1:-1]}; expected sizes with the product of "
            f"{shown(shape, 60)[1:-1]}. {BROKEN}"
        )
    return tuple(value)
