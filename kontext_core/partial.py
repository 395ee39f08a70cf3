"""Files on their way to their name: whole or not there, and cleaned up after a process that was killed.

They lie beside their target as `.kontext-XXXXXXXX.part`, held by a lock for as long as their writer lives.
"""

from __future__ import annotations

import logging
import os
import re
import uuid
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:
    fcntl = None

log = logging.getLogger(__name__)

_NAME = re.compile(r"\.kontext-[0-9a-f]{8}\.part")


def open_partial(folder: Path) -> tuple[BinaryIO, Path]:
    """A new file in a folder, open for writing, and its path; the caller renames or removes it.

    What killed writers left in the folder is removed first.

    Raises:
        OSError: it can't be written there.
    """
    clear_partial(folder)
    while True:
        path = folder / f".kontext-{uuid.uuid4().hex[:8]}.part"
        file = path.open("xb")
        _lock(file, wait=True)
        # Before it was locked another process may have cleared it away.
        if path.exists():
            return file, path
        file.close()


def clear_partial(folder: Path) -> None:
    """Remove what killed writers left in a folder. What can't be removed stays."""
    try:
        names = [name for name in os.listdir(folder) if _NAME.fullmatch(name)]
    except OSError:
        # Not there, or not to be listed: opening a file in it will say so.
        return
    for name in names:
        path = folder / name
        try:
            if fcntl is None:
                # Windows removes no file that somebody has open.
                path.unlink()
                continue
            with path.open("rb+") as file:
                if _lock(file, wait=False):
                    path.unlink()
        except OSError as error:
            log.debug("%s: can't be removed (%s)", path, error)


def _lock(file: BinaryIO, *, wait: bool) -> bool:
    """Hold a file until it is closed or the process ends; False where that can't be."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        # Somebody else's, or a file system without locks, where nothing counts as left behind.
        return False
    return True
