"""Rows of a batch: from a CSV or JSONL file, a folder of pictures, or pasted text."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..small_files import read_small_text
from .names import PICTURE_SUFFIXES, composed, free_name, natural, plain_name

# A column that begins with this is for people only.
COMMENT = "#"
# One of these in the first line of pasted text makes it a table's header.
KNOWN = ("prompt", "image", "name", "seed")
DELIMITERS = (",", ";", "\t")
# Spreadsheets write and read such a line before the header.
_SEPARATOR = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
# Bytes of a table.
LARGEST = 256 << 20

Scalar = str | int | float | bool


@dataclass(frozen=True)
class Row:
    """One run of the workflow.

    `values` go by column; `name` is what its results are called. A row with a `problem` can't run.
    """

    number: int
    name: str
    values: dict[str, Scalar] = field(default_factory=dict)
    problem: str = ""


# What a reader gives for one row: its values, and what is wrong with it.
_Raw = tuple[dict[str, Any], str]


def read_rows(path: Path) -> list[Row]:
    """The rows of a file (.csv, .tsv, .jsonl, .json, or .txt with a prompt a line) or of a folder,
    whose pictures become the column `image`, and a text file of the same name `prompt`.

    A single bad row is in the result, with its problem.

    Raises:
        InputError: nothing there, no rows, an unknown kind of file, or a header no row can follow.
    """
    if path.is_dir():
        rows = _number(_folder(path))
        if not rows:
            raise InputError(f"there are no pictures in {path}; put PNG, JPEG or WebP files there")
        return rows
    try:
        text = _text(path)
    except FileNotFoundError as error:
        raise InputError(f"there are no rows at {path}; check the path") from error
    except (OSError, ValueError) as error:
        raise InputError(f"the rows in {path} can't be read ({error}); save it as UTF-8") from error
    readers = {
        ".csv": _table, ".tsv": _table, ".jsonl": _json_lines, ".ndjson": _json_lines,
        ".json": _json_list, ".txt": _lines,
    }  # fmt: skip
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            f"{path.name} is not a kind of file that holds rows; expected {', '.join(readers)} or a "
            "folder of pictures"
        )
    rows = _number(reader(text))
    if not rows:
        raise InputError(f"there are no rows in {path}; a table needs a header and a line below it")
    return rows


def parse_rows(text: str) -> list[Row]:
    """Rows of pasted text: JSON objects, a table whose header has `prompt`, `image`, `name` or
    `seed`, or else one prompt a line. No text gives no rows.

    Raises:
        InputError: a header no row can follow.
    """
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    if first.startswith("{"):
        return _number(_json_lines(text))
    if _SEPARATOR.fullmatch(first):
        return _number(_table(text))
    header = [cell.strip().strip('"').lower() for cell in first.split(_delimiter(first))]
    plain = len(header) == 1 and header[0] == "prompt"
    if plain or (len(header) > 1 and any(cell in KNOWN for cell in header)):
        return _number(_table(text))
    return _number(_lines(text))


def _folder(folder: Path) -> Iterator[_Raw]:
    try:
        names = [path.name for path in folder.iterdir() if path.is_file()]
    except OSError as error:
        raise InputError(f"the folder {folder} can't be read ({error})") from error
    texts = {composed(Path(n).stem): folder / n for n in names if Path(n).suffix == ".txt"}
    for name in sorted(names, key=natural):
        if name.startswith(".") or not name.lower().endswith(PICTURE_SUFFIXES):
            continue
        values: dict[str, Any] = {"image": name, "name": Path(name).stem}
        words = texts.get(composed(Path(name).stem))
        problem = ""
        if words is not None:
            try:
                values["prompt"] = _text(words).strip()
            except (OSError, ValueError) as error:
                problem = f"the prompt in {words.name} can't be read ({error}); save it as UTF-8"
        yield values, problem


def _text(path: Path) -> str:
    """A text with line ends of every system, as `\\n`. Raises OSError or ValueError."""
    return read_small_text(path, LARGEST).replace("\r\n", "\n").replace("\r", "\n")


def _lines(text: str) -> Iterator[_Raw]:
    for line in text.splitlines():
        if line.strip():
            yield {"prompt": line.strip()}, ""


def _delimiter(header: str) -> str:
    return max(DELIMITERS, key=header.count)


def _table(text: str) -> Iterator[_Raw]:
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = _delimiter(first)
    # A tab at the end of the line is what it names.
    if named := _SEPARATOR.fullmatch(first.strip(" ")):
        delimiter = named[1]
        # The line stays as an empty one, so that the lines below keep their numbers.
        text = text.replace(first, "", 1)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(
                f"line {reader.line_num} of the table is damaged ({error}); a text that holds "
                "quotes or line breaks stands in quotes, and quotes in it are doubled"
            ) from error
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            header = _header(cells)
            continue
        cells = _filled(cells, len(header))
        if len(cells) > len(header):
            yield (
                {},
                (
                    f"line {reader.line_num} has {len(cells)} cells, the header {len(header)}; put "
                    "texts that hold the separator in quotes, and name every column that is used"
                ),
            )
            continue
        # An empty cell leaves what the workflow has.
        yield {key: cell.strip() for key, cell in zip(header, cells) if cell.strip()}, ""  # noqa: B905


def _filled(cells: list[str], least: int = 0) -> list[str]:
    """Without the empty cells behind a table, which spreadsheets export with it."""
    count = len(cells)
    while count > least and not cells[count - 1].strip():
        count -= 1
    return cells[:count]


def _header(cells: list[str]) -> list[str]:
    header = [cell.strip() for cell in _filled(cells)]
    if "" in header:
        raise InputError(
            f"column {header.index('') + 1} of the table has no name; write one into its first line"
        )
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise InputError(f"the column {twice[0]!r} stands twice in the table's first line")
    return header


def _json_lines(text: str) -> Iterator[_Raw]:
    # Not splitlines(): a JSON text may hold U+2028 and its like unescaped.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield _object(_loads(line), f"line {number}")
        except ValueError as error:
            yield {}, f"line {number} is not JSON ({error}); expected one object a line"


def _json_list(text: str) -> Iterator[_Raw]:
    try:
        found = _loads(text)
    except ValueError as error:
        raise InputError(f"the rows are no JSON ({error}); expected a list of objects") from error
    if not isinstance(found, list):
        raise InputError("the rows are not a list; expected a list of objects: [{...}, {...}]")
    for number, value in enumerate(found, 1):
        yield _object(value, f"entry {number}")


def _loads(text: str) -> Any:
    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is not a number")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError as error:
        raise ValueError("too deep") from error


def _object(value: Any, where: str) -> _Raw:
    if not isinstance(value, dict):
        return {}, f"{where} is a {type(value).__name__}; expected an object {{column: value}}"
    # A list would be taken for a link to another node.
    bad = next((key for key, item in value.items() if not _usable(item)), None)
    if bad is not None:
        return {}, f"{where}: {bad!r} is {value[bad]!r:.80}; expected a text, number or true/false"
    return {key.strip(): item for key, item in value.items() if item is not None}, ""


def _usable(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, str | int)


def _number(found: Iterable[_Raw]) -> list[Row]:
    """Numbers the rows from 1 and gives each a name of its own."""
    rows: list[Row] = []
    taken: dict[str, int] = {}
    for number, (values, problem) in enumerate(found, 1):
        wanted = str(values.pop("name", "")).strip()
        if not wanted and isinstance(values.get("image"), str):
            wanted = Path(values["image"].replace("\\", "/")).stem
        try:
            name = plain_name(wanted) if wanted else f"{number:04d}"
        except InputError as error:
            name, problem = f"{number:04d}", problem or str(error)
        rows.append(Row(number, free_name(name, taken), values, problem))
    return rows
