"""Files on their way to their name: whole or not there, and cleaned up after a process that was killed.

They lie beside their target as `.kontext-XXXXXXXX.part`, held by a lock for as long as their writer lives.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

try:
    import fcntl
except ImportError:
    fcntl = None

log = logging.getLogger(__name__)

T = TypeVar("T")
_NAME = re.compile(r"\.kontext-[0-9a-f]{8}\.part")
# Windows renames no open file: between closing and renaming, threads of this process look away.
_RENAMING = threading.Lock()


@contextlib.contextmanager
def whole_file(path: Path, *, replace: bool = True, sync: bool = False) -> Iterator[BinaryIO]:
    """A file that has its name once the block has ended without an error. Its folder must be there.

    Args:
        replace: False leaves a file that has the name already.
        sync: its bytes are on the disk before it has its name.

    Raises:
        FileExistsError: somebody has the name, and `replace` is False.
        OSError: it can't be written there.
    """
    file, part = open_partial(path.parent)
    try:
        with file:
            yield file
            move = os.replace if replace else move_new
            finish_partial(file, lambda: move(part, path), sync=sync)
    finally:
        part.unlink(missing_ok=True)


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


def finish_partial(file: BinaryIO, move: Callable[[], T], *, sync: bool = False) -> T:
    """Call `move`, which gives a partial file its name, while nobody can take it for left behind.

    Raises:
        OSError: its last bytes can't be written, or what `move` raises.
    """
    file.flush()
    if sync:
        os.fsync(file.fileno())
    if fcntl is not None:
        return move()
    with _RENAMING:
        file.close()
        return move()


def move_new(part: Path, target: Path) -> None:
    """Give a file a name that nobody has, in one step where the file system has links.

    Raises:
        FileExistsError: somebody has it.
        OSError: it can't be done.
    """
    try:
        # Unlike a rename it never replaces a file.
        os.link(part, target)
    except FileExistsError:
        raise
    except OSError:
        # FAT, some network drives.
        if os.path.lexists(target):
            raise FileExistsError(f"{target} is there") from None
        os.replace(part, target)


def is_partial(name: str) -> bool:
    """Whether a file of this name is one on its way to another name."""
    return _NAME.fullmatch(name) is not None


def clear_below(folder: Path) -> None:
    """Remove what killed writers left in a folder and the folders in it; links are not followed."""
    for place, _, names in os.walk(folder):
        if any(map(is_partial, names)):
            clear_partial(Path(place))


def clear_partial(folder: Path) -> None:
    """Remove what killed writers left in a folder. What can't be removed stays."""
    try:
        names = [name for name in os.listdir(folder) if is_partial(name)]
    except OSError:
        # Not there, or not to be listed: opening a file in it will say so.
        return
    for name in names:
        path = folder / name
        try:
            if fcntl is None:
                # Windows removes no file that somebody has open.
                with _RENAMING:
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
