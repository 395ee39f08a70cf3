"""Learning curves of training runs, from the rows of their log.jsonl, as SVG or PNG.

python -m kontext_lab train curves runs/flux runs/other --out docs/images/learning_curves.svg
python -m kontext_lab train curves runs/flux --rows t2i/right t2i/scrambled --out probes.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from kontext_core.errors import InputError
from kontext_core.finetune.run_log import read_log
from kontext_core.partial import whole_file
from kontext_core.writing import save_image

from ..bench.chart import Chart, Line


def lines(runs: Sequence[Path], rows: Sequence[str], x: str) -> list[Line]:
    """One line per run and row that the run's log has.

    Args:
        runs: folders with a log.jsonl, or such files.
        x: what to draw against: "step", "samples" or "seconds".

    Raises:
        InputError: a run without a log, or logs without any of the rows.
    """
    found = []
    for run in runs:
        path = run if run.is_file() else run / "log.jsonl"
        log = read_log(path)
        if not log:
            raise InputError(f"there is no log in {path}; name the folder of a training run")
        for row in rows:
            points = [(float(r[x]), float(r[row])) for r in log if row in r and x in r]
            if points:
                name = path.parent.name if len(rows) == 1 else row
                if len(runs) > 1 and len(rows) > 1:
                    name = f"{path.parent.name} {row}"
                found.append(Line(name, points))
    if not found:
        raise InputError(f"no log has a row {' or '.join(rows)} against {x}; look into log.jsonl")
    return found


def draw(
    runs: Sequence[Path], out: Path, rows: Sequence[str] = ("loss",), x: str = "step",
    y_range: tuple[float, float] | None = None,
) -> Path:  # fmt: skip
    """Write the curves as .svg, or as a picture in the form that the ending says."""
    chart = Chart(
        lines(runs, rows, x), x, ", ".join(rows), y_range=y_range, dots=False, size=(720, 340)
    )
    if out.suffix.lower() == ".svg":
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(out) as file:
            file.write((chart.svg(alone=True) + "\n").encode())
        return out
    import numpy as np
    import torch

    pixels = np.asarray(chart.png(), dtype=np.float32) / 255
    return save_image(torch.from_numpy(pixels), out)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders of training runs")
    parser.add_argument("--rows", nargs="+", default=["loss"], help="what to draw (loss)")
    parser.add_argument("--against", default="step", choices=["step", "samples", "seconds"])
    parser.add_argument("--range", nargs=2, type=float, metavar=("LOW", "HIGH"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    wanted = tuple(args.range) if args.range else None
    try:
        print(draw(args.runs, args.out, args.rows, args.against, wanted))
    except InputError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
