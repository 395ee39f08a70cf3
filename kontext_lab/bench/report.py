"""Writes a benchmark's folder: results.json, contact sheets as PNG, index.html. Whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kontext_core.errors import InputError

from ..world.tasks import CATEGORIES
from .page import drift_charts, page, sweep_chart
from .run import FORMAT, Bench
from .sheet import contact_sheet, of_category, strip
from .tables import label

if TYPE_CHECKING:
    from PIL import Image

RESULTS = "results.json"


def check_folder(folder: str | Path) -> Path:
    """The folder as a path, if a result can be written there.

    Raises:
        InputError: it holds something else than a result, or can't be written to.
    """
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; name a folder for the results")
    if path.is_dir() and any(path.iterdir()) and not _is_result(path):
        raise InputError(
            f"{path} holds other files than a benchmark's; name a new folder, or empty it"
        )
    parent = next(p for p in path.absolute().parents if p.exists())
    if not os.access(parent, os.W_OK) or not parent.is_dir():
        raise InputError(f"can't write into {parent}; choose another folder")
    return path


def _is_result(path: Path) -> bool:
    return (path / RESULTS).is_file() and (path / "index.html").is_file()


def read_results(path: str | Path) -> dict[str, Any]:
    """What `write_report` wrote as results.json.

    Raises:
        InputError: there is none, or it is of another form.
    """
    path = Path(path)
    if path.is_dir():
        path = path / RESULTS
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"can't read results from {path} ({error}); make them with "
            "python -m kontext_lab bench tiny"
        ) from error
    if not isinstance(results, Mapping) or results.get("format") != FORMAT:
        raise InputError(
            f"{path} is not a result of this version's benchmark; make a new one with "
            "python -m kontext_lab bench tiny"
        )
    return dict(results)


def write_report(found: Bench, folder: str | Path) -> Path:
    """Write the folder; an older result there is replaced.

    Returns:
        The folder.

    Raises:
        InputError: see `check_folder`.
    """
    path = check_folder(folder)
    parent = path.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".bench-", dir=parent))
    except OSError as error:
        raise InputError(f"can't write into {parent} ({error}); choose another folder") from error
    try:
        new = work / "new"
        (new / "sheets").mkdir(parents=True)
        text = json.dumps(found.results, indent=1) + "\n"
        (new / RESULTS).write_text(text, encoding="utf-8")
        for name, sheet in sheets(found).items():
            sheet.save(new / "sheets" / f"{name}.png")
        text = page(found.results, found.shown, found.loop)
        (new / "index.html").write_text(text, encoding="utf-8")
        if path.exists():
            os.replace(path, work / "old")
        os.replace(new, path)
    except OSError as error:
        if (work / "old").exists() and not path.exists():
            os.replace(work / "old", path)
        raise InputError(
            f"can't write {path} ({error}); free some space or choose another"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return path


def sheets(found: Bench) -> dict[str, Image.Image]:
    """Every PNG of a result by name: tasks, categories, drift, charts."""
    pictures = {
        task: contact_sheet(shown, title=label(task)) for task, shown in found.shown.items()
    }
    for category in CATEGORIES:
        some = of_category(found.shown, category)
        if some:
            title = label(category)
            pictures[f"category_{category}"] = contact_sheet(some, title=title)
    for i in range(min(3, len(found.chains))):
        pictures[f"drift_{i + 1}"] = strip([turn[i] for turn in found.loop])
    for key in ("steps", "guidance"):
        pictures[f"chart_{key}"] = sweep_chart(found.results, key).png()
    for name, chart in zip(("success", "untouched"), drift_charts(found.results), strict=False):
        pictures[f"chart_drift_{name}"] = chart.png()
    return pictures
