"""The scripts that put figures and curves into the documents."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


def run(recipe: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"kontext_lab.recipes.{recipe}", *map(str, arguments)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def results() -> dict:
    """Made up: a task a category, half of the answers right."""
    row = {
        "n": 8, "right": 4, "success": 0.5, "low": 0.2152, "high": 0.7848, "psnr": 20.0,
        "ssim": 0.8, "untouched": 30.0, "nearer": 0.9, "failed": {"kind": 4}, "asked": 0.75,
    }  # fmt: skip
    categories = {"recolour": "local", "compose": "two_references"}
    grouped = {"all": row, "categories": dict.fromkeys(categories.values(), row)}
    full = {**grouped, "tasks": dict.fromkeys(categories, row)}
    full["exchanged"] = {"words": {"compose": row}, "pictures": {"compose": row}}
    rebuilt = {"psnr": 30.0, "psnr_p10": 28.0, "ssim": 0.9, "distance": 0.01, "latent_std": 1.0}
    return {
        "format": 1,
        "size": [64, 64],
        "settings": {
            "cases": 4, "probes": 2, "chains": 3, "turns": 2, "rebuilt": 5, "timed": 5,
            "shown": 4, "seed": 0, "steps": 28, "guidance": 2.5,
        },
        "categories": categories,
        "sets": {"grammar": full, "held_out": full, "blind": full},
        "probes": {"blank": grouped, "scrambled": grouped},
        "steps": {"1": grouped, "28": grouped},
        "guidance": {"1": grouped, "2.5": grouped},
        "elsewhere": {"on the grid": grouped, "96 x 64": grouped},
        "autoencoder": {"shapes": rebuilt, "all": rebuilt},
        "drift": [{"turn": t, **row, "area": 0.9, "clean": 0.5} for t in (1, 2)],
        "timing": {
            "device": "cpu", "threads": 2, "batched": dict.fromkeys(categories, 0.1),
            "latency": {"0": 0.2, "1": 0.3, "2": 0.4}, "seconds": 5.0,
        },
    }  # fmt: skip


def test_figures_go_between_their_marks(results: dict, tmp_path: Path) -> None:
    source = tmp_path / "bench"
    (source / "sheets").mkdir(parents=True)
    (source / "results.json").write_text(json.dumps(results), encoding="utf-8")
    Image.new("RGB", (4, 4)).save(source / "sheets" / "category_local.png")
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- results: headline -->\nold\n<!-- end -->\nbetween\n"
        "<!-- results: steps -->\n<!-- end -->\n<!-- results: exchanged -->\n<!-- end -->\nafter\n",
        encoding="utf-8",
    )
    arguments = (
        source / "results.json", "--documents", page, "--images", tmp_path / "images",
        "--keep", tmp_path / "kept.json",
    )  # fmt: skip
    done = run("write_report", *arguments)
    assert done.returncode == 0, done.stderr
    text = page.read_text(encoding="utf-8")
    assert "old" not in text and "grammar 50 % (22-78)" in text and "| 1 step |" in text
    assert "50 % (22-78); 90 %" in text
    assert text.startswith("before\n") and "\nbetween\n" in text and text.endswith("\nafter\n")
    assert json.loads((tmp_path / "kept.json").read_text(encoding="utf-8")) == results
    made = {path.name for path in (tmp_path / "images").iterdir()}
    assert {"embedded_local.png", "embedded_steps.svg", "embedded_drift_success.svg"} <= made
    assert run("write_report", *arguments).returncode == 0
    assert page.read_text(encoding="utf-8") == text


def test_marks_and_results_that_fit_nothing_change_nothing(results: dict, tmp_path: Path) -> None:
    good, other = tmp_path / "results.json", tmp_path / "other.json"
    good.write_text(json.dumps(results), encoding="utf-8")
    other.write_text("{}", encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text("<!-- results: weather -->\n<!-- end -->\n", encoding="utf-8")
    keep = ("--images", tmp_path / "images", "--keep", tmp_path / "kept.json")
    for source, message in (
        (good, "there is no block 'weather'"),
        (other, "not a result of this version's benchmark"),
        (tmp_path / "missing.json", "can't read results"),
    ):
        done = run("write_report", source, "--documents", page, *keep)
        assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "other.json", "page.md", "results.json",
    ]  # fmt: skip


def test_every_mark_of_the_documents_is_known() -> None:
    """And no block's end is missing."""
    for path in (ROOT / "docs/embedded-model.md", ROOT / "kontext_core/assets/tiny/README.md"):
        text = path.read_text(encoding="utf-8")
        assert text.count("<!-- results: ") == text.count("<!-- end -->") > 0


def test_learning_curves_as_svg_and_png(tmp_path: Path) -> None:
    rows = [{"step": s, "loss": 1 / s, "cells": 2 / s, "samples": 8 * s} for s in range(1, 40)]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        log = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / name / "log.jsonl").write_text(log + '{"step": 40, "lo', encoding="utf-8")
    svg, png = tmp_path / "curves.svg", tmp_path / "curves.png"
    assert run("curves", tmp_path / "one", tmp_path / "two", "--out", svg).returncode == 0
    text = svg.read_text(encoding="utf-8")
    assert ">one</text>" in text and ">two</text>" in text
    arguments = ("--rows", "loss", "cells", "--against", "samples", "--out", png)
    assert run("curves", tmp_path / "one", *arguments).returncode == 0
    with Image.open(png) as picture:
        assert picture.size == (1440, 680)
    wrong = run("curves", tmp_path, "--out", svg)
    assert wrong.returncode == 1 and "there is no log" in wrong.stderr
