"""Folders as the Hugging Face hub's cache keeps them: `models--owner--name/snapshots/<revision>/...`.

Files in a snapshot are links into `blobs/`; `refs/main` names the revision that is current
(huggingface_hub, guide "Understand caching").
"""

from __future__ import annotations

from pathlib import Path

from ..errors import CheckpointError
from ..small_files import read_small_text
from .entry import shown, shown_list

FOLDER = "models--"
REFERENCE_LIMIT = 256


def snapshot_of(folder: Path) -> Path:
    """The snapshot in a repository's folder of the cache; any other folder is itself.

    Raises:
        CheckpointError: it holds no snapshot yet, or several and none is named as current.
    """
    if folder.name == "snapshots" and folder.parent.name.startswith(FOLDER):
        folder = folder.parent
    snapshots = folder / "snapshots"
    if not folder.name.startswith(FOLDER) and not (
        snapshots.is_dir() and (folder / "blobs").is_dir()
    ):
        return folder
    name = folder.name.removeprefix(FOLDER).replace("--", "/")
    try:
        found = sorted(entry.name for entry in snapshots.iterdir() if entry.is_dir())
    except OSError:
        found = []
    if not found:
        raise CheckpointError(
            f"{folder}: the hub's cache of {name}, and nothing of it is complete: there is no folder "
            f"in snapshots/{_unfinished(folder)}. Download {name} again"
        )
    try:
        current = read_small_text(folder / "refs" / "main", REFERENCE_LIMIT).strip()
    except (OSError, ValueError):
        current = ""
    if current in found:
        return snapshots / current
    if len(found) > 1:
        raise CheckpointError(
            f"{folder}: the hub's cache of {name} in {len(found)} versions ({shown_list(found)}), and "
            "refs/main names none of them; name one of the folders in snapshots/"
        )
    return snapshots / found[0]


def no_file(path: Path) -> str:
    """A sentence about a path with nothing there."""
    if path.is_symlink():
        return (
            f"{path} is a link to {path.readlink()}, which is not there: its download was stopped, or "
            "the link was copied without the file. Download it again, or copy the file itself"
        )
    return f"there is no file {shown(path, 400)}; check the path or download the file there"


def missing_links(folder: Path) -> list[str]:
    """Names of links in a folder that lead nowhere, sorted."""
    return sorted(
        entry.name for entry in folder.iterdir() if entry.is_symlink() and not entry.exists()
    )


def _unfinished(folder: Path) -> str:
    count = len(list((folder / "blobs").glob("*.incomplete")))
    return f", and {count} downloads were not finished" if count else ""
