"""Damaged safetensors files are refused by name, at once and without large memory."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from raw_files import ONE, raw_safetensors, refused
from safetensors.torch import save_file

from kontext_core.errors import CheckpointError
from kontext_core.weights.source import open_weights


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
