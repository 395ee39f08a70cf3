"""How long the pack's import takes beyond torch, and what it brings in.

    python benchmarks/import_time.py --runs 20

Each of the processes imports torch, numpy, PIL and einops first, which every ComfyUI has loaded, and
then the pack as the embedded host does, its nodes listed. The best is what the pack needs, the rest is
what else the machine was doing. Added to benchmarks/results/import_time.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "import_time.json"
CODE = """
import json, sys, time
from pathlib import Path
import einops, numpy, PIL.Image, torch, safetensors, tqdm
from standalone.loader import load_pack
before, wall, cpu = set(sys.modules), time.perf_counter(), time.process_time()
nodes = load_pack(Path.cwd()).nodes
cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
print(json.dumps([wall, cpu, len(nodes), len(set(sys.modules) - before)]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7, help="processes, one after the other")
    options = parser.parse_args()
    runs = []
    for _ in range(options.runs):
        done = subprocess.run(
            [sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=True
        )
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "nodes": runs[0][2],
        "modules": runs[0][3],
        "best_seconds": round(min(run[0] for run in runs), 3),
        "best_cpu_seconds": round(min(run[1] for run in runs), 3),
        "all_seconds": sorted(round(run[0], 3) for run in runs),
    }
    print(json.dumps(result, indent=1))
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
