"""The published sizes on this machine: how files load, and one real forward of the 12 B network.

    PYTHONPATH=tests/support python benchmarks/full_size.py load
    PYTHONPATH=tests/support python benchmarks/full_size.py forward --side 256

`load` writes sparse files with the published names and shapes, whose zeros take no disk, and loads
each in a process of its own that is watched from outside. `forward` fills a Q4_K file (6.8 GB of disk
while it runs) with numbers of a trained model's spread, then computes the modulations of 28 steps and
one step of the edit of one picture of side x side pixels, again in a process of its own. Results are
added to benchmarks/results/full_size.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from outside import watch
from published import Listing, flux_listing, t5_listing
from sparse import sparse_gguf, sparse_safetensors

from kontext_core.quant.encode import quantize_blocks
from kontext_core.quant.types import is_packed
from kontext_core.weights.source import open_weights

RESULTS = Path(__file__).parent / "results" / "full_size.json"
PLAIN = ("F32", "F16", "BF16", "F8_E4M3", "fp8_scaled")
FORMS = (
    ("flux", "BF16"), ("flux", "fp8_scaled"), ("flux", "Q8_0"), ("flux", "Q4_K"), ("flux", "Q2_K"),
    ("t5", "F16"), ("t5", "fp8_scaled"), ("t5", "Q4_K"),
)  # fmt: skip

LOAD = """
import json, sys, time
import torch
from kontext_core.text.load import load_t5
from kontext_core.weights.load import load_model
load = load_t5 if sys.argv[1] == "t5" else load_model
wall, cpu = time.perf_counter(), time.process_time()
load(sys.argv[2], dtype=getattr(torch, sys.argv[3]))
print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]))
"""

FORWARD = """
import json, sys, time
import torch
from kontext_core.weights.load import load_model
path, side, dtype = sys.argv[1], int(sys.argv[2]), getattr(torch, sys.argv[3])
torch.set_num_threads(int(sys.argv[4]))
generator = torch.Generator().manual_seed(0)
def draw(*shape):
    return torch.randn(shape, generator=generator).to(dtype)
def now():
    return torch.tensor([time.perf_counter(), time.process_time()], dtype=torch.float64)
