"""Links in the host's folders: what a list offers can be chosen, and a refused place costs no run."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from embedded_host import Bench
from PIL import Image

from kontext_core.errors import InputError
from standalone.folders import Folders

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    made = Folders.below(tmp_path / "base")
    for folder in (made.input, made.output, made.models / "loras"):
        folder.mkdir(parents=True)
    return made


def weights(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = json.dumps({"__metadata__": {"title": path.stem}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def test_every_listed_picture_is_found(folders: Folders, tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(folders.input / "own.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "outside.png")
    (folders.input / "inner.png").symlink_to("own.png")
    (folders.input / "out.png").symlink_to(tmp_path / "outside.png")
    (folders.input / "gone.png").symlink_to(tmp_path / "gone.png")
    (folders.input / "circle.png").symlink_to("circle.png")
    (folders.input / "folder.png").mkdir()
    os.mkfifo(folders.input / "pipe.png")
    assert folders.pictures() == ["inner.png", "own.png"]
    for name in folders.pictures():
        assert folders.find(name) is not None


def test_every_listed_model_is_found(folders: Folders, tmp_path: Path) -> None:
    base = folders.models / "loras"
    weights(base / "own.safetensors")
    weights(tmp_path / "disk/linked.safetensors")
    weights(tmp_path / "disk/more/deep.safetensors")
    (base / "linked.safetensors").symlink_to(tmp_path / "disk/linked.safetensors")
    (base / "folder").symlink_to(tmp_path / "disk/more", target_is_directory=True)
    (base / "up").symlink_to(base, target_is_directory=True)
    (base / "gone.safetensors").symlink_to(tmp_path / "gone")
    (base / "zero.safetensors").symlink_to("/dev/zero")
    found = folders.model_files("loras")
    assert found == ["folder/deep.safetensors", "linked.safetensors", "own.safetensors"]
    for name in found:
        assert folders.model_path("loras", name).is_file()
    for name in ("../loras/own.safetensors", "/etc/passwd", "folder/../own.safetensors"):
        with pytest.raises(InputError, match="leads out"):
            folders.model_path("loras", name)


@pytest.mark.parametrize("prefix", ["../x", "/tmp/x", "out/x", "a\0b", "x" * 300])
def test_a_refused_place_is_told_before_the_run(prefix: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path / "bench")
    bench.folders.output.mkdir(parents=True, exist_ok=True)
    (bench.folders.output / "out").symlink_to(tmp_path, target_is_directory=True)
    save: Any = bench.nodes["SaveImage"]
    told = save.validate_inputs(filename_prefix=prefix)
    assert isinstance(told, str) and ("leads out" in told or "can't be a file's" in told)
    assert save.validate_inputs(filename_prefix="a/%year%-b") is True
    # It comes by link, and is told when it is there.
    assert save.validate_inputs(filename_prefix=None) is True
    assert not (bench.folders.output / "a").exists()
