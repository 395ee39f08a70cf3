"""Everything that only a GPU can show, in the order of its worth, within so many minutes.

    python benchmarks/gpu.py --minutes 20 [--device cuda] [--only forward,edit] [--out FOLDER]
    python benchmarks/gpu.py --dry        # on a CPU, with small networks: whether all of it works

Parts: `parity` (numbers of the GPU against the CPU's), `forward` (a step of the 12 B network with random
weights at 1024x1024, 0 to 4 references, beside diffusers where it is installed), `layers` (bfloat16,
fp8, int8, Q8_0, Q4_K), `edit` (whole edits of a quarter of the picture by every preset), `compiled`,
`memory` (a Q4_K network where PyTorch may take 8 or 6 GB), `autoencoder`. Each result is written as soon as it is there, to FOLDER/gpu.jsonl, and all of them
as a table to FOLDER/gpu.md; a part that fails is a row that says why, and the next one goes on.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.gpu_parts import measure, numbers
from benchmarks.gpu_parts.sizes import DRY, FULL, Stage

# In the order of their worth, with the seconds that one is not begun without.
PARTS = {
    "parity": (numbers.parity, 20),
    "forward": (measure.forward, 60),
    "layers": (measure.layers, 60),
    "edit": (measure.edits, 90),
    "compiled": (measure.compiled, 120),
    "memory": (measure.memory, 60),
    "autoencoder": (measure.autoencoder, 20),
}


def run(stage: Stage, only: list[str], minutes: float, out: Path) -> list[dict[str, Any]]:
    """Run the parts, writing each row as it comes.

    Returns:
        All rows: {"part", "what", "value", "unit"} and what else belongs to one; a part that failed
        or had no time left has "failed" or "left out" instead of a value.
    """
    out.mkdir(parents=True, exist_ok=True)
    begun, rows = time.monotonic(), []
    with (out / "gpu.jsonl").open("w", encoding="utf-8") as file:

        def tell(row: dict[str, Any]) -> None:
            rows.append(row)
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(line(row), flush=True)

        tell({"part": "machine", **machine(stage.device)})
        for name in only:
            part, least = PARTS[name]
            left = minutes * 60 - (time.monotonic() - begun)
            if left < (0 if stage.dry else least):
                tell({"part": name, "left out": f"{left:.0f} s left, {least} wanted"})
                continue
            try:
                for row in part(stage):
                    tell({"part": name, **row})
            except Exception as error:  # noqa: BLE001 - told, and the parts behind it still count
                where = traceback.extract_tb(error.__traceback__)[-1]
                told = (
                    f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
                )
                tell({"part": name, "failed": told[:500]})
            stage.free()
    (out / "gpu.md").write_text(table(rows), encoding="utf-8")
    return rows


def machine(device: torch.device) -> dict[str, Any]:
    """What it ran on."""
    found: dict[str, Any] = {"torch": torch.__version__, "python": platform.python_version()}
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        found |= {"device": card.name, "GB": round(card.total_memory / 1e9, 1)}
        return found | {"capability": f"{card.major}.{card.minor}", "cuda": torch.version.cuda}
    return found | {"device": str(device)}


def line(row: dict[str, Any]) -> str:
    """A row for people."""
    rest = {
        key: value for key, value in row.items() if key not in ("part", "what", "value", "unit")
    }
    value = row.get("value")
    shown = f"{value:.4g}" if isinstance(value, float) else str(value if value is not None else "")
    more = ", ".join(f"{key} {one}" for key, one in rest.items())
    return " ".join(
        x for x in (row["part"], row.get("what", ""), shown, row.get("unit", ""), more) if x
    )


def table(rows: list[dict[str, Any]]) -> str:
    """All rows as Markdown."""
    lines = ["| part | what | value | unit | more |", "|---|---|--:|---|---|"]
    for row in rows:
        rest = {k: v for k, v in row.items() if k not in ("part", "what", "value", "unit")}
        value = row.get("value", "")
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        more = ", ".join(f"{key}: {one}" for key, one in rest.items()).replace("|", "/")
        cells = row["part"], row.get("what", ""), shown, row.get("unit", ""), more
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Parse, run; 1 if a part failed or a number is out of its bounds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dry", action="store_true", help="small networks, on the CPU")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args(arguments)
    only = options.only.split(",")
    if unknown := [name for name in only if name not in PARTS]:
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    device = torch.device("cpu" if options.dry else options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch sees no CUDA device here; --dry tries everything on a CPU")
    with torch.no_grad():
        rows = run(Stage(DRY if options.dry else FULL, device), only, options.minutes, options.out)
    bad = [row for row in rows if "failed" in row or row.get("ok") is False]
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
