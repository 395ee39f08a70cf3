"""Foreign files, folders and indexes of shards are refused by name, and never run."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from raw_files import ONE, raw_safetensors, refused
from safetensors.torch import save_file
from sparse import sparse_gguf

from kontext_core.errors import CheckpointError, ModelNotFoundError
from kontext_core.weights.source import open_weights

FOREIGN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "zeros": (bytes(5000), "all zeros"),
    "git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs"),
    "web page": (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
    "error in JSON": (b'{"error": "Access to this model is restricted"}', "JSON"),
    "short text": (b"Entry not found", "Entry not found"),
    "torch zip": (b"PK\x03\x04" + bytes(100), "pickle"),
    "old torch pickle": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "pickle"),
    "plain pickle": (b"\x80\x04\x95\x10\0\0\0\0\0\0\0}\x94.", "pickle"),
    "gzip": (b"\x1f\x8b\x08" + bytes(100), "gzip"),
    "tar": (b"a" * 257 + b"ustar" + bytes(300), "tar"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    "GGML": (b"tjgg" + b"\1" * 100, "before GGUF"),
    "noise": (bytes(range(37, 250)), "neither"),
    "few bytes": (b"\xfe\xff", "too few"),
}


@pytest.mark.parametrize("case", FOREIGN)
@pytest.mark.parametrize("suffix", [".safetensors", ".gguf"])
def test_foreign_files(tmp_path: Path, case: str, suffix: str) -> None:
    raw, reason = FOREIGN[case]
    path = tmp_path / f"foreign{suffix}"
    path.write_bytes(raw)
    assert reason in refused(path)


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"weight": Trap()}, tmp_path / "trap.safetensors")
    torch.save({"weight": Trap()}, tmp_path / "trap.bin")
    for name in ("trap.safetensors", "trap.bin"):
        assert "pickle" in refused(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_name_does_not_decide(tmp_path: Path) -> None:
    path = sparse_gguf(tmp_path / "model.safetensors", {"a": ("F32", (4,))})
    assert open_weights(path).format == "gguf"
    save_file({"a": torch.ones(4)}, tmp_path / "other.gguf")
    assert open_weights(tmp_path / "other.gguf").format == "safetensors"


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="there is no file"):
        open_weights(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="can't be looked at"):
        open_weights("null\0byte.safetensors")
    (tmp_path / "dangling.safetensors").symlink_to(tmp_path / "gone")
    with pytest.raises(ModelNotFoundError):
        open_weights(tmp_path / "dangling.safetensors")


@pytest.mark.skipif(os.name != "posix", reason="pipes and sockets with names are POSIX")
def test_not_regular_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    assert "a pipe" in refused(tmp_path / "pipe.safetensors")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.gguf"))
        assert "a socket" in refused(tmp_path / "socket.gguf")
    assert "a device" in refused(Path("/dev/zero"))
    if os.geteuid():
        path = raw_safetensors(tmp_path / "locked.safetensors", ONE)
        path.chmod(0)
        assert "can't be read" in refused(path)


def test_folders(tmp_path: Path) -> None:
    assert "no weights in this folder" in refused(tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    assert "only pickles" in refused(tmp_path)
    raw_safetensors(tmp_path / "a.safetensors", ONE)
    assert set(open_weights(tmp_path).entries) == {"a"}
    raw_safetensors(tmp_path / "b.safetensors", ONE)
    assert "name the one to use" in refused(tmp_path)
    pipeline = tmp_path / "pipeline"
    pipeline.mkdir()
    (pipeline / "model_index.json").write_text("{}")
    assert "without transformer" in refused(pipeline)


INDEXES: dict[str, tuple[bytes, str]] = {
    "shard missing": (b'{"weight_map": {"a": "gone.safetensors"}}', "shards are missing"),
    "outside the folder": (b'{"weight_map": {"a": "../gone.safetensors"}}', "beside it"),
    "absolute": (b'{"weight_map": {"a": "/etc/passwd"}}', "beside it"),
    "pickles": (b'{"weight_map": {"a": "pytorch_model-1.bin"}}', "pickles"),
    "no map": (b"{}", "weight_map"),
    "empty map": (b'{"weight_map": {}}', "weight_map"),
    "map is a list": (b'{"weight_map": []}', "weight_map"),
    "not JSON": (b"{", "can't be read"),
    "deep": (b"[" * 100_000, "can't be read"),
}


@pytest.mark.parametrize("case", INDEXES)
def test_bad_index(tmp_path: Path, case: str) -> None:
    raw, reason = INDEXES[case]
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(raw)
    assert reason in refused(path)


def test_shards_with_a_common_tensor_and_a_missing_one(tmp_path: Path) -> None:
    first = raw_safetensors(tmp_path / "m-00001-of-00002.safetensors", ONE)
    assert "1 of 2 shards are missing" in refused(first)
    raw_safetensors(tmp_path / "m-00002-of-00002.safetensors", ONE)
    with pytest.raises(CheckpointError, match="in two shards"):
        open_weights(first)
