"""The pack's VAE on a real ComfyUI: one of the host's own kind, with the same numbers.

scripts/vae.py computes all of it inside the host, with random weights of the published sizes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from native_host import native_hosts, run_in_host

SCRIPT = Path(__file__).with_name("scripts") / "vae.py"

# Largest difference allowed. Measured on 0.3.64 and 0.33.0: with the host's own VAE of the same
# weights 3.5e-6 on latents of order one and 9.7e-6 on pictures in 0..1; with tiles 1.3e-5; with the
# pack's own objects of a plain host, and through the host's nodes, 0.
EXACT = 1e-7
CLOSE = 4e-5
DIFFERENCES = {
    "encode, theirs": CLOSE,
    "encode odd RGBA batch, theirs": CLOSE,
    "decode, theirs": CLOSE,
    "VAEEncodeForInpaint, theirs": CLOSE,
    "InpaintModelConditioning, theirs": CLOSE,
    "VAEEncodeTiled, whole": CLOSE,
    "VAEDecodeTiled, whole": CLOSE,
    "base decode": CLOSE,
    "encode, plain": EXACT,
    "decode, plain": EXACT,
    "decode 5-d": EXACT,
    "VAEEncode": EXACT,
    "VAEDecode": EXACT,
    "VAEEncodeForInpaint mask, theirs": EXACT,
    "InpaintModelConditioning mask, theirs": EXACT,
    "base encode": EXACT,
    "first_stage_model": EXACT,
    "embedded, plain": EXACT,
    "embedded decode, plain": EXACT,
}


@pytest.fixture(scope="module", params=native_hosts())
def found(request: pytest.FixtureRequest) -> dict[str, Any]:
    return run_in_host(request.param, SCRIPT, timeout=3600)


def test_numbers_are_the_hosts_and_the_plain_ones(found: dict[str, Any]) -> None:
    assert found["differences"].keys() == DIFFERENCES.keys()
    over = {n: d for n, d in found["differences"].items() if not d <= DIFFERENCES[n]}
    assert over == {}
    # Neither all black nor all white, where differences would be lost to the clamp.
    assert found["decoded"] == [[2, 32, 40, 3], pytest.approx(1, abs=0.1)]
    assert found["latent"] == [[1, 16, 4, 3], "torch.float32", pytest.approx(0.78, abs=0.05)]


def test_it_is_a_vae_of_the_hosts(found: dict[str, Any]) -> None:
    assert found["classes"] == [True, "KontextVAE"]
    assert found["missing"] == []
    assert found["keys"] == []
    assert found["dtype"] == ["torch.float32", "torch.float32"]
    # The embedded one knows the three sizes it was trained at.
    assert found["embedded"] == [True, 3]


def test_memory_is_the_hosts(found: dict[str, Any]) -> None:
    memory = found["memory"]
    assert memory["before"] == [] and memory["known"] == [True]
    assert memory["size"] == memory["weights"] == 335_278_732
    # 32x40 pixels of 8 * 128 numbers of 4 bytes; then tiles of 16x16 of them, the smaller side.
    decoding, tile = 32 * 40 * 8 * 128 * 4, 16 * 16 * 8 * 128 * 4
    encoding = 32 * 40 * 6 * 128 * 4
    assert memory["asked"] == [decoding, tile, tile, encoding]
    assert memory["used"] == [decoding, encoding]
    # Plain layers can't be streamed.
    assert memory["whole"] == [True] * 4
    assert memory["again"] == 0
    # Gone with its weights when nobody holds it any more.
    assert memory["released"]


def test_full_memory_goes_on_in_tiles_and_says_so_once(found: dict[str, Any]) -> None:
    # Measured 1.0e-5 on pictures in 0..1 and 9.1e-6 on the latent.
    assert max(found["oom"]["gaps"]) < CLOSE
    [warning] = found["oom"]["warnings"]
    assert "goes on in tiles" in warning


def test_an_interrupt_stops_it_and_leaves_it_usable(found: dict[str, Any]) -> None:
    assert found["interrupted"] == [True] * 5


def test_the_host_chooses_the_dtype_of_results(found: dict[str, Any]) -> None:
    assert found["output dtype"] == ["torch.float16", "torch.float16"]


def test_copies_are_whole(found: dict[str, Any]) -> None:
    """Same picture, same trained sizes, the copy's own layers; then Select VAE Device, if any."""
    assert found["copy"][:3] == [0, True, True]
    assert found["copy"][3:] in ([], [0])


def test_our_nodes_take_the_hosts_vae(found: dict[str, Any]) -> None:
    own = found["own nodes"]
    assert own["gaps"]["reference"] < CLOSE
    # Resizing to the original's size goes through 8 bits: one step of them at most.
    assert own["gaps"]["finish"] < 1.01 / 255
    assert len(own["refused"]) == 2
    assert all("16 channels and 2" in text and "ae.safetensors" in text for text in own["refused"])
