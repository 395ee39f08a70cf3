"""Damaged, foreign and unfinished files are refused by name, at once and without large memory."""

from __future__ import annotations

import json
import os
import socket
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from sparse import sparse_gguf

from kontext_core.errors import CheckpointError, ModelNotFoundError
from kontext_core.weights.source import open_weights

ONE = {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}


def raw_safetensors(path: Path, header: Any, data: bytes = bytes(16)) -> Path:
    """A file with this header, given as JSON value or bytes."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return path


def raw_gguf(
    path: Path, body: bytes, *, tensors: int = 0, pairs: int = 0, version: int = 3
) -> Path:
    """A GGUF file with these counts and this body."""
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", version, tensors, pairs) + body)
    return path


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def tensor_info(name: str, dims: tuple[int, ...], kind: int, offset: int) -> bytes:
    return (
        text(name)
        + struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
        + struct.pack("<IQ", kind, offset)
    )


def refused(path: Path) -> str:
    """The message, once it is sure that no memory to speak of was taken."""
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError) as caught:
            open_weights(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Measured: 0.4 MB at most, the read buffer included.
    assert peak < 4 << 20
    message = str(caught.value)
    assert path.name in message
    assert len(message) < 1000
    return message


def entry(**changes: Any) -> dict[str, Any]:
    return {"a": {**ONE["a"], **changes}}


SAFETENSORS: dict[str, tuple[Any, bytes, str]] = {
    "offsets beyond the file": (ONE, bytes(15), "cut off"),
    "bytes after the last tensor": (ONE, bytes(17), "belong to nothing"),
    "overlap": (
        {**ONE, "b": {"dtype": "F32", "shape": [2], "data_offsets": [12, 20]}},
        bytes(20),
        "overlap",
    ),
    "hole": (
        {**ONE, "b": {"dtype": "F32", "shape": [1], "data_offsets": [20, 24]}},
        bytes(24),
        "belong to nothing",
    ),
    "large shape": (entry(shape=[1 << 20, 1 << 20]), bytes(16), "span 16"),
    "huge shape": (entry(shape=[1 << 40, 1 << 40]), bytes(16), "fewer numbers"),
    "huge and empty": (entry(shape=[0, 1 << 61], data_offsets=[0, 0]), b"", "fewer numbers"),
    "shape beyond counting": (entry(shape=[1 << 70]), bytes(16), "shape"),
    "negative side": (entry(shape=[-2, -2]), bytes(16), "shape"),
    "float side": (entry(shape=[2.0, 2]), bytes(16), "shape"),
    "true for a side": (entry(shape=[True, 4]), bytes(16), "shape"),
    "hundred axes": (entry(shape=[1] * 100), bytes(16), "shape"),
    "offsets swapped": (entry(data_offsets=[16, 0]), bytes(16), "span -16"),
    "offsets negative": (entry(data_offsets=[-16, 0]), bytes(16), "data_offsets"),
    "three offsets": (entry(data_offsets=[0, 8, 16]), bytes(16), "data_offsets"),
    "wrong kind": (entry(dtype="F16"), bytes(16), "span 16"),
    "unknown kind": (entry(dtype="Q4"), bytes(16), "expected one of"),
    "no kind": ({"a": {"shape": [4], "data_offsets": [0, 16]}}, bytes(16), "expected one of"),
    "entry is a number": ({"a": 3}, bytes(16), "expected an object"),
    "list for a header": (b"[]", bytes(16), "starts with"),
    "not JSON": (b"{nonsense", bytes(16), "not valid JSON"),
    "not UTF-8": (b'{"\xff": 1}', bytes(16), "not valid JSON"),
    "deep nesting": (b'{"a":' + b"[" * 100_000, bytes(16), "not valid JSON"),
    "number without end": (b'{"a":' + b"9" * 100_000 + b"}", bytes(16), "not valid JSON"),
    "same name twice": (b'{"a":{},"a":{}}', bytes(16), "stands twice"),
    "same key twice": (
        b'{"a":{"dtype":"F32","dtype":"F16","shape":[4],"data_offsets":[0,16]}}',
        bytes(16),
        "stands twice",
    ),
    "metadata is a list": ({"__metadata__": [], **ONE}, bytes(16), "__metadata__"),
    "no tensors": ({"__metadata__": {}}, b"", "holds no tensors"),
    "unprintable name": ({"\ud800\x1b[31m" * 1000: 1}, b"", "\\ud800"),
}


@pytest.mark.parametrize("case", SAFETENSORS)
def test_bad_safetensors(tmp_path: Path, case: str) -> None:
    header, data, reason = SAFETENSORS[case]
    assert reason in refused(raw_safetensors(tmp_path / "bad.safetensors", header, data))


@pytest.mark.parametrize(
    ("length", "reason"),
    [(0, "starts with"), (1 << 20, "cut off"), (1 << 63, "neither"), ((1 << 64) - 1, "neither")],
)
def test_header_length(tmp_path: Path, length: int, reason: str) -> None:
    path = tmp_path / "length.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"x" * 100)
    assert reason in refused(path)


def test_header_longer_than_it_may_be(tmp_path: Path) -> None:
    path = tmp_path / "long.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 1 << 30) + b"{")
        file.truncate(1 << 31)
    assert "expected at most" in refused(path)


@pytest.mark.parametrize("filling", [b"0,", b"[],", b'"a":{},'])
def test_header_of_millions_of_things(tmp_path: Path, filling: bytes) -> None:
    raw = b'{"a":[' + filling * (8_000_000 // len(filling)) + b"0]}"
    path = raw_safetensors(tmp_path / "long.safetensors", raw)
    with pytest.raises(CheckpointError, match="lists more than"):
        open_weights(path)


def test_long_training_log_in_metadata(tmp_path: Path) -> None:
    log = {"ss_tag_frequency": json.dumps({str(n): [n] for n in range(160_000)})}
    path = raw_safetensors(tmp_path / "a.safetensors", {"__metadata__": log, **ONE})
    assert open_weights(path).metadata == log


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole.safetensors"
    save_file({"weight": torch.ones(40), "bias": torch.ones(3)}, whole)
    raw = whole.read_bytes()
    path = tmp_path / "cut.safetensors"
    for length in range(len(raw)):
        path.write_bytes(raw[:length])
        with pytest.raises(CheckpointError, match=r"wait|download it again"):
            open_weights(path)


GGUF: dict[str, tuple[bytes, dict[str, int], str]] = {
    "absurd number of tensors": (bytes(64), {"tensors": 1 << 60}, "tensors in a file"),
    "absurd number of pairs": (bytes(64), {"pairs": (1 << 64) - 1}, "metadata entries in a file"),
    "more tensors than fit": (bytes(64), {"tensors": 50}, "tensors in a file"),
    "version 1": (bytes(64), {"version": 1}, "version 1"),
    "big-endian": (bytes(64), {"version": 0x03000000}, "big-endian"),
    "key longer than the file": (struct.pack("<Q", 60_000) + bytes(64), {"pairs": 1}, "ends at"),
    "absurd key": (struct.pack("<Q", 1 << 62) + bytes(64), {"pairs": 1}, "at most"),
    "absurd text": (
        text("k") + struct.pack("<IQ", 8, 1 << 62) + bytes(64),
        {"pairs": 1},
        "at most",
    ),
    "unknown value": (text("k") + struct.pack("<I", 13) + bytes(64), {"pairs": 1}, "type 13"),
    "array of arrays": (
        text("k") + struct.pack("<IIQ", 9, 9, 1) + bytes(64),
        {"pairs": 1},
        "array of type 9",
    ),
    "absurd array": (
        text("k") + struct.pack("<IIQ", 9, 4, 1 << 61) + bytes(64),
        {"pairs": 1},
        "go past",
    ),
    "absurd array of texts": (
        text("k") + struct.pack("<IIQ", 9, 8, 1 << 61) + bytes(64),
        {"pairs": 1},
        "texts",
    ),
    "text in an array too long": (
        text("k") + struct.pack("<IIQ", 9, 8, 65) + struct.pack("<Q", 1 << 50) + bytes(640),
        {"pairs": 1},
        "at most",
    ),
    "key twice": (
        (text("k") + struct.pack("<II", 4, 1)) * 2,
        {"pairs": 2},
        "twice",
    ),
    "alignment zero": (
        text("general.alignment") + struct.pack("<II", 4, 0),
        {"pairs": 1},
        "general.alignment",
    ),
    "tensor beyond the file": (
        tensor_info("t", (32,), 0, 0) + bytes(32),
        {"tensors": 1},
        "ends at",
    ),
    "tensor far beyond": (
        tensor_info("t", (32,), 0, (1 << 64) - 32) + bytes(256),
        {"tensors": 1},
        "ends at",
    ),
    "dimensions overflow": (
        tensor_info("t", (1 << 32, 1 << 32), 0, 0) + bytes(256),
        {"tensors": 1},
        "of shape",
    ),
    "huge and empty": (
        tensor_info("t", (1 << 63, 0), 0, 0) + bytes(256),
        {"tensors": 1},
        "fewer numbers",
    ),
    "half a block": (tensor_info("t", (16,), 8, 0) + bytes(256), {"tensors": 1}, "multiples of 32"),
    "a block without axes": (tensor_info("t", (), 8, 0) + bytes(256), {"tensors": 1}, "single"),
    "hundred axes": (tensor_info("t", (1,) * 100, 0, 0) + bytes(256), {"tensors": 1}, "dimensions"),
    "unknown type": (tensor_info("t", (32,), 99, 0) + bytes(256), {"tensors": 1}, "type 99"),
    "dropped type": (tensor_info("t", (32,), 31, 0) + bytes(256), {"tensors": 1}, "Q4_0_4_4"),
    "name twice": (
        tensor_info("t", (8,), 0, 0) + tensor_info("t", (8,), 0, 32) + bytes(256),
        {"tensors": 2},
        "twice",
    ),
    "overlap": (
        tensor_info("t", (16,), 0, 0) + tensor_info("u", (16,), 0, 32) + bytes(256),
        {"tensors": 2},
        "overlap",
    ),
    "no tensors": (bytes(64), {}, "holds no tensors"),
    "orig_shape of another size": (
        text("comfy.gguf.orig_shape.t")
        + struct.pack("<IIQ2i", 9, 5, 2, 4, 4)
        + tensor_info("t", (8,), 0, 0)
        + bytes(256),
        {"tensors": 1, "pairs": 1},
        "orig_shape",
    ),
}


@pytest.mark.parametrize("case", GGUF)
def test_bad_gguf(tmp_path: Path, case: str) -> None:
    body, counts, reason = GGUF[case]
    assert reason in refused(raw_gguf(tmp_path / "bad.gguf", body, **counts))


def test_gguf_truncations(tmp_path: Path) -> None:
    whole = sparse_gguf(tmp_path / "whole.gguf", {"a": ("Q8_0", (4, 64)), "b": ("F32", (3,))})
    # What is left out is padding after the last tensor's twelve bytes.
    raw = whole.read_bytes()[:-20]
    path = tmp_path / "cut.gguf"
    path.write_bytes(raw)
    assert set(open_weights(path).entries) == {"a", "b"}
    for length in range(len(raw)):
        path.write_bytes(raw[:length])
        with pytest.raises(CheckpointError):
            open_weights(path)


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


def test_file_that_shrinks_after_it_was_opened(tmp_path: Path) -> None:
    path = raw_safetensors(tmp_path / "a.safetensors", ONE)
    file = open_weights(path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="became shorter"):
        file.tensor("a")


def test_views_leave_the_file_alone(tmp_path: Path) -> None:
    path = raw_safetensors(tmp_path / "a.safetensors", ONE)
    before = path.read_bytes()
    tensor = open_weights(path).tensor("a")
    tensor.fill_(7)
    assert path.read_bytes() == before
    assert torch.equal(open_weights(path).tensor("a"), torch.zeros(2, 2))


def test_data_that_is_not_aligned(tmp_path: Path) -> None:
    values = torch.tensor([1.5, -2.0, 3.25, 4.0])
    for spaces in range(4):
        header = json.dumps(ONE).encode() + b" " * spaces
        path = raw_safetensors(tmp_path / "a.safetensors", header, values.numpy().tobytes())
        assert torch.equal(open_weights(path).tensor("a"), values.view(2, 2))


def test_kinds_torch_lacks_are_listed_but_not_read(tmp_path: Path) -> None:
    header = {"a": {"dtype": "F4", "shape": [32], "data_offsets": [0, 16]}}
    file = open_weights(raw_safetensors(tmp_path / "a.safetensors", header))
    assert file.entries["a"].kind == "F4"
    with pytest.raises(CheckpointError, match="F4, which is not read"):
        file.tensor("a")
