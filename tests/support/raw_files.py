"""Files written byte by byte, and the sure refusal of one."""

from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from kontext_core.errors import CheckpointError
from kontext_core.weights.source import open_weights

ONE = {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}


def raw_safetensors(path: Path, header: Any, data: bytes = bytes(16)) -> Path:
    """A file with this header, given as JSON value or bytes."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return path


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
