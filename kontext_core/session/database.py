"""A session's SQLite file: its tables, how it is made whole, and its faults in words.

SQLite keeps a rollback journal beside the file while a turn is written, and undoes half a turn from it
the next time the file is opened (https://www.sqlite.org/atomiccommit.html). No other file belongs to a
session for longer than that: no write-ahead log is used.
"""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from sqlite3 import connect

from ..errors import SessionError
from ..partial import whole_file

# Of the tables; raised when an older reader would misunderstand them.
FORMAT = 1
# "KTXS": what says that a database is a session.
APPLICATION = 0x4B545853
# Seconds to wait for another process that is writing a turn.
PATIENCE = 20.0

TABLES = """
CREATE TABLE turn (
    number INTEGER PRIMARY KEY,
    parent INTEGER REFERENCES turn (number),
    key TEXT UNIQUE,
    prompt TEXT NOT NULL,
    seed TEXT,
    settings TEXT NOT NULL,
    framing TEXT NOT NULL,
    created TEXT NOT NULL,
    note TEXT NOT NULL,
    latent BLOB NOT NULL,
    picture BLOB NOT NULL,
    thumbnail BLOB NOT NULL,
    mask BLOB
);
CREATE TABLE reference (
    turn INTEGER NOT NULL REFERENCES turn (number),
    place INTEGER NOT NULL,
    picture BLOB NOT NULL,
    PRIMARY KEY (turn, place)
);
"""


def make_database(path: Path) -> None:
    """An empty session at a path that nothing has yet; it appears whole or not at all.

    Raises:
        SessionError: something is there, or it can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "session"
            with contextlib.closing(connect(made)) as base:
                base.executescript(TABLES)
                base.execute(f"PRAGMA application_id = {APPLICATION}")
                base.execute(f"PRAGMA user_version = {FORMAT}")
                base.commit()
            data = made.read_bytes()
        with whole_file(path, replace=False, sync=True) as file:
            file.write(data)
    except FileExistsError as error:
        raise SessionError(f"{path} is there already; open it, or choose another name") from error
    except (OSError, sqlite3.Error) as error:
        raise SessionError(
            f"can't make the session {path} ({error}); choose another folder, or free some space"
        ) from error


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A session's database for as long as the block lasts; what it writes is there wholly after the
    block, or not at all if that ends with an error.

    Raises:
        SessionError: missing, damaged, busy, full, of a newer format, or something else than a session.
    """
    if not path.is_file():
        raise SessionError(f"there is no session at {path}; check the name, or start it anew")
    try:
        # Autocommit is off in the block: one transaction.
        with contextlib.closing(
            connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=PATIENCE)
        ) as base:
            base.execute("PRAGMA trusted_schema = OFF")
            _check(base, path)
            with base:
                yield base
    except sqlite3.Error as error:
        raise SessionError(_explained(path, error)) from error


def _check(base: sqlite3.Connection, path: Path) -> None:
    (application,) = base.execute("PRAGMA application_id").fetchone()
    (version,) = base.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION:
        raise SessionError(f"{path} is a database, but no session; choose another file")
    if version > FORMAT:
        raise SessionError(
            f"{path} is a session of format {version}, this version reads up to {FORMAT}; update the "
            "pack"
        )


def _explained(path: Path, error: sqlite3.Error) -> str:
    said = str(error)
    if "locked" in said:
        return f"{path} is in use by another process ({said}); try again when that is done"
    if "readonly" in said or "unable to open" in said:
        return f"{path} can't be opened for writing ({said}); check its permissions, or copy it"
    if "full" in said or "disk I/O" in said:
        return f"{path} can't be written ({said}); the turn was left out. Free some space"
    if "not a database" in said:
        return f"{path} is no session ({said}); choose another file"
    return f"{path} is damaged ({said}); take a copy of it from a backup"
