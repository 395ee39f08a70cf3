"""The folder of results: files appear whole, and no name is ever taken twice."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from kontext_core.errors import InputError

# Unfinished downloads; on the same file system as the results, so that one step moves them.
PARTS = ".unfinished"


class Store:
    """Puts results into the output folder. Only one process may use it (see `Journal`)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts = folder / PARTS
        # What an earlier command left when it was killed.
        shutil.rmtree(self.parts, ignore_errors=True)
        # Asked once, as asking means setting it, for all threads.
        mask = os.umask(0)
        os.umask(mask)
        self.mode = 0o666 & ~mask

    def put(self, name: str, suffix: str, content: bytes) -> dict[str, Any]:
        """Write a file as `<name><suffix>`, or `<name>_2<suffix>` and on where that is taken by
        another content: {"file": relative to the folder, "bytes", "sha256"}.

        Raises:
            InputError: the disk is full, or the folder can't be written to.
        """
        digest = hashlib.sha256(content).hexdigest()
        try:
            self.parts.mkdir(parents=True, exist_ok=True)
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(dir=self.parts)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                # mkstemp makes the file private; give it what a plain open would have given.
                os.chmod(part, self.mode)
                found = self._claim(Path(part), name, suffix, digest)
            finally:
                Path(part).unlink(missing_ok=True)
        except OSError as error:
            raise InputError(
                f"can't write {name}{suffix} into {self.folder} ({error}); free some space, or "
                "choose another --output, and run it again"
            ) from error
        file = found.relative_to(self.folder).as_posix()
        return {"file": file, "bytes": len(content), "sha256": digest}

    def close(self) -> None:
        """Removes the folder of unfinished files."""
        shutil.rmtree(self.parts, ignore_errors=True)

    def _claim(self, part: Path, name: str, suffix: str, digest: str) -> Path:
        number = 1
        while True:
            target = self.folder / f"{name}{'' if number == 1 else f'_{number}'}{suffix}"
            try:
                _move_new(part, target)
                return target
            except FileExistsError:
                # A command that was killed before its record was written left the same file.
                if target.is_file() and _digest(target) == digest:
                    return target
            number += 1


def _move_new(part: Path, target: Path) -> None:
    """Moves a file to a name that nobody has, in one step where the file system can.

    Raises:
        FileExistsError: somebody has it.
    """
    try:
        os.link(part, target)
    except FileExistsError:
        raise
    except OSError:
        # No hard links here (FAT, some network drives): reserve the name, then fill it.
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        os.replace(part, target)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
