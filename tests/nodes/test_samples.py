"""The pack's pictures come into the host's input folder, and never over anything."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def samples(pack: Any) -> Any:
    return pack.module("nodes.samples")


def names(folder: Path) -> list[str]:
    """Of all files in a folder and in those below it."""
    return relative([path for path in folder.rglob("*") if not path.is_dir()], folder)


def relative(paths: list[Path], folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def test_they_come_once_and_whole(samples: Any, host: Any, tmp_path: Path) -> None:
    host.inputs = tmp_path / "not yet" / "input"
    made = samples.place_samples()
    assert names(host.inputs) == names(samples.SAMPLES) == relative(made, host.inputs)
    for path in made:
        of = samples.SAMPLES / path.relative_to(host.inputs)
        assert path.read_bytes() == of.read_bytes()
        mask = os.umask(0)
        os.umask(mask)
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    assert samples.place_samples() == []


def test_what_has_the_name_stays(samples: Any, host: Any, tmp_path: Path) -> None:
    """Also a folder, or a link to nowhere."""
    host.inputs = tmp_path
    all_of_them = names(samples.SAMPLES)
    first, second, third, *_ = (name for name in all_of_them if "/" not in name)
    rest = [name for name in all_of_them if name not in (first, second, third)]
    (tmp_path / first).write_bytes(b"mine")
    (tmp_path / second).mkdir()
    (tmp_path / third).symlink_to(tmp_path / "gone")
    assert relative(samples.place_samples(), tmp_path) == rest
    assert (tmp_path / first).read_bytes() == b"mine"
    assert names(tmp_path / second) == []
    assert not (tmp_path / "gone").exists()


def test_one_who_is_faster_keeps_his_file(
    samples: Any, host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.inputs = tmp_path
    link = os.link

    def late(source: Any, target: Any) -> None:
        Path(target).write_bytes(b"faster")
        link(source, target)

    monkeypatch.setattr(samples.os, "link", late)
    assert samples.place_samples() == []
    assert names(tmp_path) == names(samples.SAMPLES)
    assert {(tmp_path / name).read_bytes() for name in names(tmp_path)} == {b"faster"}


def test_a_file_system_without_links(
    samples: Any, host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    host.inputs = tmp_path
    monkeypatch.setattr(samples.os, "link", refuse)
    assert len(samples.place_samples()) == len(names(tmp_path)) == len(names(samples.SAMPLES))


def test_a_folder_that_cannot_be_written_to_is_said_once(
    samples: Any, host: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # A file in the folder's place refuses everybody, root too.
    host.inputs = tmp_path / "input"
    host.inputs.write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        assert samples.place_samples() == []
    [record] = [record for record in caplog.records if record.name.endswith("nodes.samples")]
    assert str(host.inputs) in record.getMessage()
    assert str(samples.SAMPLES) in record.getMessage()


def test_a_host_that_has_them_gets_no_copies(
    samples: Any, host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(host), "input_folders", lambda _: [tmp_path, samples.SAMPLES])
    assert samples.place_samples() == []
    assert names(tmp_path) == []
