"""Names and paths that come from rows: what may be one, and where it leads."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path, PurePosixPath, PureWindowsPath

from ..errors import InputError

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# Longer parts fit on no file system, and the ending and a number still have to fit behind.
MAX_PART_BYTES = 200
# What Windows takes for a device, whatever the ending.
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f:*?"<>|]')


def composed(text: str) -> str:
    """A name with its accents as one character each (NFC). Some systems keep them apart (NFD), so that
    names that look the same differ."""
    return unicodedata.normalize("NFC", text)


def plain_name(text: str) -> str:
    """A row's name as a path below the output folder, "/" between folders, without an ending of
    its own being touched; composed.

    Raises:
        InputError: it leads out of the folder, or some file system could not hold it.
    """
    name = composed(text.strip().replace("\\", "/"))
    parts = PurePosixPath(name).parts
    bad = (
        not parts
        or name.startswith("/")
        or PureWindowsPath(name).drive
        or _FORBIDDEN.search(name)
        or any(_bad_part(part) for part in parts)
    )
    if bad:
        raise InputError(
            f"the name {text[:80]!r} can't be a file's; expected a plain name such as cat or "
            "animals/cat, without '..', a leading '/' or any of : * ? \" < > |"
        )
    return "/".join(parts)


def _bad_part(part: str) -> bool:
    return (
        part in ("..", "~")
        # Hidden files are ours: the lock and unfinished downloads.
        or part.startswith(".")
        or part.endswith((" ", "."))
        or len(part.encode("utf-8", "replace")) > MAX_PART_BYTES
        or _DEVICES.fullmatch(part) is not None
    )


def free_name(name: str, taken: dict[str, int]) -> str:
    """`name`, or `name_2` and on where it is taken; notes it in `taken`, which begins empty.

    Some file systems take "Cat" and "cat" for one, so that they count as one here, however their
    accents are written.
    """
    key = composed(name).lower()
    # What a name was last tried with: a thousand rows of one name don't try a thousand numbers each.
    number = taken.get(key, 0)
    if not number:
        taken[key] = 1
        return name
    candidate = name
    while composed(candidate).lower() in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken[key] = number
    taken[composed(candidate).lower()] = 1
    return candidate


def inside(folder: Path, name: str, folder_too: bool = False) -> Path:
    """The file that a row names below `folder`; with `folder_too` it may be a folder.

    Raises:
        InputError: an absolute path, one that leads out of the folder (by "..", or by a link), or
            no file there.
    """
    what = "file or folder" if folder_too else "picture"
    given = name.strip().replace("\\", "/")
    below = PurePosixPath(given)
    hostile = "\0" in given or below.is_absolute() or PureWindowsPath(given).drive
    if hostile or ".." in below.parts or not below.parts:
        raise InputError(
            f"the {what} {name[:200]!r} must be a path below {folder}, without '..'; copy it "
            "there, or name another"
        )
    path = _as_stored(folder, below)
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise InputError(f"there is no {what} {name[:200]!r} in {folder}") from error
    if not real.is_relative_to(folder.resolve()):
        raise InputError(f"the {what} {name[:200]!r} is a link that leads out of {folder}")
    if not (real.is_file() or (folder_too and real.is_dir())):
        raise InputError(f"{name[:200]!r} in {folder} is not a file; expected a {what}")
    return path


def _as_stored(folder: Path, below: PurePosixPath) -> Path:
    """A path in the spelling that the file system has, composed or decomposed."""
    path = folder / below
    if path.exists() or str(below).isascii():
        return path
    found = folder
    for part in below.parts:
        step = found / part
        if not step.exists():
            try:
                names = sorted(entry.name for entry in found.iterdir())
            except OSError:
                return path
            same = (name for name in names if composed(name) == composed(part))
            step = found / next(same, part)
        found = step
    return found


def natural(name: str) -> tuple[object, ...]:
    """A key for sorting: "2.png" before "10.png"."""
    parts = re.split(r"(\d+)", name.lower())
    return (*((int(part), "") if part.isdecimal() else (-1, part) for part in parts), name)
