"""Recipe, last part: puts measured figures into the documents, so that nobody types them.

    python -m kontext_lab bench tiny
    python -m kontext_lab train report kontext-bench/results.json

Rewrites what stands between `<!-- results: NAME -->` and `<!-- end -->` in
docs/embedded-model.md and in the model's card, keeps the results beside the weights, and
copies the contact sheets and charts that lie beside results.json to docs/images.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kontext_core.errors import InputError
from kontext_core.partial import whole_file

from ..bench.page import drift_charts, sweep_chart
from ..bench.report import read_results
from ..bench.tables import label, success, tables

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "kontext_core/assets/tiny"
DOCUMENTS = (ROOT / "docs/embedded-model.md", TINY / "README.md")
IMAGES = ROOT / "docs/images"
_BLOCK = re.compile(r"(<!-- results: ([a-z_]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def blocks(results: Mapping[str, Any]) -> dict[str, str]:
    """Text of every block, by name: those of `tables`, and "headline" and "categories"."""
    return {
        **{name: table.markdown() for name, table in tables(results).items()},
        "headline": _headline(results),
        "categories": _categories(results),
    }


def _headline(results: Mapping[str, Any]) -> str:
    found = {name: each["all"] for name, each in results["sets"].items()}
    cases = found["grammar"]["n"]
    shares = ", ".join(f"{label(name)} {success(row)}" for name, row in found.items())
    latency = results["timing"]["latency"]
    return (
        f"Answers judged right in every attribute, {cases} scenes that training never drew per set "
        f"of wordings: {shares}. One picture of {results['size'][0]} px takes "
        f"{latency['0']:.2f} to {latency['2']:.2f} s with {results['settings']['steps']} steps on "
        f"{results['timing']['threads']} threads of the CPU it was measured on."
    )


def _categories(results: Mapping[str, Any]) -> str:
    """The short table: categories only."""
    sets = results["sets"]
    lines = [f"| | {' | '.join(label(name) for name in sets)} |", f"|---|{'--:|' * len(sets)}"]
    for category in dict.fromkeys(results["categories"].values()):
        cells = [success(each["categories"].get(category)) for each in sets.values()]
        lines.append(f"| {label(category)} | {' | '.join(cells)} |")
    cells = [f"**{success(each['all'])}**" for each in sets.values()]
    lines.append(f"| **all** | {' | '.join(cells)} |")
    return "\n".join(lines)


def rewritten(text: str, results: Mapping[str, Any]) -> str:
    """The document with its blocks renewed.

    Raises:
        InputError: it asks for a block that there is not, or has none.
    """
    known = blocks(results)

    def block(match: re.Match[str]) -> str:
        if match[2] not in known:
            raise InputError(f"there is no block {match[2]!r}; use one of {', '.join(known)}")
        return f"{match[1]}{known[match[2]]}\n{match[3]}"

    text, count = _BLOCK.subn(block, text)
    if not count:
        raise InputError("the document has no block; mark one with <!-- results: tasks -->")
    return text


def replace_file(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    with whole_file(path) as file:
        file.write(text.encode())


def write_images(source: Path, results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Contact sheets of the categories, and the charts as SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for sheet in sorted((source / "sheets").glob("category_*.png")):
        written.append(folder / f"embedded_{sheet.stem.removeprefix('category_')}.png")
        shutil.copyfile(sheet, written[-1])
    for sheet in sorted((source / "sheets").glob("drift_1.png")):
        written.append(folder / "embedded_drift.png")
        shutil.copyfile(sheet, written[-1])
    charts = {key: sweep_chart(results, key) for key in ("steps", "guidance")}
    names = ("drift_success", "drift_untouched")
    charts.update(zip(names, drift_charts(results), strict=False))
    for name, chart in charts.items():
        written.append(folder / f"embedded_{name}.svg")
        replace_file(written[-1], chart.svg(alone=True) + "\n")
    return written


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path, help="the benchmark's folder, or its results.json")
    parser.add_argument("--documents", nargs="*", type=Path, default=list(DOCUMENTS))
    parser.add_argument("--images", type=Path, default=IMAGES)
    parser.add_argument("--keep", type=Path, default=TINY / "results.json")
    args = parser.parse_args(arguments)
    try:
        results = read_results(args.results)
        texts = {
            path: rewritten(path.read_text(encoding="utf-8"), results) for path in args.documents
        }
    except (InputError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    for path, text in texts.items():
        replace_file(path, text)
        print(path)
    replace_file(args.keep, json.dumps(results, separators=(",", ":")) + "\n")
    print(args.keep)
    source = args.results if args.results.is_dir() else args.results.parent
    if (source / "sheets").is_dir():
        for path in write_images(source, results, args.images):
            print(path)


if __name__ == "__main__":
    main()
