"""The record of a batch: `manifest.jsonl`, one JSON object a line, only ever appended to.

Events: `begin` (a command started), `sent` (a row went to a server), `done` (with its files, seed
and timing), `failed` (with the reason), `end`. A row is finished when its last event is `done` and
its files are still there. Every line is on the disk before the batch goes on, so that whatever
happens, the next command knows what is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

from kontext_core.errors import InputError

MANIFEST = "manifest.jsonl"
# Windows opens for text unless told: line ends are rewritten, sizes no longer fit, and byte 26 ends a file.
BINARY = getattr(os, "O_BINARY", 0)


class Journal:
    """The manifest of an output folder, held by one command at a time."""

    def __init__(self, folder: Path) -> None:
        """Opens or starts the manifest; the folder is made.

        Raises:
            InputError: another command writes there, it can't be written, or it is damaged.
        """
        self.folder = folder
        self.path = folder / MANIFEST
        self.nonce = uuid.uuid4().hex
        # By row key: the last thing that happened to it.
        self.last: dict[str, dict[str, Any]] = {}
        self._guard = threading.Lock()
        # Where whole records end; behind it may be a part of one that the disk refused.
        self._end = 0
        self._torn = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            is_new = not self.path.exists()
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | BINARY, 0o666)
        except OSError as error:
            raise InputError(f"can't write into {folder} ({error}); choose another") from error
        try:
            self._lock()
            self._read()
            if is_new:
                _sync_folder(folder)
        except BaseException as error:
            os.close(self._file)
            if isinstance(error, OSError):
                raise InputError(f"can't use {self.path} ({error}); choose another") from error
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._guard:
            if self._torn:
                # Where even this fails, the next command cuts it.
                with contextlib.suppress(OSError):
                    self._cut()
            os.close(self._file)
            self._file = -1

    def write(self, event: str, **data: Any) -> dict[str, Any]:
        """Appends one event; it is on the disk when this returns.

        Raises:
            InputError: the disk is full or gone.
        """
        record = {"event": event, "time": _now(), **data}
        line = json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        with self._guard:
            if self._file < 0:
                # A thread that outlived the command; the number may be another file's by now.
                raise InputError(f"{self.path} is closed; run the batch again")
            try:
                if self._torn:
                    self._cut()
                left = line
                self._torn = True
                while left:
                    left = left[os.write(self._file, left) :]
                os.fsync(self._file)
                self._torn = False
            except OSError as error:
                raise InputError(
                    f"can't write {self.path} ({error}); free some space and run it again"
                ) from error
            self._end += len(line)
            self._note(record)
        return record

    def _cut(self) -> None:
        """Removes what stands behind the last whole record; another would be glued to it."""
        os.ftruncate(self._file, self._end)
        os.lseek(self._file, self._end, os.SEEK_SET)
        self._torn = False

    def finished(self, key: str) -> dict[str, Any] | None:
        """The `done` record of a row whose files are all there."""
        record = self.last.get(key)
        if record is None or record["event"] != "done":
            return None
        files = record["files"]
        return record if all(self._is_there(entry) for entry in files) else None

    def sent(self, key: str) -> dict[str, Any] | None:
        """The `sent` record (server, id, seed) of a row that went out and never came back."""
        record = self.last.get(key)
        return record if record is not None and record["event"] == "sent" else None

    def _is_there(self, entry: dict[str, Any]) -> bool:
        try:
            return (self.folder / entry["file"]).stat().st_size == entry["bytes"]
        except OSError:
            return False

    def _note(self, record: dict[str, Any]) -> None:
        if "key" in record:
            self.last[record["key"]] = record
        elif record["event"] == "begin":
            self.nonce = record.get("nonce", self.nonce)

    def _read(self) -> None:
        size = os.fstat(self._file).st_size
        content = b""
        while len(content) < size:
            piece = os.read(self._file, size - len(content))
            if not piece:
                break
            content += piece
        whole, newline, torn = content.rpartition(b"\n")
        if torn:
            # The machine went down within a line: what it was about has not happened.
            os.ftruncate(self._file, len(whole) + len(newline))
            os.fsync(self._file)
        self._end = os.lseek(self._file, 0, os.SEEK_END)
        for number, line in enumerate(whole.split(b"\n"), 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                self._check(record)
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"line {number} of {self.path} is damaged ({error}); delete that line, and "
                    "its row runs again, or choose another output folder"
                ) from error
            self._note(record)

    @staticmethod
    def _check(record: Any) -> None:
        kind = record["event"]
        if kind == "done":
            for entry in record["files"]:
                name = entry["file"]
                if not isinstance(name, str) or not isinstance(entry["bytes"], int):
                    raise TypeError("a file needs a name and a size")
        if kind in ("sent", "done", "failed") and not isinstance(record["key"], str):
            raise TypeError("the key is not a text")
        if kind == "sent" and not isinstance(record["server"] + record["id"], str):
            raise TypeError("server and id are not texts")

    def _lock(self) -> None:
        """Two commands in one folder would run every row twice. The system frees the lock of a
        process that dies."""
        try:
            import fcntl
        except ImportError:
            self._lock_windows()
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise self._busy() from error

    def _lock_windows(self) -> None:
        import msvcrt

        # Far behind the end, as Windows locks hinder reading too.
        os.lseek(self._file, 1 << 40, os.SEEK_SET)
        try:
            msvcrt.locking(self._file, msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
        except OSError as error:
            raise self._busy() from error
        os.lseek(self._file, 0, os.SEEK_SET)

    def _busy(self) -> InputError:
        return InputError(
            f"another batch is writing into {self.folder}; wait for it, or choose another --output"
        )


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _sync_folder(folder: Path) -> None:
    """A new file's name is safe only when its folder is."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
