"""Thousands of damaged files: every one is either read or refused by a `KontextError`."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from published import Listing
from sparse import sparse_gguf, sparse_safetensors

from kontext_core.errors import KontextError
from kontext_core.weights.detect import detect
from kontext_core.weights.sizes import autoencoder_params, flux_params
from kontext_core.weights.source import open_weights
from kontext_core.weights.state import read_state

MUTANTS = 1000
LISTING: Listing = {
    "img_in.weight": ("F16", (128, 64)),
    "txt_in.weight": ("F16", (128, 32)),
    "vector_in.in_layer.weight": ("F16", (128, 32)),
    "double_blocks.0.img_attn.norm.key_norm.scale": ("F32", (128,)),
    "double_blocks.0.img_mlp.0.weight": ("F16", (512, 128)),
    "double_blocks.0.img_attn.qkv.weight": ("F16", (384, 128)),
    "final_layer.linear.weight": ("F16", (64, 128)),
}
FP8: Listing = {
    **LISTING,
    "double_blocks.0.img_attn.qkv.weight": ("F8_E4M3", (384, 128)),
    "double_blocks.0.img_attn.qkv.scale_weight": ("F32", ()),
    "scaled_fp8": ("F8_E4M3", (0,)),
}
PACKED: Listing = {**LISTING, "double_blocks.0.img_attn.qkv.weight": ("Q8_0", (384, 128))}


def attempt(path: Path) -> bool:
    """Go through all that is done with a header; whether the file was usable."""
    try:
        file = open_weights(path)
        for contents in detect(file):
            state = read_state(file, contents)
            if contents.role == "transformer":
                flux_params(state)
            if contents.role == "autoencoder":
                autoencoder_params(state)
    except KontextError as error:
        assert path.name in str(error)
        assert len(str(error)) < 2000
        return False
    return True


def mutants(raw: bytes, header: int, seed: int) -> Iterator[bytes]:
    """Damaged copies: bytes changed, removed, doubled, numbers made extreme, ends cut."""
    draw = random.Random(seed)
    extremes = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 31, 1 << 62, (1 << 64) - 1)

    def flip(data: bytearray) -> None:
        data[draw.randrange(header)] = draw.randrange(256)

    def extreme(data: bytearray) -> None:
        at = draw.randrange(header - 8)
        data[at : at + 8] = struct.pack("<Q", draw.choice(extremes))

    def small_number(data: bytearray) -> None:
        at = draw.randrange(header - 4)
        data[at : at + 4] = struct.pack("<I", draw.choice(extremes) & 0xFFFFFFFF)

    def cut_out(data: bytearray) -> None:
        at = draw.randrange(header)
        del data[at : at + draw.randrange(1, 40)]

    def double(data: bytearray) -> None:
        at = draw.randrange(header)
        data[at:at] = data[at : at + draw.randrange(1, 200)]

    def digit(data: bytearray) -> None:
        digits = [at for at in range(8, header) if 48 <= data[at] <= 57]
        if digits:
            at = draw.choice(digits)
            data[at : at + 1] = draw.choice((b"9", b"0", b"-1", b"1e9", b"99999999999999999999"))

    def truncate(data: bytearray) -> None:
        del data[draw.randrange(len(data)) :]

    changes: list[Callable[[bytearray], None]] = [
        flip, flip, extreme, small_number, cut_out, double, digit, truncate,
    ]  # fmt: skip
    for _ in range(MUTANTS):
        data = bytearray(raw)
        for _ in range(draw.choice((1, 1, 2, 4))):
            if len(data) > header:
                draw.choice(changes)(data)
        if draw.random() < 0.3 and raw[:4] != b"GGUF":
            # A right header length, so that the damage behind it is seen.
            end = data.rfind(b"}") + 1
            data[:8] = struct.pack("<Q", max(end - 8, 0))
        yield bytes(data)


@pytest.mark.parametrize("form", ["safetensors", "fp8", "gguf"])
def test_mutants(tmp_path: Path, form: str) -> None:
    source = tmp_path / "source"
    if form == "gguf":
        values = {"general.architecture": "flux", "comfy.gguf.orig_shape.x": [1] * 80}
        sparse_gguf(source, PACKED, values)
        raw = source.read_bytes()
        header = raw.rfind(b"final_layer") + 60
    else:
        sparse_safetensors(source, FP8 if form == "fp8" else LISTING, {"_m": "text"})
        raw = source.read_bytes()
        header = 8 + struct.unpack("<Q", raw[:8])[0]
    assert attempt(source)
    path = tmp_path / "mutant"
    usable = 0
    for data in mutants(raw, header, seed=len(form)):
        path.write_bytes(data)
        usable += attempt(path)
    # Measured: 1 to 21 percent stay usable (a changed letter in a name); all of them would mean
    # that the damage missed.
    assert 0 < usable < MUTANTS // 2


SIDES = st.one_of(
    st.integers(), st.integers(0, 9), st.floats(), st.text(max_size=3), st.none(), st.booleans()
)
ENTRIES = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "dtype": st.one_of(st.sampled_from(["F32", "BF16", "F8_E4M3", "F4"]), SIDES),
            "shape": st.one_of(st.lists(SIDES, max_size=5), SIDES),
            "data_offsets": st.one_of(st.lists(SIDES, max_size=3), SIDES),
        },
    ),
    st.recursive(SIDES, lambda inner: st.lists(inner, max_size=3), max_leaves=5),
)
HEADERS = st.dictionaries(
    st.one_of(st.sampled_from(["__metadata__", *FP8]), st.text(max_size=8)), ENTRIES, max_size=6
)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(header=HEADERS, data=st.binary(max_size=40))
def test_any_json_header(tmp_path: Path, header: dict[str, Any], data: bytes) -> None:
    raw = json.dumps(header).encode()
    path = tmp_path / "any.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    attempt(path)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    names=st.lists(
        st.sampled_from([*FP8, "double_blocks.7.a", "model.img_in.weight"]), unique=True
    ),
    shapes=st.lists(st.lists(st.integers(0, 4), max_size=4), min_size=10, max_size=10),
    kinds=st.lists(
        st.sampled_from(["F32", "F8_E4M3", "U8", "I8", "BF16"]), min_size=10, max_size=10
    ),
)
def test_sound_headers_of_wrong_shapes(
    tmp_path: Path, names: list[str], shapes: list[list[int]], kinds: list[str]
) -> None:
    listing: Listing = dict(FP8)
    for name, shape, kind in zip(names, shapes, kinds, strict=False):
        listing[name] = (kind, tuple(shape))
    attempt(sparse_safetensors(tmp_path / "wrong.safetensors", listing))


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(body=st.binary(max_size=200), tensors=st.integers(0, 5), pairs=st.integers(0, 5))
def test_any_gguf_body(tmp_path: Path, body: bytes, tensors: int, pairs: int) -> None:
    path = tmp_path / "any.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, tensors, pairs) + body)
    attempt(path)
