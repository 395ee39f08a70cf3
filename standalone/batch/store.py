"""The folder of results: files appear whole, and no name is ever taken twice."""

from __future__ import annotations

import hashlib
import shutil
import threading
from pathlib import Path
from typing import Any

from kontext_core.errors import InputError
from kontext_core.partial import finish_partial, move_new, open_partial

# Unfinished downloads; on the same file system as the results, so that one step moves them.
PARTS = ".unfinished"


class Store:
    """Puts results into the output folder. Only one process may use it (see `Journal`)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts = folder / PARTS
        # What an earlier command left when it was killed.
        shutil.rmtree(self.parts, ignore_errors=True)
        # Two rows may want one name, and not every file system can give it to just one of them.
        self._naming = threading.Lock()

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
            file, part = open_partial(self.parts)
            try:
                with file:
                    file.write(content)
                    found = finish_partial(
                        file, lambda: self._claim(part, name, suffix, digest), sync=True
                    )
            finally:
                part.unlink(missing_ok=True)
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
                with self._naming:
                    move_new(part, target)
                return target
            except FileExistsError:
                # A command that was killed before its record was written left the same file.
                if target.is_file() and _digest(target) == digest:
                    return target
            number += 1


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
