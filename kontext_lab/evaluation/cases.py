"""Cases of published benchmarks, from the files as they are published.

kontextbench  black-forest-labs/kontext-bench (MIT): a folder with test/metadata.jsonl (file_name, key,
              category, instruction) or parquet (image, key, category, instruction)
gedit         stepfun-ai/GEdit-Bench: parquet with key, task_type, instruction, instruction_language,
              input_image_raw or input_image; or a folder with metadata.jsonl of those columns
imgedit       sysuyy/ImgEdit, Benchmark.tar: basic_edit.json, key to {id, prompt, edit_type}, `id` the
              picture's path below singleturn/
multibanana   kohsei/MultiBanana-Benchmark (CC BY-NC 4.0): TASK/NNN_0.jpg, NNN_1.jpg, ... and
              NNN_prompt.txt

Column names: RegionE's data scripts, Step1X-Edit's GEdit-Bench/EVAL.md, ImgEdit's
Benchmark/Basic/basic_bench.py, the README of matsuolab/multibanana.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from kontext_core.checks import check_whole
from kontext_core.errors import InputError
from kontext_core.images import as_image, load_mask
from kontext_core.small_files import read_small_text
from kontext_core.tables.names import PICTURE_SUFFIXES, inside, natural, plain_name

from .json_lines import LARGEST, json_lines

# A picture's file, or what is in it.
PictureSource = Path | bytes


@dataclass(frozen=True, eq=False)
class EditCase:
    """One question of a benchmark.

    Attributes:
        key: unique; a plain name, "/" between folders.
        category: as published.
        instruction: as published.
        images: the pictures to edit or to take from, at least one.
        target: the right answer, where there is one.
        mask: of what may change, white, where there is one.
        names, request: what the pictures are called, and the instruction that calls them so.
        size: (width, height) wanted of the answer, where the benchmark says.
        after: key of the case whose answer is edited in place of image 1, see `turns`; "" for none.
    """

    key: str
    category: str
    instruction: str
    images: tuple[PictureSource, ...]
    target: PictureSource | None = None
    mask: Path | None = None
    names: tuple[str, ...] = ()
    request: str = ""
    size: tuple[int, int] | None = None
    after: str = ""

    def pictures(self) -> list[Tensor]:
        """The images, [1, h, w, 3] in 0..1 each.

        Raises:
            InputError: one can't be read.
        """
        return [opened(source, self.key) for source in self.images]

    def right(self) -> Tensor | None:
        """The target, [1, h, w, 3]."""
        return None if self.target is None else opened(self.target, self.key)

    def area(self) -> Tensor | None:
        """The mask, [1, h, w]."""
        return None if self.mask is None else load_mask(self.mask)[None]


def opened(source: PictureSource, key: str) -> Tensor:
    """A picture [1, h, w, 3] from a file or its bytes.

    Raises:
        InputError: it can't be read.
    """
    if isinstance(source, Path):
        return as_image(source)[:1]
    try:
        return as_image(Image.open(io.BytesIO(source)), f"the picture of {key}")[:1]
    except OSError as error:
        raise InputError(f"the picture of {key} can't be read ({error})") from error


def read_cases(kind: str, data: str | Path, *, language: str = "en") -> list[EditCase]:
    """All cases, in their published order.

    Args:
        kind: one of `KINDS`.
        data: the folder or file, see this module's text.
        language: of GEdit-Bench's instructions, "en" or "cn".

    Raises:
        InputError: no such kind, nothing of this kind there, or a damaged row; says which.
    """
    if kind not in KINDS:
        raise InputError(f"unknown kind {kind!r}; use one of {', '.join(KINDS)}")
    path = Path(data)
    if not path.exists():
        raise InputError(f"there is nothing at {path}; name the benchmark's folder or file")
    found: list[EditCase] = []
    seen: set[str] = set()
    for case in KINDS[kind](path, language):
        if case.key in seen:
            raise InputError(f"the key {case.key!r} stands twice in {path}; expected each once")
        seen.add(case.key)
        found.append(case)
    if not found:
        raise InputError(f"{path} has no case of the kind {kind}; check the path and the kind")
    return found


def _kontextbench(path: Path, language: str) -> Iterator[EditCase]:
    for row, images, place in _rows(path, ("image",)):
        extra: dict[str, Any] = {}
        if place is not None:
            files = row.get("images_file_names") or [row.get("file_name")]
            images = tuple(inside(place, str(name)) for name in files)
            for name, column in (("target", "target_file_name"), ("mask", "mask_file_name")):
                if row.get(column):
                    extra[name] = inside(place, str(row[column]))
            if row.get("width") and row.get("height"):
                extra["size"] = (int(row["width"]), int(row["height"]))
            extra["names"] = tuple(row.get("names") or ())
            extra["request"] = str(row.get("request") or "")
        key, category = _text(row, "key"), _text(row, "category")
        yield EditCase(_key(key), category, _text(row, "instruction"), images, **extra)


def _gedit(path: Path, language: str) -> Iterator[EditCase]:
    for row, images, place in _rows(path, ("input_image_raw", "input_image")):
        if _text(row, "instruction_language") != language:
            continue
        if place is not None:
            images = (inside(place, _text(row, "file_name")),)
        task = _text(row, "task_type")
        yield EditCase(_key(_text(row, "key")), task, _text(row, "instruction"), images)


def _imgedit(path: Path, language: str) -> Iterator[EditCase]:
    table = path
    if path.is_dir():
        names = ("basic_edit.json", "singleturn.json")
        found = next((p for name in names for p in sorted(path.rglob(name))), None)
        if found is None:
            raise InputError(
                f"there is no basic_edit.json in {path}; it is beside ImgEdit's scripts"
            )
        table = found
    try:
        rows = json.loads(read_small_text(table, LARGEST))
    except (OSError, ValueError) as error:
        raise InputError(f"can't read {table} ({error})") from error
    if not isinstance(rows, dict):
        raise InputError(
            f"{table} is a {type(rows).__name__}; expected {{key: {{id, prompt, edit_type}}}}"
        )
    base = path if path.is_dir() else path.parent
    roots = [base, *(base / name for name in ("singleturn", "Benchmark/singleturn", "Basic"))]
    for key, row in rows.items():
        if not isinstance(row, dict):
            raise InputError(f"{key!r} of {table} is a {type(row).__name__}; expected an object")
        name = _text(row, "id")
        root = next((root for root in roots if (root / name).is_file()), roots[0])
        image = inside(root, name)
        yield EditCase(_key(key), _text(row, "edit_type"), _text(row, "prompt"), (image,))


def _multibanana(path: Path, language: str) -> Iterator[EditCase]:
    root = path / "data" if (path / "data").is_dir() else path
    for prompt in sorted(root.glob("*/*_prompt.txt"), key=lambda p: natural(str(p))):
        number = prompt.name.removesuffix("_prompt.txt")
        shown = re.compile(re.escape(number) + r"_\d+\.\w+")
        images = sorted(
            (
                p
                for p in prompt.parent.iterdir()
                if shown.fullmatch(p.name) and p.suffix.lower() in PICTURE_SUFFIXES
            ),
            key=lambda p: natural(p.name),
        )
        if not images:
            raise InputError(f"{prompt} has no pictures beside it; expected {number}_0.jpg and on")
        try:
            words = read_small_text(prompt, LARGEST).strip()
        except (OSError, ValueError) as error:
            raise InputError(f"can't read {prompt} ({error})") from error
        yield EditCase(
            _key(f"{prompt.parent.name}/{number}"), prompt.parent.name, words, tuple(images)
        )


def turns(cases: Sequence[EditCase], count: int) -> list[EditCase]:
    """Edits one after the other: of every picture that has as many instructions, its first `count`, each on the
    answer of the one before. Scorers compare with the first picture, so that they show what turns do to it.

    Raises:
        InputError: no picture has as many.
    """
    check_whole(count, "turns", 2, 100)
    of_picture: dict[PictureSource, list[EditCase]] = {}
    for case in cases:
        of_picture.setdefault(case.images[0], []).append(case)
    found: list[EditCase] = []
    most = max(map(len, of_picture.values()), default=0)
    for some in of_picture.values():
        if len(some) < count:
            continue
        for turn, case in enumerate(some[:count], 1):
            key = f"{some[0].key}/turn-{turn}"
            after = found[-1].key if turn > 1 else ""
            changed = {"key": key, "category": f"turn {turn}", "after": after}
            found.append(replace(case, target=None, mask=None, **changed))
    if not found:
        raise InputError(
            f"turns is {count}, but no picture has more than {most} instructions; take fewer"
        )
    return found


KINDS: dict[str, Callable[[Path, str], Iterator[EditCase]]] = {
    "kontextbench": _kontextbench,
    "gedit": _gedit,
    "imgedit": _imgedit,
    "multibanana": _multibanana,
}

# A row, its pictures, and the folder that its file names are below; None where it has the bytes.
_Row = tuple[Mapping[str, Any], tuple[PictureSource, ...], Path | None]


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[_Row]:
    """The rows of a folder's metadata.jsonl, or of parquet files whose pictures are in `columns`."""
    table = next(
        (p for p in (path / "metadata.jsonl", path / "test/metadata.jsonl") if p.is_file()), None
    )
    if path.is_dir() and table is not None:
        for row in json_lines(table):
            yield row, (), table.parent
        return
    files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    if not files:
        raise InputError(f"{path} has neither metadata.jsonl nor parquet files; check the path")
    from .parquet import parquet_rows

    for file in files:
        for row in parquet_rows(file):
            held = next((row[name] for name in columns if row.get(name) is not None), None)
            data = held.get("bytes") if isinstance(held, dict) else held
            if not isinstance(data, bytes):
                raise InputError(f"a row of {file} has no picture in {' or '.join(columns)}")
            yield row, (data,), None


def _text(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        named = ", ".join(
            f"{name}: {row[name]!r:.40}" for name in ("key", "file_name") if name in row
        )
        raise InputError(
            f"a row ({named or 'without key'}) has {value!r} as {column}; expected a text. Is it of "
            "another kind?"
        )
    return value


def _key(text: str) -> str:
    return plain_name(text)
