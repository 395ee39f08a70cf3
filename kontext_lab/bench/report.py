"""Writes a benchmark's folder: results.json, contact sheets as PNG, index.html. Whole or not at all.

It is made in `.NAME.unfinished` beside it and takes the place of an older one in two renames. What a
process that was killed left there, even between the two, is put right by the next that writes or reads.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from kontext_core.errors import InputError
from kontext_core.partial import clear_partial, is_partial, open_partial

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
    _recover(path)
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
    _recover(path.parent if path.name == RESULTS else path)
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
    path, work = check_folder(folder), _work(Path(folder))
    try:
        work.mkdir(parents=True, exist_ok=True)
        mark, name = open_partial(work)
    except OSError as error:
        raise InputError(
            f"can't write into {work.parent} ({error}); choose another folder"
        ) from error
    with mark:
        if any(is_partial(other) and other != name.name for other in os.listdir(work)):
            name.unlink()
            raise InputError(
                f"another benchmark is writing {path}; wait for it, choose another folder, or "
                f"remove {work} if none is"
            )
        try:
            _fill(work / "new", found)
            if path.exists():
                os.replace(path, work / "old")
            os.replace(work / "new", path)
        except OSError as error:
            if (work / "old").exists() and not path.exists():
                os.replace(work / "old", path)
            raise InputError(
                f"can't write {path} ({error}); free some space or choose another"
            ) from error
        finally:
            _remove(work, mark)
    return path


def _work(path: Path) -> Path:
    """Where a result is made before it has its name."""
    path = path.absolute()
    return path.with_name(f".{path.name}.unfinished")


def _fill(folder: Path, found: Bench) -> None:
    (folder / "sheets").mkdir(parents=True)
    text = json.dumps(found.results, indent=1) + "\n"
    (folder / RESULTS).write_text(text, encoding="utf-8")
    for name, sheet in sheets(found).items():
        sheet.save(folder / "sheets" / f"{name}.png")
    text = page(found.results, found.shown, found.loop)
    (folder / "index.html").write_text(text, encoding="utf-8")


def _recover(path: Path) -> None:
    """Put right what a killed writer left beside a result; a living one's is left alone."""
    work = _work(path)
    clear_partial(work)
    if not work.is_dir() or any(map(is_partial, os.listdir(work))):
        return
    # The older one is only moved away when the newer is complete.
    if (work / "old").exists() and (work / "new").exists() and not path.exists():
        os.replace(work / "new", path)
    _remove(work, None)


def _remove(work: Path, mark: BinaryIO | None) -> None:
    for folder in (work / "new", work / "old"):
        shutil.rmtree(folder, ignore_errors=True)
    if mark is not None and os.name != "posix":
        # Windows removes no open file.
        mark.close()
    shutil.rmtree(work, ignore_errors=True)


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
