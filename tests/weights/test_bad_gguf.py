"""Damaged GGUF files are refused by name, at once and without large memory."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from raw_files import refused
from sparse import sparse_gguf

from kontext_core.errors import CheckpointError
from kontext_core.weights.source import open_weights


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
