"""Speed of decoding packed weights on one CPU thread, beside gguf-py in the same run.

    python benchmarks/dequantize.py [--types Q8_0 Q4_K] [--size 3072] [--repeats 7] [--output FILE]

Each repeat decodes one [size, size] weight with every implementation in turn; figures are GB/s of
output by process CPU time (other work on the machine then matters less), ratios the median over repeats
of gguf-py's time divided by ours, with the ratio of the two shortest times beside it.

Columns: gguf-py to a new float32 array; ours to a new float32 tensor, to a given one, and to a given
bfloat16 one (its ratio is against gguf-py followed by torch's rounding). float8 is held against torch's
own conversion. Every result is first compared bit by bit.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, quants
from torch import Tensor

from kontext_core.quant.decode import CPU_DECODERS, dequantize, uninitialised
from kontext_core.quant.fp8 import widen
from kontext_core.quant.types import row_bytes

RESULTS = Path(__file__).resolve().parent / "results" / "dequantize.json"
FLOAT8 = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
BARS = {"Q8_0": 4.0, "Q4_K": 2.5, "Q6_K": 2.0, "Q5_K": 2.0, "Q3_K": 2.0, "Q2_K": 2.0}


def times(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of each, taken in turn; the first round is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if repeat:
                taken[name].append(time.process_time() - start)
    return taken


def ratios(theirs: list[float], ours: list[float]) -> tuple[float, float]:
    """Median of the paired ratios, and that of the shortest times."""
    paired = statistics.median(a / b for a, b in zip(theirs, ours, strict=True))
    return paired, min(theirs) / min(ours)


def measure(kind: str, size: int, repeats: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    number = torch.empty(size, size)
    half = torch.empty(size, size, dtype=torch.bfloat16)
    if kind in FLOAT8:
        stored = torch.randn(size, size, generator=generator).to(FLOAT8[kind])

        def theirs() -> Tensor:
            return stored.float()

        def ours(out: Tensor | None) -> Tensor:
            space = uninitialised(stored.shape, torch.float32, stored.device)
            return widen(stored, space if out is None else out)

    else:
        # Bytes below 100 keep every float16 among them finite.
        shape = (size, row_bytes(kind, size))
        blocks = torch.randint(0, 100, shape, dtype=torch.uint8, generator=generator)
        array = blocks.numpy()

        def theirs() -> Tensor:
            return torch.from_numpy(quants.dequantize(array, GGMLQuantizationType[kind]))

        def ours(out: Tensor | None) -> Tensor:
            return dequantize(blocks, kind, out=out)

    expected = theirs()
    if not torch.equal(ours(number).view(torch.int32), expected.view(torch.int32)):
        sys.exit(f"{kind}: the bits differ")
    if not torch.equal(ours(half).view(torch.int16), expected.bfloat16().view(torch.int16)):
        sys.exit(f"{kind}: the bits differ in bfloat16")
    taken = times(
        {
            "theirs": theirs,
            "new": lambda: ours(None),
            "given": lambda: ours(number),
            "theirs bfloat16": lambda: theirs().bfloat16(),
            "bfloat16": lambda: ours(half),
        },
        repeats,
    )
    speed = {
        name: number.numel() * (2 if "bfloat16" in name else 4) / statistics.median(values) / 1e9
        for name, values in taken.items()
    }
    row: dict[str, Any] = {"type": kind, "GB/s": {k: round(v, 2) for k, v in speed.items()}}
    for name, base in (("new", "theirs"), ("given", "theirs"), ("bfloat16", "theirs bfloat16")):
        paired, shortest = ratios(taken[base], taken[name])
        row[f"ratio {name}"] = [round(paired, 2), round(shortest, 2)]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--types", nargs="+", default=[*CPU_DECODERS, *FLOAT8])
    parser.add_argument("--size", type=int, default=3072)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("type     gguf-py   new  given  bf16 GB/s   ratio: new  given  bf16  (median, shortest)")
    rows = []
    for kind in options.types:
        with np.errstate(all="ignore"):
            row = measure(kind, options.size, options.repeats)
        rows.append(row)
        speed = row["GB/s"]
        shown = "  ".join(
            "{:.1f}/{:.1f}".format(*row[f"ratio {name}"]) for name in ("new", "given", "bfloat16")
        )
        bar = f"  bar {BARS[kind]}" if kind in BARS else ""
        print(
            f"{kind:8} {speed['theirs']:6.2f} {speed['new']:6.2f} {speed['given']:6.2f} "
            f"{speed['bfloat16']:6.2f}       {shown}{bar}",
            flush=True,
        )
    report = {
        "what": "decoding one [size, size] weight, one thread, process CPU time",
        "size": options.size,
        "repeats": options.repeats,
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "rows": rows,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    partial = options.output.with_suffix(".partial")
    partial.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    partial.replace(options.output)


if __name__ == "__main__":
    main()
