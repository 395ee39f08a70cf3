"""Maps files into memory so that tensors are views of their bytes and cost nothing until read."""

from __future__ import annotations

import mmap
import os
import sys
import threading
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError

# mmap.MAP_NORESERVE came with Python 3.13.
MAP_NORESERVE = 0x4000


class Mapping:
    """One file, mapped as a whole at the first use. Views keep it alive; nothing closes it.

    Writes to a view stay in this process and never reach the file, except on Windows, where the
    pages are read-only (a writable private mapping would count against the page file). Treat views
    as constants.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        self._bytes: Tensor | None = None
        self._lock = threading.Lock()

    def view(self, offset: int, nbytes: int) -> Tensor:
        """uint8 [nbytes], a view of the file.

        Raises:
            CheckpointError: the file is gone or became shorter than its header told.
        """
        with self._lock:
            if self._bytes is None:
                self._bytes = self._map()
        return self._bytes[offset : offset + nbytes]

    def read(self, offset: int, nbytes: int) -> Tensor:
        """uint8 [nbytes] in memory of its own. For what is small: touching a mapped page makes the
        system read ahead, which for a few hundred biases in a large file takes seconds.

        Raises:
            CheckpointError: the file is gone or became shorter than its header told.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                found = bytearray(file.read(nbytes))
        except OSError as error:
            raise CheckpointError(f"{self.path}: can't be read ({error})") from error
        if len(found) < nbytes:
            raise self._shorter()
        return torch.frombuffer(found, dtype=torch.uint8)

    def _shorter(self) -> CheckpointError:
        return CheckpointError(
            f"{self.path}: became shorter after it was opened; wait until it is written "
            "completely, then try again"
        )

    def _map(self) -> Tensor:
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self.size:
                    raise self._shorter()
                buffer = _private(file.fileno(), self.size)
        except (OSError, ValueError, OverflowError) as error:
            raise CheckpointError(
                f"{self.path}: can't be mapped into memory ({error}); a 64-bit Python and a local "
                "disk are needed for large files"
            ) from error
        return torch.frombuffer(buffer, dtype=torch.uint8)


def _private(descriptor: int, size: int) -> mmap.mmap:
    if os.name != "posix":
        import warnings

        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return mmap.mmap(descriptor, size, access=mmap.ACCESS_READ)
    # Without NORESERVE Linux counts every private writable page, though none is ever written, and
    # refuses a file larger than memory and swap.
    flags = mmap.MAP_PRIVATE | (MAP_NORESERVE if sys.platform == "linux" else 0)
    return mmap.mmap(descriptor, size, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
