"""Published sizes load at once and take no memory but their file, without files of that size.

Files are sparse: published names and shapes, zeros that take no disk. Memory is watched from outside.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from outside import AVAILABLE, watch
from published import flux_listing, t5_listing
from sparse import sparse_gguf, sparse_safetensors

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not AVAILABLE, reason="reads anonymous memory from Linux's /proc"),
]

LOAD = r"""
import json, pathlib, re, sys, torch
from kontext_core.text.load import load_t5
from kontext_core.weights.load import load_model
model = (load_t5 if sys.argv[1] == "t5" else load_model)(sys.argv[2])
parameters = sum(p.numel() for p in model.parameters())
maps = pathlib.Path("/proc/self/smaps").read_text()
touched = re.findall(re.escape(sys.argv[2]) + r"\n.*?\nRss: +(\d+) kB", maps, re.S)
print(json.dumps([parameters, [int(kilobytes) * 1024 for kilobytes in touched]]))
"""
# Reads one layer's weights and computes with them, so that its pages are in memory.
LAYER = """
import json, sys, torch
from kontext_core.weights.load import load_model
model = load_model(sys.argv[1], dtype=torch.bfloat16)
block = model.single_blocks[0]
with torch.no_grad():
    out = block.linear2(torch.ones(4, 15360, dtype=torch.bfloat16))
print(json.dumps(list(out.shape)))
"""


def sparse(folder: Path, network: str, kind: str) -> Path:
    listing = flux_listing(kind) if network == "flux" else t5_listing(kind)
    if kind in ("BF16", "F16", "F8_E4M3", "fp8_scaled"):
        return sparse_safetensors(folder / "model.safetensors", listing)
    architecture = "flux" if network == "flux" else "t5encoder"
    return sparse_gguf(folder / "model.gguf", listing, {"general.architecture": architecture})


@pytest.mark.parametrize(
    ("network", "kind", "size"),
    [
        ("flux", "BF16", 23.8e9),
        ("flux", "fp8_scaled", 11.9e9),
        ("flux", "Q8_0", 12.7e9),
        ("flux", "Q4_K", 6.7e9),
        ("flux", "Q2_K", 4.0e9),
        ("t5", "fp8_scaled", 4.7e9),
        ("t5", "Q4_K", 2.6e9),
    ],
)
def test_ready_at_once(network: str, kind: str, size: float, tmp_path: Path) -> None:
    path = sparse(tmp_path, network, kind)
    assert path.stat().st_size > size
    assert path.stat().st_blocks * 512 < 4e6
    seen = watch(LOAD, network, str(path))
    parameters, touched = seen.result
    assert parameters > 1e9
    # Measured: one mapping, of which no page is touched. Each touched one makes the system read
    # ahead: a page for every bias took 8 s.
    assert len(touched) == 1
    assert touched[0] < 1e6
    # Measured: 155 to 171 MB, of which all but a few are the interpreter's and torch's.
    assert seen.anonymous < 0.5e9


@pytest.mark.parametrize("kind", ["BF16", "fp8_scaled", "Q4_K"])
def test_a_layer_takes_its_own_size_at_most(kind: str, tmp_path: Path) -> None:
    seen = watch(LAYER, str(sparse(tmp_path, "flux", kind)))
    assert seen.result == [4, 3072]
    # Measured: 163 MB from bfloat16, 182 MB from fp8 and Q4_K, whose rows are decoded in parts.
    assert seen.anonymous < 1e9
