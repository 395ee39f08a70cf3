"""Files that clients send: written whole or not at all, and named where that fails."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ..errors import BodyError

__all__ = ["write_whole"]


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file under its name in one step; its folder is made.

    Raises:
        BodyError: the disk is full, the name is a folder's, or the system refuses otherwise.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Of a length of its own: a name of 255 bytes has no room for an ending.
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=".kontext-", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            # mkstemp makes the file private; give it what a plain open would have given.
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(part, 0o666 & ~mask)
            os.replace(part, path)
        finally:
            Path(part).unlink(missing_ok=True)
    except OSError as error:
        raise BodyError(
            "cannot_write",
            f"{path.name[:80]} can't be saved: {error.strerror or error}; free some space, or "
            "choose another name",
        ) from error
