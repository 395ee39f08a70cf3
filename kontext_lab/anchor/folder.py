"""The benchmark as a folder in the form of KontextBench, and its scenes for the judge.

README.md                 the card
test/metadata.jsonl       a case a line: file_name (its first picture), key, category, instruction,
                          and more columns, see `_row`
test/images, test/targets pictures
test/scenes.jsonl         what the judge reads: the right answer and the twin's, as scenes
rows/1.jsonl, 2.jsonl, .. the cases with so many pictures, as `python -m standalone batch` takes them
workflows/1.json, ..      a graph in ComfyUI's API format for each of these tables
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kontext_core.checks import check_whole
from kontext_core.errors import InputError

from ..bench.sheet import picture
from ..evaluation.json_lines import json_lines
from ..world.sample import Sample
from ..world.thing import Scene, Thing
from .card import card
from .graphs import edit_graph
from .questions import LARGEST, SMALLEST, Question, make_questions

# Of scenes.jsonl; raised when older ones would be misread.
FORMAT = 1
SIDE = 512
METADATA, SCENES = "test/metadata.jsonl", "test/scenes.jsonl"


@dataclass(frozen=True, eq=False)
class Filed:
    """A question as it lies in a folder.

    Attributes:
        row: its line of metadata.jsonl.
        sample: what the judge reads; scenes of the references that matter, the right answer, the
            twin's as `swapped`.
    """

    row: Mapping[str, Any]
    sample: Sample

    @property
    def key(self) -> str:
        """ "0001a"."""
        return self.row["key"]


def write_anchor(folder: str | Path, *, cases: int = 500, seed: int = 0, side: int = SIDE) -> Path:
    """Make the benchmark; the same for the same cases, seed and side.

    Args:
        side: of a single picture, in pixels, 64..2048.

    Raises:
        InputError: settings out of range, or a folder that is there already or can't be written.
    """
    path = Path(folder)
    check_whole(side, "side", SMALLEST, LARGEST)
    questions = make_questions(cases, seed)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path} is there already; name a new folder, or empty it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise InputError(f"can't write into {path.parent} ({error}); choose another") from error
    try:
        _fill(work, questions, seed, side)
        # `mkdtemp` lets nobody else in.
        work.chmod(0o755)
        if path.exists():
            path.rmdir()
        os.replace(work, path)
    except OSError as error:
        raise InputError(f"can't write {path} ({error}); free some space") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return path


def _fill(work: Path, questions: Sequence[Question], seed: int, side: int) -> None:
    for name in ("test/images", "test/targets", "rows", "workflows"):
        (work / name).mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    scenes = []
    batches: dict[int, list[dict[str, Any]]] = {}
    for question in questions:
        files = []
        for number, shown in enumerate(question.pictures(side), 1):
            files.append(f"images/{question.key}_{number}.png")
            picture(shown).save(work / "test" / files[-1])
        target = f"targets/{question.key}.png"
        picture(question.target(side)).save(work / "test" / target)
        rows.append(_row(question, files, target, side))
        scenes.append({"format": FORMAT, "key": question.key, **asdict(question.sample)})
        batches.setdefault(len(files), []).append(_batch_row(question, files))
    _write_lines(work / METADATA, rows)
    _write_lines(work / SCENES, scenes)
    for count, some in batches.items():
        _write_lines(work / "rows" / f"{count}.jsonl", some)
        graph = json.dumps(edit_graph(count), indent=2) + "\n"
        (work / "workflows" / f"{count}.json").write_text(graph, encoding="utf-8")
    (work / "README.md").write_text(card(questions, seed, side), encoding="utf-8")


def _row(question: Question, files: Sequence[str], target: str, side: int) -> dict[str, Any]:
    """KontextBench's columns, then ours; width and height are those wanted of the answer."""
    return {
        "file_name": files[0],
        "key": question.key,
        "category": question.category,
        "instruction": question.instruction,
        "images_file_names": list(files),
        "target_file_name": target,
        "request": question.request,
        "names": list(question.names),
        "layout": question.layout,
        "pair": question.pair,
        "seed": question.seed,
        "width": side,
        "height": side,
    }


def _batch_row(question: Question, files: Sequence[str]) -> dict[str, Any]:
    columns = ["image"] if len(files) == 1 else [f"image{n}" for n in range(1, len(files) + 1)]
    return {
        "name": question.key,
        "prompt": question.instruction,
        **dict(zip(columns, files, strict=True)),
        "seed": question.seed,
        "#category": question.category,
    }


def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")


def read_anchor(folder: str | Path) -> list[Filed]:
    """The questions of a folder, in their order.

    Raises:
        InputError: it is none of ours, or damaged; names the file and line.
    """
    path = Path(folder)
    advice = "make the folder with python -m kontext_lab bench anchor make"
    rows = json_lines(path / METADATA, advice)
    scenes = {str(line.get("key")): line for line in json_lines(path / SCENES, advice)}
    found = []
    for number, row in enumerate(rows, 1):
        where = f"line {number} of {path / METADATA}"
        key = row.get("key")
        line = scenes.get(str(key))
        if line is None:
            raise InputError(f"{where}: no scene has the key {key!r}; make the folder anew")
        if line.get("format") != FORMAT:
            raise InputError(f"{path / SCENES} is of another version; make the folder anew")
        try:
            found.append(Filed(row, _sample(line)))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"the scene of {key!r} in {path / SCENES} can't be used ({error}); make the folder anew"
            ) from error
    return found


def _sample(line: Mapping[str, Any]) -> Sample:
    return Sample(
        line["task"], line["prompt"], tuple(_scene(one) for one in line["references"]),
        _scene(line["target"]), bool(line["ordered"]), _scene(line["swapped"]), dict(line["meaning"]),
    )  # fmt: skip


def _scene(found: Mapping[str, Any]) -> Scene:
    values = dict(found)
    things = tuple(Thing(**thing) for thing in values.pop("things"))
    box = values.pop("box")
    return Scene(things=things, box=Thing(**box) if box else None, **values)
