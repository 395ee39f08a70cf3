"""Files that clients send: written whole or not at all, and named where that fails."""

from __future__ import annotations

from pathlib import Path

from kontext_core.partial import whole_file

from ..errors import BodyError


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file under its name in one step; its folder is made.

    Raises:
        BodyError: the disk is full, the name is a folder's, or the system refuses otherwise.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, sync=True) as file:
            file.write(content)
    except OSError as error:
        raise BodyError(
            "cannot_write",
            f"{path.name[:80]} can't be saved: {error.strerror or error}; free some space, or "
            "choose another name",
        ) from error
