"""Rows as tables by category with intervals, win rates of two runs, and contact sheets."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kontext_core.errors import InputError, UnscoredError
from kontext_core.images import load_image
from kontext_core.metrics import wilson
from kontext_core.partial import whole_file

from ..bench.sheet import Tile, tile_sheet
from ..bench.tables import Table
from .answer import LOWER
from .cases import EditCase
from .intervals import bootstrap
from .rows import EditRow
from .runner import ASKED, figures

RESULTS = "results.json"
SHOWN = 12


def summary(rows: Sequence[EditRow]) -> dict[str, Any]:
    """By arm and category ("all" first): cases, and of each "scorer.figure" its n, mean, low and high (95 %);
    by scorer how many it gave no score."""
    found: dict[str, Any] = {}
    for arm in dict.fromkeys(row.arm for row in rows):
        mine = [row for row in rows if row.arm == arm]
        groups = {"all": mine}
        for row in mine:
            groups.setdefault(row.category, []).append(row)
        found[arm] = {name: _group(some, list(figures(rows))) for name, some in groups.items()}
    return found


def _group(rows: Sequence[EditRow], names: Sequence[tuple[str, str]]) -> dict[str, Any]:
    measured: dict[str, Any] = {}
    for scorer, figure in names:
        values = [v for row in rows if (v := row.scores.get(scorer, {}).get(figure)) is not None]
        if values:
            low, high = bootstrap(values)
            measured[f"{scorer}.{figure}"] = {
                "n": len(values),
                "mean": round(sum(values) / len(values), 4),
                "low": round(low, 4),
                "high": round(high, 4),
            }
    unscored: dict[str, int] = {}
    for row in rows:
        for scorer in row.unscored:
            unscored[scorer] = unscored.get(scorer, 0) + 1
    seconds = [row.seconds for row in rows if row.seconds is not None]
    return {
        "cases": len(rows),
        "figures": measured,
        "unscored": unscored,
        "seconds": round(sum(seconds) / len(seconds), 3) if seconds else None,
    }


def tables(found: Mapping[str, Any]) -> list[Table]:
    """One table an arm, a row a category."""
    made = []
    for arm, groups in found.items():
        names = list(groups["all"]["figures"])
        rows = []
        for category, group in groups.items():
            cells = [category, str(group["cases"])]
            for name in names:
                one = group["figures"].get(name)
                cells.append(
                    f"{one['mean']:.4g} ({one['low']:.4g}-{one['high']:.4g})" if one else ""
                )
            cells.append(", ".join(f"{k} {n}" for k, n in group["unscored"].items()) or "0")
            rows.append(cells)
        made.append(
            Table(
                f"Answers as {arm}",
                ["category", "cases", *names, "unscored"],
                rows,
                "Means with 95 % intervals (bootstrap over cases). Answers without a score are left out of "
                "a mean, and counted.",
                frozenset({0}),
            )
        )
    return made


@dataclass(frozen=True)
class Wins:
    """Two runs held against each other, case by case."""

    wins: int
    ties: int
    losses: int
    unscored: int = 0

    def line(self) -> str:
        """In words, with the interval of the share of decided cases that were won (Wilson)."""
        decided = self.wins + self.losses
        text = f"{self.wins} won, {self.ties} tied, {self.losses} lost"
        if decided:
            low, high = wilson(self.wins, decided)
            text += f"; won of decided {100 * self.wins / decided:.0f} % ({100 * low:.0f}-{100 * high:.0f})"
        return text + (f"; {self.unscored} without a verdict" if self.unscored else "")


def pairs(
    one: Sequence[EditRow], other: Sequence[EditRow], arm: str = ASKED, other_arm: str = ASKED
) -> list[tuple[EditRow, EditRow]]:
    """Rows of the same case and seed.

    Raises:
        InputError: they have none in common.
    """
    theirs = {(row.key, row.seed): row for row in other if row.arm == other_arm}
    found = [
        (row, theirs[row.key, row.seed])
        for row in one
        if row.arm == arm and (row.key, row.seed) in theirs
    ]
    if not found:
        raise InputError(
            "the two runs have no case and seed in common; compare runs of the same benchmark"
        )
    return found


def wins_by_figure(rows: Sequence[tuple[EditRow, EditRow]], scorer: str, figure: str) -> Wins:
    """Which has the better figure, case by case; equal ones are ties, cases without it are left out.

    Raises:
        InputError: no pair has this figure.
    """
    sign = -1 if (scorer, figure) in LOWER else 1
    counts = {1: 0, 0: 0, -1: 0}
    missing = 0
    for a, b in rows:
        x, y = (row.scores.get(scorer, {}).get(figure) for row in (a, b))
        if x is None or y is None:
            missing += 1
            continue
        counts[(x > y) * sign - (x < y) * sign] += 1
    if missing == len(rows):
        raise InputError(f"no case has {scorer}.{figure} in both runs; score them with it first")
    return Wins(counts[1], counts[0], counts[-1], missing)


def wins_by_judge(
    rows: Sequence[tuple[EditRow, EditRow]], judge: Callable[[EditRow, EditRow], int]
) -> tuple[Wins, dict[str, str]]:
    """Which the judge prefers, and per "key seed" why there is no verdict."""
    counts = {1: 0, 0: 0, -1: 0}
    problems: dict[str, str] = {}
    for a, b in rows:
        try:
            counts[judge(a, b)] += 1
        except UnscoredError as error:  # noqa: PERF203  (each asks a server)
            problems[f"{a.key} {a.seed}"] = str(error)
    return Wins(counts[1], counts[0], counts[-1], len(problems)), problems


def write_report(
    rows: Sequence[EditRow], cases: Sequence[EditCase], out: str | Path, settings: Mapping[str, Any]
) -> list[Table]:
    """results.json, tables.md and sheet-*.png, one a category, in the folder of a run.

    Raises:
        InputError: they can't be written.
    """
    place = Path(out)
    found = summary(rows)
    made = tables(found)
    text = "\n\n".join(f"## {table.title}\n\n{table.markdown()}" for table in made)
    try:
        with whole_file(place / RESULTS) as file:
            results = {"format": 1, "settings": dict(settings), "arms": found}
            file.write((json.dumps(results, indent=1) + "\n").encode())
        with whole_file(place / "tables.md") as file:
            file.write(f"{text}\n".encode())
        for number, (category, tiles) in enumerate(_tiles(rows, cases, place).items(), 1):
            with whole_file(place / f"sheet-{number}.png") as file:
                tile_sheet(tiles, title=category).save(file, "PNG")
    except OSError as error:
        raise InputError(f"can't write into {place} ({error}); choose another folder") from error
    return made


def _tiles(
    rows: Sequence[EditRow], cases: Sequence[EditCase], place: Path
) -> dict[str, list[Tile]]:
    """The first cases of every category, with the answers of all arms beside each other."""
    by_key = {case.key: case for case in cases}
    answers: dict[tuple[str, int], dict[str, EditRow]] = {}
    for row in rows:
        if row.key in by_key:
            answers.setdefault((row.key, row.seed), {})[row.arm] = row
    found: dict[str, list[Tile]] = {}
    for (key, seed), by_arm in answers.items():
        case = by_key[key]
        tiles = found.setdefault(case.category, [])
        if len(tiles) >= SHOWN:
            continue
        pictures = [(f"image {n}", x[0].movedim(-1, 0)) for n, x in enumerate(case.pictures(), 1)]
        for arm, row in by_arm.items():
            pictures.append((arm, load_image(place / row.file)[0].movedim(-1, 0)))
        right = case.right()
        if right is not None:
            pictures.append(("right answer", right[0].movedim(-1, 0)))
        said = [
            f"{arm}: " + ", ".join(
                f"{scorer}.{name} {value:.4g}" for scorer, got in row.scores.items() for name, value in got.items()
            )
            for arm, row in by_arm.items()
            if row.scores
        ]  # fmt: skip
        tiles.append(Tile(f"{key}, seed {seed}: {case.instruction}", pictures, "; ".join(said)))
    return found
