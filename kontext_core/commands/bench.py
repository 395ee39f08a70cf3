"""`python -m kontext_core bench forward`: the transformer's time over that of its own products."""

from __future__ import annotations

import argparse
import json
from typing import Any

from .device import usable_device


def add_bench(commands: Any) -> None:
    """Add `bench` with its parts to a parser's commands."""
    bench = commands.add_parser("bench", help="measure this machine")
    parts = bench.add_subparsers(dest="part", required=True)
    forward = parts.add_parser(
        "forward",
        help="one forward of the transformer, over its own products and attention",
        description="Times one forward of a network of FLUX's kind with random weights beside the "
        "products and attentions it is made of, one thread, in turn; diffusers and ComfyUI too "
        "where they can be imported.",
    )
    forward.add_argument("--quick", action="store_true", help="a smaller network, three rounds")
    forward.add_argument("--json", action="store_true", help="print JSON")
    forward.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    forward.add_argument("--device", default="cpu")
    forward.add_argument("--attention", default="auto", help="our kernel (auto)")
    forward.add_argument("--references", type=int, default=1, help="of the target's size, 0..8 (1)")
    forward.add_argument("--rounds", type=int, default=None, help="1..100 (5, quick 3)")
    forward.set_defaults(run=run)


def run(options: argparse.Namespace) -> str:
    """Measure and report.

    Raises:
        InputError: a number out of range, an unknown device or kernel.
    """
    from dataclasses import replace

    import torch

    from ..checks import check_whole
    from ..forward_bench import QUICK, Sizes, measure

    references = check_whole(options.references, "references", 0, 8)
    default = 3 if options.quick else 5
    rounds = check_whole(default if options.rounds is None else options.rounds, "rounds", 1, 100)
    found = measure(
        replace(QUICK if options.quick else Sizes(), references=references),
        dtype=getattr(torch, options.dtype),
        device=usable_device(options.device),
        attention=options.attention,
        rounds=rounds,
    )
    if options.json:
        return json.dumps(found)
    ratios = {name: value for name, value in found.items() if name.endswith("_over_ideal")}
    kind = f"{found['dtype']} on {found['device']}, {references} references, one thread"
    lines = [f"{name}: {value:.3f}" for name, value in ratios.items()]
    least = ", ".join(f"{name} {taken:.3f} s" for name, taken in found["seconds"].items())
    absent = [f"{name} {why}" for name, why in found["absent"].items()]
    return "\n".join([kind, *lines, f"least time: {least}", *absent])
