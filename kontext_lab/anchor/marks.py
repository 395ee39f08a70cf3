"""Judges a folder of answers: right or not, order heeded or not, by category and by pair."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kontext_core.errors import InputError
from kontext_core.images import load_image, resize
from kontext_core.metrics import mse, wilson
from kontext_core.partial import whole_file

from ..bench.sheet import Tile, tile_sheet
from ..bench.tables import Table
from ..judge.verdict import Verdict, judge_all
from ..world.render import render
from .folder import Filed, read_anchor

if TYPE_CHECKING:
    from PIL import Image

# What the judge looks at: the size that its limits were set for.
SIDE = 64
ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
# Of the nearest picture.
RIGHT, EXCHANGED, COPIED = "right", "exchanged", "copied"
RESULTS, SHEET = "anchor.json", "anchor.png"


@dataclass(frozen=True, eq=False)
class Mark:
    """One answer judged.

    Attributes:
        filed: the question.
        picture: the answer, [3, 64, 64]; None where there is none.
        verdict: the judge's; None without an answer.
        nearest: RIGHT, EXCHANGED or COPIED: which of the right answer, the twin's and the references
            as they were the answer is nearest to (mean squared error).
        problem: why there is no picture.
    """

    filed: Filed
    picture: Tensor | None = None
    verdict: Verdict | None = None
    nearest: str = ""
    problem: str = ""

    @property
    def right(self) -> bool:
        """Whether every attribute is right."""
        return self.verdict is not None and self.verdict.right


@dataclass
class Marks:
    """The answers of one category, counted."""

    cases: int = 0
    right: int = 0
    order: int = 0
    exchanged: int = 0
    copied: int = 0
    missing: int = 0
    pairs: int = 0
    pairs_heeded: int = 0
    failed: dict[str, int] = field(default_factory=dict)


def judge_answers(
    folder: str | Path, answers: str | Path, *, only_answered: bool = False,
    tick: Callable[[int], object] = lambda count: None,
) -> list[Mark]:  # fmt: skip
    """Judge what lies in `answers` as KEY.png, .jpg or .webp, of any size.

    Args:
        only_answered: leave questions without an answer out, in place of counting them as wrong.
        tick: told how many more are judged.

    Raises:
        InputError: no benchmark in `folder`, no folder of answers, or no answer in it at all.
    """
    filed = read_anchor(folder)
    place = Path(answers)
    if not place.is_dir():
        raise InputError(f"there is no folder {place}; put the answers there, as KEY.png")
    marks: list[Mark] = []
    for start in range(0, len(filed), 8):
        some = filed[start : start + 8]
        marks += _some(some, place)
        tick(len(some))
    if not any(mark.verdict for mark in marks):
        raise InputError(
            f"{place} has no answer to any of the {len(filed)} questions; name the pictures by key, such "
            f"as {filed[0].key}.png" if filed else f"{folder} has no questions"
        )  # fmt: skip
    return [mark for mark in marks if mark.verdict or not only_answered]


def _some(filed: Sequence[Filed], place: Path) -> list[Mark]:
    found: list[Mark] = []
    given: list[tuple[Filed, Tensor]] = []
    for one in filed:
        path = next((p for end in ENDINGS if (p := place / f"{one.key}{end}").is_file()), None)
        if path is None:
            found.append(Mark(one, problem="no answer"))
            continue
        try:
            image = load_image(path)[:1]
        except InputError as error:
            found.append(Mark(one, problem=str(error)))
            continue
        given.append((one, resize(image, SIDE, SIDE)[0].movedim(-1, 0)))
    if given:
        pictures = torch.stack([picture for _, picture in given])
        verdicts = judge_all([one.sample for one, _ in given], pictures)
        for (one, picture), verdict in zip(given, verdicts, strict=True):
            found.append(Mark(one, picture, verdict, _nearest(one, picture)))
    order = {one.key: number for number, one in enumerate(filed)}
    return sorted(found, key=lambda mark: order[mark.filed.key])


def _nearest(one: Filed, picture: Tensor) -> str:
    sample = one.sample
    others = [sample.target, *([sample.swapped] if sample.swapped else []), *sample.references]
    kinds = [RIGHT, *([EXCHANGED] if sample.swapped else []), *[COPIED] * len(sample.references)]
    drawn = render(others, SIDE, SIDE)
    return kinds[int(mse(drawn, picture[None].expand_as(drawn)).argmin())]


def tally(marks: Sequence[Mark]) -> dict[str, Marks]:
    """Counts of "all" and of every category."""
    rows: dict[str, Marks] = {"all": Marks()}
    pairs: dict[str, list[Mark]] = {}
    for mark in marks:
        pairs.setdefault(str(mark.filed.row.get("pair")), []).append(mark)
        for row in (rows["all"], rows.setdefault(mark.filed.row["category"], Marks())):
            row.cases += 1
            row.right += mark.right
            row.order += mark.nearest == RIGHT
            row.exchanged += mark.nearest == EXCHANGED
            row.copied += mark.nearest == COPIED
            row.missing += mark.verdict is None
            for name in mark.verdict.failed if mark.verdict else ():
                row.failed[name] = row.failed.get(name, 0) + 1
    for twins in pairs.values():
        if len(twins) == 2:
            for row in (rows["all"], rows[twins[0].filed.row["category"]]):
                row.pairs += 1
                row.pairs_heeded += all(mark.nearest == RIGHT for mark in twins)
    return rows


def share(count: int, of: int) -> str:
    """ "93 % (88-96)": a share and its 95 % interval (Wilson)."""
    if not of:
        return ""
    low, high = wilson(count, of)
    return f"{100 * count / of:.0f} % ({100 * low:.0f}-{100 * high:.0f})"


def table(rows: dict[str, Marks]) -> Table:
    """A row a category."""
    return Table(
        "Order and layout of references",
        ["category", "cases", "right", "order", "pairs", "exchanged", "copied", "missing"],
        [
            [
                name, str(row.cases), share(row.right, row.cases), share(row.order, row.cases),
                share(row.pairs_heeded, row.pairs), share(row.exchanged, row.cases),
                share(row.copied, row.cases), str(row.missing),
            ]
            for name, row in rows.items()
        ],
        "right: every attribute is right. order: the answer is nearer to the right picture than to the "
        "twin's, and to the references as they were; pairs: both twins are. exchanged, copied: nearest "
        "to the twin's answer, or to a reference. With 95 % intervals. A missing answer is a wrong one.",
        frozenset({0}),
    )  # fmt: skip


def results(marks: Sequence[Mark]) -> dict[str, Any]:
    """All figures, as they are written to anchor.json."""
    return {
        "format": 1,
        "benchmark": "anchor",
        "rows": {name: vars(row) for name, row in tally(marks).items()},
        "answers": {
            mark.filed.key: {
                "right": mark.right,
                "nearest": mark.nearest,
                "failed": list(mark.verdict.failed) if mark.verdict else [],
                **({"problem": mark.problem} if mark.problem else {}),
            }
            for mark in marks
        },
    }


def sheet(folder: str | Path, marks: Sequence[Mark], each: int = 4) -> Image.Image:
    """A contact sheet: the first answers of every category, with pictures as they were shown."""
    tiles: list[Tile] = []
    counts: dict[str, int] = {}
    for mark in marks:
        row = mark.filed.row
        if mark.picture is None or mark.verdict is None or counts.get(row["category"], 0) >= each:
            continue
        counts[row["category"]] = counts.get(row["category"], 0) + 1
        shown = [
            (f"image {n}", load_image(Path(folder) / "test" / name)[0].movedim(-1, 0))
            for n, name in enumerate(row["images_file_names"], 1)
        ]
        target = render([mark.filed.sample.target], SIDE, SIDE)[0]
        failed = ", ".join(name.replace("_", " ") for name in mark.verdict.failed)
        said = "right" if mark.right else f"wrong: {failed}; nearest: {mark.nearest}"
        tiles.append(
            Tile(
                f"{mark.filed.key}, {row['category']}: {row['instruction']}",
                [*shown, ("answer", mark.picture), ("right answer", target)],
                said, mark.right, "answer",
            )
        )  # fmt: skip
    return tile_sheet(tiles, title="Order and layout of references")


def write_marks(folder: str | Path, marks: Sequence[Mark], out: str | Path) -> Path:
    """anchor.json and anchor.png in `out`.

    Raises:
        InputError: it can't be written there.
    """
    place = Path(out)
    try:
        place.mkdir(parents=True, exist_ok=True)
        with whole_file(place / RESULTS) as file:
            file.write((json.dumps(results(marks), indent=1) + "\n").encode())
        with whole_file(place / SHEET) as file:
            sheet(folder, marks).save(file, "PNG")
    except OSError as error:
        raise InputError(f"can't write into {place} ({error}); choose another folder") from error
    return place
