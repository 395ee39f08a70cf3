"""Writes GGUF files piece by piece: the header first, then every tensor as it is made.

Layout: GGUF version 3 (ggml's docs/gguf.md), little endian, data at multiples of 32 bytes.
"""

from __future__ import annotations

import math
import os
import shutil
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from torch import Tensor

from ..errors import CheckpointError
from ..partial import clear_partial, finish_partial, open_partial
from ..quant.types import BLOCK_TYPES, row_bytes

ALIGNMENT = 32
# llama.cpp reads names of at most this many bytes.
LONGEST_NAME = 63
U32, F32, BOOL, STRING, U64 = 4, 6, 7, 8, 10


@dataclass(frozen=True)
class GgufTensor:
    """One tensor to come: `kind` is a ggml type name, `shape` is in torch's order."""

    name: str
    shape: tuple[int, ...]
    kind: str

    @property
    def nbytes(self) -> int:
        """Bytes of data, without padding.

        Raises:
            CheckpointError: an unknown type, or rows that are not whole blocks.
        """
        columns = self.shape[-1] if self.shape else 1
        return math.prod(self.shape[:-1]) * row_bytes(self.kind, columns)


class GgufWriter:
    """Context manager; the file appears under its name when everything was written, or not at all.

    Write the data of the tensors in their order with `write`, in pieces of any size.

    Args:
        path: where to. A file there is replaced in the end.
        metadata: key-values; str, bool, int (32 bits where it fits) and float (32 bits).
        tensors: what will be written.

    Raises:
        CheckpointError: a name or value that the format can't hold, no room on the disk, a folder
            that can't be written to, or (on leaving) data that is missing.
    """

    def __init__(
        self, path: Path, metadata: Mapping[str, str | int | float], tensors: Sequence[GgufTensor]
    ) -> None:
        self.path = path
        self.tensors = tuple(tensors)
        self._header = _header(path, metadata, self.tensors)
        self._done = 0  # tensors written whole
        self._written = 0  # bytes of the one under way
        self.size = len(self._header) + sum(_padded(tensor.nbytes) for tensor in self.tensors)

    def __enter__(self) -> GgufWriter:
        try:
            # A killed run of the same may have left as much as is missing.
            clear_partial(self.path.parent)
            free = shutil.disk_usage(self.path.parent).free
            if free < self.size:
                raise CheckpointError(
                    f"{self.path}: takes {self.size / 1e6:,.1f} MB and {free / 1e6:,.1f} MB are free "
                    "there; make room or write it to another disk"
                )
            self._file, self.partial = open_partial(self.path.parent)
        except OSError as error:
            raise self._unwritable(error) from error
        self._put(self._header)
        return self

    def write(self, data: Tensor) -> None:
        """Next piece of data: uint8 on the CPU, whole rows or not.

        Raises:
            CheckpointError: more than the tensors take, or the disk refuses.
        """
        left = data.numel()
        while self._done < len(self.tensors) and not self.tensors[self._done].nbytes:
            self._done += 1
        room = (
            self.tensors[self._done].nbytes - self._written if self._done < len(self.tensors) else 0
        )
        if left > room:
            raise CheckpointError(
                f"{self.path}: {left} bytes for a tensor that has room for {room}; this is an "
                "error of the program, please report it"
            )
        self._put(data.contiguous().view(-1).numpy().data)
        self._written += left
        if left and left == room:
            self._put(bytes(_padded(self._written) - self._written))
            self._done += 1
            self._written = 0

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._file.close()
            self.partial.unlink(missing_ok=True)

    def _finish(self) -> None:
        missing = [tensor.name for tensor in self.tensors[self._done :] if tensor.nbytes]
        if missing:
            raise CheckpointError(
                f"{self.path}: no data for {missing[0]} and {len(missing) - 1} more; this is an "
                "error of the program, please report it"
            )
        try:
            finish_partial(self._file, lambda: os.replace(self.partial, self.path), sync=True)
        except OSError as error:
            raise self._unwritable(error) from error

    def _put(self, data: bytes | memoryview) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> CheckpointError:
        return CheckpointError(
            f"{self.path}: can't be written ({error.strerror or error}); choose another folder or "
            "make room"
        )


def _header(
    path: Path, metadata: Mapping[str, str | int | float], tensors: Sequence[GgufTensor]
) -> bytes:
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    for key, value in metadata.items():
        parts += (_string(key), _value(path, key, value))
    offset = 0
    names: set[str] = set()
    for tensor in tensors:
        if tensor.name in names or not 0 < len(tensor.name.encode()) <= LONGEST_NAME:
            raise CheckpointError(
                f"{path}: tensor name {tensor.name!r} can't be written; expected names of at most "
                f"{LONGEST_NAME} bytes, each once"
            )
        names.add(tensor.name)
        shape = tensor.shape or (1,)
        if len(shape) > 4:
            raise CheckpointError(
                f"{path}: {tensor.name} has {len(shape)} dimensions; GGUF holds at most 4"
            )
        parts.append(_string(tensor.name))
        parts.append(struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape)))
        parts.append(struct.pack("<IQ", BLOCK_TYPES[tensor.kind].ggml_id, offset))
        offset += _padded(tensor.nbytes)
    header = b"".join(parts)
    return header + bytes(_padded(len(header)) - len(header))


def _string(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _value(path: Path, key: str, value: str | int | float) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _string(value)
    if isinstance(value, bool):
        return struct.pack("<I?", BOOL, value)
    if isinstance(value, float):
        return struct.pack("<If", F32, value)
    if not 0 <= value < 1 << 64:
        raise CheckpointError(f"{path}: {key} is {value}; expected 0 to 2**64 - 1")
    return struct.pack("<II", U32, value) if value < 1 << 32 else struct.pack("<IQ", U64, value)


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
