"""`quantize`: a published transformer file in, a GGUF file out."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

from .device import usable_device


def add_quantize(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    quantize = commands.add_parser(
        "quantize", help="write a FLUX.1 transformer as GGUF, smaller by type"
    )
    quantize.add_argument(
        "source",
        metavar="SRC",
        help="a safetensors or GGUF file, a diffusers or model folder, or tiny",
    )
    quantize.add_argument(
        "destination", metavar="DST", help="the new .gguf file, or a folder to put it in"
    )
    quantize.add_argument(
        "--type", default="Q4_K_M", dest="kind",
        help="Q2_K, Q3_K_S, Q3_K_M, Q4_K_S, Q4_K_M, Q5_K_S, Q5_K_M, Q6_K, Q8_0, Q4_0, F16 or "
        "another type that can be written (%(default)s)",
    )  # fmt: skip
    quantize.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    quantize.add_argument(
        "--device", default="cpu", help="where K-quants are packed: cpu, cuda (%(default)s)"
    )
    quantize.set_defaults(run=run)


def run(options: argparse.Namespace) -> str:
    """Write the file; what was done is what to print."""
    # Imported here so that --help and a wrong option answer at once.
    from tqdm import tqdm

    from ..convert import quantize_file
    from ..quant.mixes import find_mix

    source, destination = Path(options.source), Path(options.destination).expanduser()
    if destination.is_dir():
        destination /= f"{source.stem}-{find_mix(options.kind).name}.gguf"
    with ExitStack() as stack:
        bar: list[tqdm] = []

        def step(done: int, total: int) -> None:
            # Not before there is something to show: what is refused leaves its sentence alone.
            if not bar:
                bar.append(
                    stack.enter_context(
                        tqdm(
                            desc=destination.name, total=total, unit=" weights", unit_scale=True,
                            file=sys.stderr,
                        )
                    )
                )  # fmt: skip
            bar[0].update(done - bar[0].n)

        report = quantize_file(
            source,
            destination,
            options.kind,
            progress=step,
            overwrite=options.overwrite,
            device=usable_device(options.device),
        )
    return str(report)
