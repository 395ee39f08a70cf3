"""What Kontext: Batch makes of its inputs: a picture, prompt, seed and name for every row."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..kontext_core.errors import InputError
from ..kontext_core.tables.names import free_name, inside, plain_name
from ..kontext_core.tables.numbers import whole_number
from ..kontext_core.tables.rows import COMMENT, Row, parse_rows, read_rows
from .host import get_host
from .inputs import MAX_SEED

COMBINE = ("each with each", "in pairs")
# What the node has outputs for.
COLUMNS = ("image", "prompt", "seed")
SHOWN = 5
# Lists of ComfyUI are in memory, and every row is a run of what follows.
MAX_ROWS = 1_000_000


@dataclass(frozen=True)
class Item:
    """One run of what follows: a picture's file, or its place in the linked batch."""

    name: str
    prompt: str
    seed: int | None = None
    path: Path | None = None
    index: int | None = None


def items_from(
    source: str, lines: str, combine: str, linked: int, first: int = 1, limit: int = 0
) -> tuple[list[Item], int]:
    """The rows up to the last that is wanted, from what was given, and how many there would be in all.

    Args:
        linked: how many pictures come by link.
        first: the first row that is wanted, from 1; those before it are given too, for their names.
        limit: how many are wanted; 0 is all.

    Raises:
        InputError: nothing given, a row that can't run, lists that don't fit together, or more rows
            than `MAX_ROWS`.
    """
    pictures = [Item(f"{index + 1:04d}", "", index=index) for index in range(linked)]
    found = [pictures, _from_source(source), _from_rows(parse_rows(lines), None)]
    lists = [items for items in found if items]
    if not lists:
        raise InputError(
            "there are no rows; link pictures, name a folder or table of the input folder in "
            "source, or write prompts into lines"
        )
    sizes = [len(items) for items in lists]
    if combine == COMBINE[0]:
        total = math.prod(sizes)
        rows: Iterable[tuple[Item, ...]] = itertools.product(*lists)
    else:
        total = max(sizes)
        if any(size not in (1, total) for size in sizes):
            raise InputError(
                f"there are {' and '.join(map(str, sizes))} rows to put into pairs; expected as "
                f'many of each, or one of a kind. Or choose "{COMBINE[0]}"'
            )
        rows = (tuple(items[i if len(items) > 1 else 0] for items in lists) for i in range(total))
    wanted = min(total, first - 1 + limit) if limit else total
    if wanted - first >= MAX_ROWS:
        raise InputError(
            f"there are {total} rows, at most {MAX_ROWS} are taken at once; lower limit, or use "
            "python -m standalone batch"
        )
    merged = []
    for row in itertools.islice(rows, wanted):
        get_host().check_interrupt()
        merged.append(_merge(row))
    with_picture = sum(item.path is not None or item.index is not None for item in merged)
    if with_picture not in (0, len(merged)):
        raise InputError(
            f"{with_picture} of {len(merged)} rows have a picture; expected all or none"
        )
    return merged, total


def _merge(row: Sequence[Item]) -> Item:
    """What lies further right counts where several say something."""
    last = row[-1]
    named = next((item for item in row if item.path or item.index is not None), last)
    paths = [item.path for item in row if item.path is not None]
    linked = [item.index for item in row if item.index is not None]
    if len(paths) + len(linked) > 1:
        raise InputError(
            "a row has two pictures: one by link or from source, another from a table; leave one"
        )
    return Item(
        name=named.name,
        prompt=next((item.prompt for item in reversed(row) if item.prompt), ""),
        seed=next((item.seed for item in reversed(row) if item.seed is not None), None),
        path=paths[0] if paths else None,
        index=linked[0] if linked else None,
    )


def _from_source(source: str) -> list[Item]:
    name = source.strip()
    if not name:
        return []
    path = find_rows(name)
    return _from_rows(read_rows(path), path if path.is_dir() else path.parent)


def find_rows(name: str, folder_too: bool = True) -> Path:
    """A folder or file of the host's input folders.

    Raises:
        InputError: none of that name, or a name that leads out.
    """
    roots = get_host().input_folders()
    if not roots:
        raise InputError("there is no input folder here to read from: run inside ComfyUI")
    if name == ".":
        return roots[0]
    # A name that leads out is refused below whichever is taken.
    there = next((root for root in roots if os.path.exists(root / name)), roots[0])
    return inside(there, name, folder_too)


def _from_rows(rows: list[Row], folder: Path | None) -> list[Item]:
    problems = [f"row {row.number}: {row.problem}" for row in rows if row.problem]
    items = []
    for row in rows if not problems else ():
        try:
            items.append(_item(row, folder))
        except InputError as error:  # noqa: PERF203 - every row's problem is told at once
            problems.append(f"row {row.number}: {error}")
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise InputError("; ".join(problems[:SHOWN]) + more)
    return items


def _item(row: Row, folder: Path | None) -> Item:
    values = {key: value for key, value in row.values.items() if not key.startswith(COMMENT)}
    unknown = [key for key in values if key not in COLUMNS]
    if unknown:
        raise InputError(
            f"there is no output for the column {unknown[0]!r}; expected name, "
            f"{', '.join(COLUMNS)}. For other columns use python -m standalone batch"
        )
    path = None
    if "image" in values:
        path = _picture(str(values["image"]), folder)
    return Item(row.name, str(values.get("prompt", "")), _seed(values.get("seed")), path)


def _picture(name: str, folder: Path | None) -> Path:
    return inside(folder, name) if folder is not None else find_rows(name, False)


def _seed(value: Any) -> int | None:
    if value is None:
        return None
    number = whole_number(value, "seed")
    if number is None or not 0 <= number <= MAX_SEED:
        raise InputError(f"seed is {value!r:.80}; expected a whole number from 0 to {MAX_SEED}")
    return number


def names_for(items: list[Item], prefix: str) -> list[str]:
    """A name for each, below the output folder."""
    taken: dict[str, int] = {}
    return [free_name(plain_name(f"{prefix.strip()}{item.name}"), taken) for item in items]


def stamp(source: str | None) -> str:
    """Changes when a file of the folder behind `source` does."""
    if not (source or "").strip():
        return ""
    try:
        path = find_rows((source or "").strip())
        folder = path if path.is_dir() else path.parent
        states = {file.name: file.stat() for file in folder.iterdir() if file.is_file()}
    except (InputError, OSError):
        return "missing"
    return repr(sorted((name, s.st_mtime_ns, s.st_size) for name, s in states.items()))


def problem_of(source: str | None, lines: str | None) -> str | None:
    """What is wrong with the rows, as far as it can be told without what comes by link (None)."""
    try:
        if source is not None:
            _from_source(source)
        if lines is not None:
            _from_rows(parse_rows(lines), None)
    except InputError as error:
        return str(error)
    return None
