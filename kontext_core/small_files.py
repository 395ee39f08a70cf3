"""Reads text files whole (configurations, indices, tables, workflows): regular ones, bounded."""

from __future__ import annotations

import stat
from pathlib import Path

LIMIT = 32 << 20


def read_small_text(path: Path, limit: int = LIMIT) -> str:
    """The UTF-8 text of a file of at most `limit` bytes, without the mark that some editors begin it with.

    Raises:
        OSError: not there, not to be read, or not a regular file: a pipe would wait for its writer, a
            device may have no end.
        ValueError: larger, or not UTF-8.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is not a regular file")
    with path.open("rb") as file:
        # Python makes room for as much as is asked for.
        data = file.read(min(limit, found.st_size) + 1)
    if len(data) > limit:
        raise ValueError(f"it is larger than {limit} bytes")
    return data.decode("utf-8-sig")
