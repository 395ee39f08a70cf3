"""What make's commands answer: a failed run is a failed command."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hosts import ROOT

# Stand for the environment's commands: note what they were asked, and end as each was told to.
ASKED = """#!/bin/sh
echo "$0 $*" >> "{folder}/asked"
"""
PYTEST = ASKED + "{written}; exit {tests}"
PYTHON = ASKED + 'test -f "{folder}/hosts.xml" || exit 1; exit {table}'

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def hosts(folder: Path, tests: int, table: int, writes: bool = True) -> int:
    """`make hosts` with tests and a table that end in those ways; its exit status."""
    (folder / "bin").mkdir(exist_ok=True)
    written = f"touch {folder}/hosts.xml" if writes else ":"
    for name, text in {"python": PYTHON, "pytest": PYTEST}.items():
        script = folder / "bin" / name
        script.write_text(
            text.format(folder=folder, written=written, tests=tests, table=table), encoding="utf-8"
        )
        script.chmod(0o755)
    command = ["make", "hosts", f"VENV={folder}", "--old-file", f"{folder}/test.ready"]
    (folder / "test.ready").touch()
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode


def test_hosts_fails_with_its_tests_and_still_writes_the_table(tmp_path: Path) -> None:
    assert hosts(tmp_path, 0, 0) == 0
    assert hosts(tmp_path, 1, 0) != 0
    assert hosts(tmp_path, 0, 1) != 0
    asked = (tmp_path / "asked").read_text(encoding="utf-8").splitlines()
    assert len(asked) == 6
    assert all(
        "bin/pytest tests/api tests/native tests/batch tests/web" in line for line in asked[::2]
    )
    assert all("bin/python tests/support/hosts_table.py" in line for line in asked[1::2])


def test_an_earlier_runs_results_are_not_written_as_this_ones(tmp_path: Path) -> None:
    (tmp_path / "hosts.xml").touch()
    assert hosts(tmp_path, 3, 0, writes=False) != 0
    assert not (tmp_path / "hosts.xml").exists()
