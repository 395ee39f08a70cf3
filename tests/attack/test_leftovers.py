"""What killed processes left, at the embedded host's next start and beside a worker of a cluster."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from embedded_host import Bench, live, wait_for

from kontext_core.partial import open_partial
from standalone.batch.worker import make_base

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs locks of files")
LEFT = ".kontext-0123abcd.part"


def test_the_hosts_start_cleans_all_its_folders_but_for_files_being_written(tmp_path: Path) -> None:
    bench, places = Bench(tmp_path / "base"), []
    for kind in ("input", "output", "temp", "user", "models"):
        places += [tmp_path / "base" / kind, tmp_path / "base" / kind / "sub" / "folder"]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
        (place / LEFT).write_bytes(b"half")
        (place / ".other.part").write_bytes(b"somebody else's")
    held, living = open_partial(places[1])
    with held, live(bench):
        wait_for(lambda: not any((place / LEFT).exists() for place in places))
        left = {path.name for place in places for path in place.iterdir() if path.is_file()}
        assert left == {".other.part", living.name}


def test_a_worker_removes_the_folders_of_those_that_are_gone(tmp_path: Path) -> None:
    one, mark = make_base(tmp_path)
    gone, other = make_base(tmp_path)
    (gone / "input").mkdir()
    (gone / "input" / "a.png").write_bytes(b"x")
    other.close()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "kontext-batch-link").symlink_to(tmp_path / "elsewhere")
    with mark:
        # All of them young: nothing is touched.
        young, third = make_base(tmp_path)
        assert one.exists() and gone.exists()
        for folder in (one, gone, young):
            os.utime(folder, (0, 0))
        with third:
            fourth, last = make_base(tmp_path)
        last.close()
        assert sorted(p for p in tmp_path.iterdir()) == sorted(
            [one, young, fourth, tmp_path / "elsewhere", tmp_path / "kontext-batch-link"]
        )
