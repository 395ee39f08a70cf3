"""Unfinished files: gone after a kill and the next run, untouched while their writer lives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from kontext_core.errors import InputError
from kontext_core.partial import clear_below, clear_partial, open_partial, whole_file
from kontext_core.weights.write_gguf import GgufTensor, GgufWriter
from kontext_core.writing import check_target, save_image

WRITER = """
import sys
from contextlib import suppress
from pathlib import Path
from kontext_core.partial import open_partial
file, path = open_partial(Path(sys.argv[1]))
file.write(b"half")
file.flush()
print(path.name, flush=True)
sys.stdin.read()
"""


def test_a_killed_writers_file_goes_a_living_ones_stays(tmp_path: Path) -> None:
    def start() -> tuple[subprocess.Popen[str], Path]:
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        return process, tmp_path / process.stdout.readline().strip()

    dead, left = start()
    living, held = start()
    try:
        os.kill(dead.pid, signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
        dead.wait()
        assert left.read_bytes() == b"half"
        file, own = open_partial(tmp_path)
        assert not left.exists() and held.exists() and own.exists()
        file.close()
        clear_partial(tmp_path)
        assert held.exists() and not own.exists()
    finally:
        for process in (dead, living):
            process.kill()
            process.communicate()


def test_a_file_is_its_writers_until_it_has_its_name(tmp_path: Path) -> None:
    """Somebody else cleans in the same folder at the very moment of the renaming."""
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        clear_below(tmp_path)
        real(source, target)

    with pytest.MonkeyPatch.context() as patch, whole_file(tmp_path / "a", sync=True) as file:
        patch.setattr(os, "replace", replace)
        file.write(b"whole")
    assert (tmp_path / "a").read_bytes() == b"whole"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_is_there_stays(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(source: object, target: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", link)
    for content in (b"mine", b"late"):
        with suppress(FileExistsError), whole_file(tmp_path / "a", replace=False) as file:
            file.write(content)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"mine")]


@pytest.mark.parametrize("kind", ["gguf", "picture"])
def test_the_next_run_of_the_same_job_clears(kind: str, tmp_path: Path) -> None:
    left, foreign = tmp_path / ".kontext-0123abcd.part", tmp_path / ".other-0123abcd.part"
    for path in (left, foreign):
        path.write_bytes(b"half")
    if kind == "gguf":
        with GgufWriter(tmp_path / "a.gguf", {}, [GgufTensor("a", (8,), "F32")]) as out:
            out.write(torch.zeros(32, dtype=torch.uint8))
    else:
        save_image(torch.zeros(1, 8, 8, 3), tmp_path / "a.png")
    assert len(list(tmp_path.iterdir())) == 2 and foreign.exists() and not left.exists()


def test_a_place_that_takes_no_picture_is_refused_first(tmp_path: Path) -> None:
    check_target(tmp_path / "new" / "a.png")
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="is a folder"):
        (tmp_path / "b.png").mkdir()
        check_target(tmp_path / "b.png")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="can't write .* choose another folder"):
        check_target(tmp_path / "file" / "a.png")
