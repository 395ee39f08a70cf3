"""The log of a training run: one JSON row per line, cut back to the checkpoint on resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..partial import whole_file


def read_log(path: Path) -> list[dict[str, Any]]:
    """All rows of a log, oldest first; an unfinished last line (a kill while writing) is dropped."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


class RunLog:
    """Appends rows that have a "step"; rows after `step` are from a future that was lost.

    A run that was killed goes on at its checkpoint and makes the later steps again; without the
    cut they would be in the log twice.
    """

    def __init__(self, path: Path, step: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [row for row in read_log(path) if row["step"] <= step]
        with whole_file(path, sync=True) as file:
            file.write("".join(json.dumps(row) + "\n" for row in kept).encode())
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: dict[str, Any]) -> str:
        """Keep the row; returns it as it is in the file, for showing."""
        line = json.dumps(row)
        self._file.write(line + "\n")
        self._file.flush()
        return line

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
