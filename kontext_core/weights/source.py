"""Opens weights files: reads and checks headers at once, maps tensors when they are asked for."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, ModelNotFoundError
from ..quant.types import is_packed, row_bytes
from .entry import TORCH_DTYPES, TensorEntry, shown
from .files import ASSETS, EMBEDDED
from .foreign import refuse_foreign
from .gguf_header import GgufArray, read_gguf_array, read_gguf_header
from .hub import no_file
from .mapping import Mapping as FileMapping
from .safetensors_header import read_safetensors_header
from .shards import files_of
from .unchanged import stamp_of

# Tensors up to this many bytes are read, not mapped: biases and norms.
SMALL = 1 << 18


class WeightsFile:
    """The header of a file or of a set of shards. Made by `open_weights`.

    Attributes:
        path: what the user named: a file, an index or a folder.
        format: `safetensors` or `gguf`.
        files: the files the tensors lie in.
        metadata: `__metadata__` strings of safetensors, key-values of GGUF. Long GGUF arrays are
            stand-ins; `array` reads them.
        entries: every tensor by name.
        stamps: what the files were when their headers were read, for `check_unchanged`.
    """

    def __init__(
        self,
        path: Path,
        kind: str,
        files: Mapping[Path, os.stat_result],
        metadata: Mapping[str, Any],
        entries: Mapping[str, TensorEntry],
    ) -> None:
        self.path = path
        self.format = kind
        self.files = tuple(files)
        self.metadata = MappingProxyType(dict(metadata))
        self.entries = MappingProxyType(dict(entries))
        self.stamps = tuple(stamp_of(file, found) for file, found in files.items())
        self._mappings = {file: FileMapping(file, found.st_size) for file, found in files.items()}

    def tensor(self, name: str) -> Tensor:
        """The tensor as stored, a view on a private mapping: nothing is read or copied here.

        Only small tensors (up to 256 KiB) and data that does not lie at a multiple of its item
        size are copied.

        Returns:
            Its torch dtype and `shape`; for block kinds of GGUF uint8 [*shape[:-1], row_bytes],
            with `stored_shape` in place of a `shape` whose rows are not whole blocks.

        Raises:
            CheckpointError: no such tensor, or a kind torch has no dtype for.
        """
        entry = self._entry(name)
        mapping = self._mappings[entry.path]
        take = mapping.read if entry.nbytes <= SMALL else mapping.view
        raw = take(entry.offset, entry.nbytes) if entry.nbytes else None
        if is_packed(entry.kind):
            shape = packed_shape(entry)
            if raw is None:
                return torch.empty(shape, dtype=torch.uint8)
            return raw.view(shape)
        dtype = TORCH_DTYPES.get(entry.kind)
        if dtype is None:
            raise CheckpointError(
                f"{entry.path}: tensor {shown(name)} is {entry.kind}, which is not read; use a "
                "bf16, fp8 or GGUF version of this file"
            )
        if raw is None:
            return torch.empty(entry.shape, dtype=dtype)
        if entry.offset % dtype.itemsize:
            raw = raw.clone()
        return raw.view(dtype).view(entry.shape)

    def array(self, key: str) -> list[Any]:
        """A GGUF metadata array, read now if it is long.

        Raises:
            CheckpointError: there is none of this name.
        """
        value = self.metadata.get(key)
        if isinstance(value, GgufArray):
            return read_gguf_array(self.files[0], value)
        if not isinstance(value, list):
            raise CheckpointError(f"{self.path}: no metadata array {shown(key)} in it")
        return list(value)

    def _entry(self, name: str) -> TensorEntry:
        entry = self.entries.get(name)
        if entry is None:
            raise CheckpointError(f"{self.path}: no tensor {shown(name)} in it")
        return entry


def packed_shape(entry: TensorEntry) -> tuple[int, ...]:
    """uint8 shape of a block kind: rows of whole blocks, of `shape` where that is possible."""
    for shape in (entry.shape, entry.stored_shape or entry.shape):
        if shape:
            try:
                return (*shape[:-1], row_bytes(entry.kind, shape[-1]))
            except CheckpointError:
                continue
    raise CheckpointError(
        f"{entry.path}: tensor {shown(entry.name)} of shape {entry.shape} has no whole "
        f"{entry.kind} rows; download the file again"
    )


def open_weights(path: str | Path, role: str | None = None) -> WeightsFile:
    """Read the header of a weights file; the format is told by its content, not by its name.

    Args:
        path: a .safetensors, .sft or .gguf file; one shard or the *.index.json of a sharded model;
            a diffusers folder or one of its parts, a model folder, or an embedded model's name.
        role: what is wanted of a diffusers pipeline folder (`detect.Contents.role`); None takes
            its transformer.

    Raises:
        ModelNotFoundError: nothing there.
        CheckpointError: not a usable weights file; says why and what to do. Pickles are
            recognised and refused, never opened.
    """
    path = ASSETS / path if str(path) in EMBEDDED else Path(path).expanduser()
    _stat(path)
    stats: dict[Path, os.stat_result] = {}
    metadata: dict[str, Any] = {}
    entries: dict[str, TensorEntry] = {}
    kind = ""
    for file in files_of(path, role):
        stats[file], file_kind, file_metadata, file_entries = _read_header(file)
        if kind and file_kind != kind:
            raise CheckpointError(f"{path}: its shards are {kind} and {file_kind}; expected one")
        kind = file_kind
        twice = entries.keys() & file_entries.keys()
        if twice:
            raise CheckpointError(
                f"{path}: tensor {shown(min(twice))} is in two shards; download the folder again"
            )
        metadata = {**file_metadata, **metadata}
        entries.update(file_entries)
    if not entries:
        raise CheckpointError(f"{path}: holds no tensors; download it again")
    return WeightsFile(path, kind, stats, metadata, entries)


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except FileNotFoundError:
        raise ModelNotFoundError(no_file(path)) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"{shown(path, 400)}: can't be looked at ({reason}); check the path and its permissions"
        ) from None


def _read_header(
    path: Path,
) -> tuple[os.stat_result, str, dict[str, Any], dict[str, TensorEntry]]:
    found = _stat(path)
    if not stat.S_ISREG(found.st_mode):
        # Opening a pipe would wait for a writer, and a device may have no end.
        what = next(
            name
            for test, name in (
                (stat.S_ISDIR, "a folder"),
                (stat.S_ISFIFO, "a pipe"),
                (stat.S_ISSOCK, "a socket"),
                (lambda _: True, "a device"),
            )
            if test(found.st_mode)
        )
        raise CheckpointError(f"{path}: is {what}; expected a .safetensors or .gguf file")
    try:
        with path.open("rb", buffering=1 << 16) as file:
            found = os.fstat(file.fileno())
            size = found.st_size
            start = file.read(512)
            refuse_foreign(path, start, size)
            if start[:4] == b"GGUF":
                return found, "gguf", *read_gguf_header(path, file, size)
            return found, "safetensors", *read_safetensors_header(path, file, size)
    except OSError as error:
        raise CheckpointError(
            f"{path}: can't be read ({error.strerror or error}); check its permissions"
        ) from None
