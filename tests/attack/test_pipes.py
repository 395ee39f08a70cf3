"""Pipes and devices without end, named where a text is expected: refused with a name, never waited for."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from embedded_nodes import ROOT  # noqa: F401  makes `standalone` importable

from kontext_core.commands.edit import read_prompt
from kontext_core.errors import KontextError
from kontext_core.tables.names import free_name
from kontext_core.tables.rows import read_rows
from standalone.changes import _text
from standalone.convert import read_workflow
from standalone.folders import Folders
from standalone.server.user import FIRST_SETTINGS, UserRoutes

READERS: dict[str, Callable[[Path], object]] = {
    "rows.csv": read_rows,
    "rows.jsonl": read_rows,
    "words.txt": read_rows,
    "workflow.json": read_workflow,
    "prompt.txt": lambda path: read_prompt(str(path)),
    "set.txt": lambda path: _text(f"@{path}"),
}


def make(path: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")


def ended(work: Callable[[], object]) -> object:
    """What a call gives or raises. One that waits is left behind in its thread."""
    found: list[object] = []

    def run() -> None:
        try:
            found.append(work())
        except KontextError as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(60)
    assert found, "it waits, or raises what is no KontextError"
    return found[0]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such files")
@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_file_is_refused(name: str, kind: str, tmp_path: Path) -> None:
    make(tmp_path / name, kind)
    error = ended(lambda: READERS[name](tmp_path / name))
    assert isinstance(error, KontextError)
    assert name in str(error) and "not a regular file" in str(error)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such files")
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_settings_that_are_no_file_are_set_aside(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "user/default"
    folder.mkdir(parents=True)
    make(folder / "comfy.settings.json", kind)
    routes = ended(lambda: UserRoutes(Folders.below(tmp_path)))
    assert isinstance(routes, UserRoutes)
    assert ended(routes._settings) == FIRST_SETTINGS
    assert [path.name for path in folder.iterdir()] == ["comfy.settings.json.damaged"]


def test_equal_names_cost_no_square() -> None:
    class Counting(dict[str, int]):
        asked = 0

        def __contains__(self, key: object) -> bool:
            Counting.asked += 1
            return super().__contains__(key)

    taken, count = Counting(), 5000
    names = [free_name("Cat" if n % 2 else "cat", taken) for n in range(count)]
    assert names[:4] == ["cat", "Cat_2", "cat_3", "Cat_4"] and len(set(names)) == count
    assert Counting.asked < 3 * count
    # A name that somebody chose is passed over.
    assert [free_name(name, {}) for name in ("a", "a")] == ["a", "a"]
    some: dict[str, int] = {}
    given = ["a_2", "a", "a", "a", "A_2", "a_2"]
    assert [free_name(name, some) for name in given] == ["a_2", "a", "a_3", "a_4", "A_2_2", "a_2_3"]
