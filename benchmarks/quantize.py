"""Packing weights on one CPU thread: speed and error, beside ggml's own encoders where at hand.

    python benchmarks/quantize.py [--ggml LIBRARY] [--types Q4_K Q6_K] [--rows 512] [--repeats 5]

LIBRARY is any shared library that exports ggml_quantize_chunk: llama.cpp's libggml-base or
stable-diffusion.cpp's. Its encoders are called as stable-diffusion.cpp does, with equal importance for
all weights, in turn with ours, on the same rows. Speeds are million weights per second of process CPU
time, median and best of the repeats; errors are relative RMSE after decoding with gguf-py, on weights of
three laws scaled by 0.02. Without a library, the errors and speeds of `REFERENCE` are shown instead.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType

from kontext_core.quant.encode import NUMBERS, quantize_blocks
from kontext_core.quant.mixes import MIXES
from kontext_core.quant.types import BLOCK_TYPES, row_bytes

RESULTS = Path(__file__).resolve().parent / "results" / "quantize.json"
COLUMNS = 3072
# Parameters of FLUX.1 Kontext [dev].
MODEL = 11.9e9
# ggml's figures on the normal law: relative RMSE and million weights per second, measured through
# stable-diffusion.cpp's convert on one core of an EPYC 7763 in another run.
REFERENCE = {
    "Q2_K": (0.2678, 5.6), "Q3_K": (0.1445, 21.0), "Q4_K": (0.0707, 9.3), "Q5_K": (0.0353, 9.6),
    "Q6_K": (0.0173, 31.0), "Q8_0": (0.0053, 114.0), "Q4_0": (0.0816, 37.0),
}  # fmt: skip
Encoder = Callable[[np.ndarray], np.ndarray]


def draw(rows: int) -> dict[str, np.ndarray]:
    """Weights float32 [rows, 3072] of each law."""
    random = np.random.default_rng(0)
    laws = {
        "normal": random.standard_normal((rows, COLUMNS)),
        "laplace": random.laplace(size=(rows, COLUMNS)),
        "student": random.standard_t(3, (rows, COLUMNS)),
    }
    return {name: (0.02 * values).astype(np.float32) for name, values in laws.items()}


def ours(kind: str) -> Encoder:
    return lambda rows: quantize_blocks(torch.from_numpy(rows), kind).numpy()


def theirs(library: ctypes.CDLL, kind: str) -> Encoder:
    chunk = library.ggml_quantize_chunk
    chunk.restype = ctypes.c_size_t
    chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + 3 * [ctypes.c_int64]
    chunk.argtypes += [ctypes.c_void_p]
    importance = np.ones(COLUMNS, dtype=np.float32)

    def encode(rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), row_bytes(kind, COLUMNS)), dtype=np.uint8)
        number = BLOCK_TYPES[kind].ggml_id
        chunk(
            number, rows.ctypes.data, out.ctypes.data, 0, len(rows), COLUMNS, importance.ctypes.data
        )
        return out

    return encode


def error(encode: Encoder, rows: np.ndarray, kind: str) -> float:
    back = gguf.dequantize(encode(rows), GGMLQuantizationType[kind]).astype(np.float64)
    return float(np.sqrt(np.square(back - rows).sum() / np.square(rows, dtype=np.float64).sum()))


def measure(kind: str, laws: dict[str, np.ndarray], repeats: int, library: ctypes.CDLL | None):
    encoders = {"ours": ours(kind)}
    if library is not None:
        encoders["ggml"] = theirs(library, kind)
    errors = {
        name: {law: error(encode, rows, kind) for law, rows in laws.items()}
        for name, encode in encoders.items()
    }
    rows = laws["normal"]
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    for repeat in range(repeats + 1):
        for name, encode in encoders.items():
            start = time.process_time()
            encode(rows)
            if repeat:
                seconds[name].append(time.process_time() - start)
    result: dict[str, Any] = {"type": kind}
    for name in encoders:
        speeds = [rows.size / 1e6 / second for second in seconds[name]]
        median, best = statistics.median(speeds), max(speeds)
        result[name] = {"errors": errors[name], "median": median, "best": best}
    if library is not None:
        pairs = zip(seconds["ggml"], seconds["ours"], strict=True)
        result["ratio"] = statistics.median(other / own for other, own in pairs)
    return result


def line(result: dict[str, Any]) -> str:
    own, kind = result["ours"], result["type"]
    text = f"{kind:6} {own['median']:7.1f} {own['best']:7.1f} {MODEL / own['median'] / 6e7:7.1f}  "
    text += " ".join(f"{value:.5f}" for value in own["errors"].values())
    if "ggml" in result:
        other = result["ggml"]
        text += f"  | {other['median']:6.1f}  x{result['ratio']:.2f}  "
        return text + " ".join(f"{value:.5f}" for value in other["errors"].values())
    known = REFERENCE.get(kind)
    return text + (f"  | {known[1]:6.1f}         {known[0]:.4f}" if known else "")


def main() -> None:
    types = sorted({mix.kind for mix in MIXES.values()} - NUMBERS.keys())
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ggml", metavar="LIBRARY", help="shared library with ggml_quantize_chunk")
    parser.add_argument("--types", nargs="+", default=types, choices=types, metavar="TYPE")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    library = ctypes.CDLL(options.ggml) if options.ggml else None
    laws = draw(options.rows)
    print("Mw/s: million weights per CPU second, median and best; min: of one core for 11.9e9")
    print("type      Mw/s    best     min  error: normal laplace student  | ggml")
    results = []
    for kind in options.types:
        results.append(measure(kind, laws, options.repeats, library))
        print(line(results[-1]), flush=True)
    record = {
        "command": " ".join(["python", "benchmarks/quantize.py", *sys.argv[1:]]),
        "machine": f"{platform.machine()}, one thread",
        "torch": torch.__version__,
        "weights": [options.rows, COLUMNS],
        "results": results,
    }
    if options.ggml:
        record["command"] = record["command"].replace(options.ggml, Path(options.ggml).name)
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
