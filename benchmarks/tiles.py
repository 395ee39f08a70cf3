"""The published autoencoder's decoder in exact tiles over the whole: work, time and peak memory.

    python benchmarks/tiles.py [--side 512] [--tile 256] [--rounds 3]

Work is counted at 1024x1024 without computing anything (PyTorch's flop counter on fake tensors). Time is CPU
time of one thread; whole and tiled run in turn, each in a process of its own, so that the peak memory is its
own too: the most that the process ever held less what it held before. Random weights, float32. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

FULL, TILES = 1024, (512, 256)


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["whole", "tiled"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(one_run(options.side, options.tile if options.only == "tiled" else None)))
        return
    whole = counted(FULL, None)
    print(
        json.dumps(
            {
                "work_at_1024": {
                    f"tiles of {tile}": round(counted(FULL, tile) / whole, 4) for tile in TILES
                },
                "whole_at_1024_tflop": round(whole / 1e12, 2),
                **timed(options),
            },
            indent=1,
        )
    )


def counted(side: int, tile: int | None) -> int:
    """Floating point operations of one decode, of products, convolutions and attention."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    from kontext_core import AutoEncoder

    with FakeTensorMode(), FlopCounterMode(display=False) as flops, torch.no_grad():
        AutoEncoder().decode(torch.empty(1, 16, side // 8, side // 8), tile=tile)
    return flops.get_total_flops()


def one_run(side: int, tile: int | None) -> dict[str, float]:
    """Seconds and peak bytes of one decode in this process."""
    import torch

    from kontext_core import AutoEncoder

    torch.set_num_threads(1)
    torch.manual_seed(0)
    network, latent = AutoEncoder(), torch.randn(1, 16, side // 8, side // 8)
    # The first convolution of a process sets up oneDNN.
    network.decode(latent[..., :2, :2])
    before = _most()
    start = time.process_time()
    network.decode(latent, tile=tile)
    return {"seconds": time.process_time() - start, "bytes": _most() - before}


def _most() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def timed(options: Any) -> dict[str, Any]:
    """Both ways in turn."""
    taken: dict[str, list[dict[str, float]]] = {"whole": [], "tiled": []}
    sizes = ["--side", str(options.side), "--tile", str(options.tile)]
    for _ in range(options.rounds):
        for name, runs in taken.items():
            done = subprocess.run(
                [sys.executable, __file__, *sizes, "--only", name],
                check=True,
                capture_output=True,
                text=True,
            )
            runs.append(json.loads(done.stdout))
    pairs = zip(taken["tiled"], taken["whole"], strict=True)
    return {
        "time": round(statistics.median(a["seconds"] / b["seconds"] for a, b in pairs), 3),
        "least_seconds": {
            name: round(min(run["seconds"] for run in runs), 1) for name, runs in taken.items()
        },
        "peak_mib": {
            name: round(statistics.median(run["bytes"] for run in runs) / 2**20)
            for name, runs in taken.items()
        },
        "side": options.side,
        "tile": options.tile,
        "rounds": options.rounds,
    }


if __name__ == "__main__":
    main()
