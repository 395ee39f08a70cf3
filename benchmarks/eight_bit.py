"""8-bit products beside bfloat16 ones on one CPU thread: time of a layer, error of layers and pictures.

    python benchmarks/eight_bit.py [--size 3072] [--tokens 1024 4096] [--repeats 5] [--output FILE]

Time: one [4 * size, size] layer, by process CPU time, all kinds in turn in each repeat; ratios are medians
over repeats to the bfloat16 layer by oneDNN. Error of a layer: relative, root mean square, to the layer's
own decoded product on random input. Pictures: the embedded model edits three sample pictures at 8 steps
with and without int8, PSNR of one to the other; beside it, as floors, bfloat16 against float32 and another seed.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kontext_core import edit, load_image
from kontext_core.metrics import psnr
from kontext_core.models.products import product
from kontext_core.pipeline import load_pipeline
from kontext_core.quant.eight_bit import quantize_rows
from kontext_core.quant.encode import quantize_blocks
from kontext_core.quant.linear import QuantLinear, ScaledLinear
from kontext_core.weights.eight_bit import layer_errors

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/eight_bit.json"
# What is said to which sample picture.
EDITS = {
    "kontext_shapes.png": "make the circle red",
    "kontext_letter.png": "change the background to green",
    "kontext_star.png": "make it night",
}


def layers(size: int, weight: Tensor) -> dict[str, QuantLinear | ScaledLinear]:
    """The kinds of layers by name; those that end in int8 multiply 8-bit numbers."""
    numbers, scale = quantize_rows(weight, "int8")
    made: dict[str, QuantLinear | ScaledLinear] = {"int8": ScaledLinear(numbers, None, scale)}
    for kind in ("Q8_0", "Q4_K"):
        blocks = quantize_blocks(weight, kind)
        for name in (kind, f"{kind} int8"):
            made[name] = QuantLinear(blocks, kind, size)
    for name, layer in made.items():
        layer.products = "int8" if name.endswith("int8") else None
    return made


def in_turn(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of each; the first round is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if repeat:
                taken[name].append(time.process_time() - start)
    return taken


def time_layers(size: int, tokens: int, repeats: int) -> dict[str, Any]:
    """Ratios to the bfloat16 layer and errors of all kinds."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4 * size, size, generator=generator) / size**0.5
    x = torch.randn(tokens, size, generator=generator).bfloat16()
    plain = weight.bfloat16()
    made = layers(size, weight)
    runs: dict[str, Callable[[], Any]] = {"bfloat16": lambda: product(x, plain)}
    runs |= {name: lambda layer=layer: layer(x) for name, layer in made.items()}
    taken = in_turn(runs, repeats)
    rows: dict[str, Any] = {}
    for name, times in taken.items():
        pairs = zip(times, taken["bfloat16"], strict=True)
        rows[name] = {"ratio": statistics.median(a / b for a, b in pairs), "seconds": min(times)}
        if name != "bfloat16":
            layer = made[name]
            exact = x.float() @ layer.decoded(layer.weight).t()
            wrong = (layer(x).float() - exact).square().mean() / exact.square().mean()
            rows[name]["error"] = float(wrong.sqrt())
    return rows


def pictures() -> list[dict[str, Any]]:
    """PSNR of edits with int8 to those without, and of the floors; and the worst layers."""
    plain, eight = load_pipeline("tiny"), load_pipeline("tiny", eight_bit="int8")
    half = load_pipeline("tiny", dtype=torch.bfloat16)
    rows: list[dict[str, Any]] = []
    for name, prompt in EDITS.items():
        image = load_image(ROOT / "workflows/input" / name)

        def run(
            pipeline: Any, seed: int = 0, image: Tensor = image, prompt: str = prompt
        ) -> Tensor:
            return edit(pipeline, prompt, [image], steps=8, seed=seed)

        full = run(plain)
        errors = layer_errors(eight.model, partial(run, eight))
        worst = sorted(errors.items(), key=lambda item: -item[1])[:3]
        rows.append(
            {
                "picture": name,
                "prompt": prompt,
                "int8": float(psnr(run(eight), full)),
                "bfloat16": float(psnr(run(half), full)),
                "another seed": float(psnr(run(plain, 1), full)),
                "layers": {"median": statistics.median(errors.values()), **dict(worst)},
            }
        )
    return rows


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=3072)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {
        "torch": torch.__version__, "machine": platform.machine(), "size": options.size,
        "layers": {
            str(tokens): time_layers(options.size, tokens, options.repeats)
            for tokens in options.tokens
        },
        "pictures": pictures(),
    }  # fmt: skip
    options.output.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    with torch.no_grad():
        main()