rows = torch.arange(side // 16).float()
target = torch.cartesian_prod(torch.zeros(1), rows, rows)
ids = torch.cat([target, target + torch.tensor([1.0, 0, 0])])[None]
times = torch.linspace(1, 0, 29)[:-1]
start = now()
model = load_model(path, dtype=dtype)
loaded = now()
with torch.no_grad():
    text, pooled, guidance = draw(1, 256, 4096), draw(1, 768), torch.full((1,), 2.5, dtype=dtype)
    made = model.modulations(times, pooled, guidance)
    planned = now()
    out = model(
        draw(1, 2 * len(target), 64), ids, text, torch.zeros(1, 256, 3), times[:1], pooled, guidance,
        target_tokens=len(target), modulation=made.at(0, 1),
    )
done = now()
print(json.dumps({
    "load": (loaded - start).tolist(), "modulations": (planned - loaded).tolist(),
    "forward": (done - planned).tolist(), "shape": list(out.shape),
    "finite": bool(out.isfinite().all()), "std": float(out.float().std()),
}))
"""


def write(path: Path, network: str, kind: str) -> Path:
    """A sparse file of a network's published names and shapes."""
    listing: Listing = flux_listing(kind) if network == "flux" else t5_listing(kind)
    if kind in PLAIN:
        return sparse_safetensors(path.with_suffix(".safetensors"), listing)
    architecture = "flux" if network == "flux" else "t5encoder"
    return sparse_gguf(path.with_suffix(".gguf"), listing, {"general.architecture": architecture})


def fill(path: Path) -> None:
    """Give a sparse file of the transformer numbers: matrices of spread 1 / sqrt(columns), norms of
    1. A few random rows stand for all, over and over."""
    generator = torch.Generator().manual_seed(1)
    patterns: dict[tuple[str, int], bytes] = {}
    with path.open("r+b") as file:
        for entry in open_weights(path).entries.values():
            key = entry.kind, entry.shape[-1]
            if len(entry.shape) == 1:
                value = 1.0 if entry.name.endswith("norm.scale") else 0.0
                pattern = torch.full(entry.shape, value).view(torch.uint8).numpy().tobytes()
            elif key in patterns:
                pattern = patterns[key]
            else:
                rows = torch.randn(64, key[1], generator=generator) / key[1] ** 0.5
                packed = quantize_blocks(rows, key[0]) if is_packed(key[0]) else rows.half()
                pattern = patterns[key] = packed.view(torch.uint8).numpy().tobytes()
            file.seek(entry.offset)
            for left in range(entry.nbytes, 0, -len(pattern)):
                file.write(pattern[:left])


def load_all(folder: Path) -> dict[str, Any]:
    """Seconds and memory of loading each form, computing in float32 and in bfloat16."""
    baseline = watch("import torch, kontext_core.text.load, kontext_core.weights.load; print(0)")
    print(f"python, torch and the package alone: {baseline.anonymous / 1e6:.0f} MB anonymous\n")
    print("network  kind        dtype      file GB  wall s   CPU s  anonymous MB  beyond baseline")
    found: dict[str, Any] = {"baseline_anonymous_bytes": baseline.anonymous}
    for network, kind in FORMS:
        path = write(folder / network, network, kind)
        for dtype in ("float32", "bfloat16"):
            seen = watch(LOAD, network, str(path), dtype)
            wall, cpu = seen.result
            size = path.stat().st_size
            beyond = seen.anonymous - baseline.anonymous
            print(
                f"{network:8} {kind:11} {dtype:9} {size / 1e9:8.2f} {wall:7.2f} {cpu:7.2f} "
                f"{seen.anonymous / 1e6:13.0f} {beyond / 1e6:16.0f}",
                flush=True,
            )
            found[f"{network} {kind} {dtype}"] = {
                "file_bytes": size,
                "wall_seconds": round(wall, 3),
                "cpu_seconds": round(cpu, 3),
                "anonymous_bytes": seen.anonymous,
            }
        path.unlink()
    return found


def forward(folder: Path, side: int, kind: str, dtype: str, threads: int) -> dict[str, Any]:
    """One step of an edit with one reference, from a file full of numbers."""
    path = write(folder / "flux", "flux", kind)
    fill(path)
    seen = watch(FORWARD, str(path), str(side), dtype, str(threads), timeout=7200)
    found = {
        **seen.result,
        "kind": kind,
        "side": side,
        "dtype": dtype,
        "threads": threads,
        "anonymous_bytes": seen.anonymous,
        "mapped_bytes": seen.mapped,
    }
    for name in ("load", "modulations", "forward"):
        wall, cpu = found[name]
        print(f"{name:12} {wall:8.1f} s wall {cpu:8.1f} s CPU")
    print(
        f"peak anonymous {seen.anonymous / 1e9:.2f} GB, mapped from the file "
        f"{seen.mapped / 1e9:.2f} GB, velocity {found['shape']} finite: {found['finite']}, "
        f"standard deviation {found['std']:.3f}"
    )
    return found


def main() -> None:
    """Run one part and add its figures to the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("load", "forward"))
    parser.add_argument("--side", type=int, default=256, help="pixels (%(default)s)")
    parser.add_argument("--kind", default="Q4_K", help="ggml type of the matrices (%(default)s)")
    parser.add_argument("--dtype", default="float32", help="to compute in (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--folder", type=Path, help="where the files go; default: a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        if options.part == "load":
            found = load_all(Path(folder))
        else:
            found = forward(
                Path(folder), options.side, options.kind, options.dtype, options.threads
            )
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    name = "load" if options.part == "load" else f"forward {options.kind} {options.dtype}"
    results[name] = {"torch": torch.__version__, **found}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
