"""Results as JSON lines, one row a (case, seed, arm): only appended to, so that a run can be killed at any
time and goes on after the last whole line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

from kontext_core.errors import InputError

try:
    import fcntl
except ImportError:
    fcntl = None

NAME = "rows.jsonl"
# Identifies a row: (key, seed, arm).
RowKey = tuple[str, int, str]


@dataclass(frozen=True)
class EditRow:
    """One answer and what it is worth.

    Attributes:
        arm: "asked", or the control that it belongs to, such as "4 steps".
        file: its picture, below the folder of results.
        seconds: that it took; None for a picture that was there.
        scores: by scorer, its figures by name.
        unscored: by scorer, why it gave none.
    """

    key: str
    category: str
    seed: int
    arm: str
    file: str
    seconds: float | None
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    unscored: dict[str, str] = field(default_factory=dict)

    @property
    def id(self) -> RowKey:
        """What tells it from the others."""
        return self.key, self.seed, self.arm


class RowFile:
    """The rows of a folder. A later line of a row takes the place of an earlier one."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self.rows = _read(file, path)

    def add(self, row: EditRow) -> None:
        """Append a row; it is on the disk when this returns.

        Raises:
            InputError: it can't be written.
        """
        line = (json.dumps(asdict(row), ensure_ascii=False) + "\n").encode()
        try:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise InputError(f"can't write a row ({error}); free some space and go on") from error
        self.rows[row.id] = row


@contextmanager
def row_file(folder: Path) -> Iterator[RowFile]:
    """The rows of a folder, to read and to append to; of one process at a time.

    What a killed writer left of a line is taken away.

    Raises:
        InputError: another process writes there, or the file is damaged or can't be opened.
    """
    path = folder / NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
    except OSError as error:
        raise InputError(f"can't write {path} ({error}); choose another folder") from error
    with file:
        if fcntl is not None:
            try:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InputError(
                    f"another run writes {path}; wait for it, or choose another folder"
                ) from error
        yield RowFile(file, path)


def read_rows(folder: str | Path) -> list[EditRow]:
    """The rows of a folder, in the order in which they first came.

    Raises:
        InputError: there are none, or the file is damaged.
    """
    path = Path(folder) / NAME
    try:
        with path.open("rb") as file:
            return list(_parsed(file.read(), path).values())
    except OSError as error:
        raise InputError(
            f"can't read {path} ({error}); make it with python -m kontext_lab bench run"
        ) from error


def _read(file: BinaryIO, path: Path) -> dict[RowKey, EditRow]:
    file.seek(0)
    data = file.read()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        file.truncate(whole)
    return _parsed(data[:whole], path)


def _parsed(data: bytes, path: Path) -> dict[RowKey, EditRow]:
    found: dict[RowKey, EditRow] = {}
    lines = data.split(b"\n")
    for number, line in enumerate(lines, 1):
        # Behind the last line end stands nothing, or what a killed writer left.
        if not line.strip() or number == len(lines):
            continue
        try:
            row = EditRow(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise InputError(
                f"line {number} of {path} is no row ({error}); remove the line, or choose another folder"
            ) from error
        found[row.id] = row
    return found
