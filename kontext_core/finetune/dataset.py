"""Examples to learn from, out of a folder: references, an instruction, and what is to come of them.

Three ways to lay a folder out, each as the field knows it:

    files      NAME_target.png, NAME_ref1.png, NAME_ref2.png, ... and NAME.txt
    folders    target/NAME.png with target/NAME.txt, reference/NAME.png, reference2/NAME.png, ...
               ("control" does as well as "reference")
    table      metadata.jsonl or metadata.csv with the columns target, prompt, image (or image1),
               image2, ...; also file_name for target, and instruction, text or caption for prompt

References are optional: an example without them is text to image. All problems of a folder are told at
once, each with the name of its file, and before anything is computed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..images import load_image
from ..small_files import read_small_text
from ..tables.names import PICTURE_SUFFIXES, composed, inside, natural
from ..tables.rows import Row, read_rows

TABLES = ("metadata.jsonl", "metadata.csv")
PROMPTS = ("prompt", "instruction", "text", "caption")
MOST_REFERENCES = 16
# How many problems a message lists.
LISTED = 12
# Bytes of an instruction.
LARGEST = 1 << 20
_FILE = re.compile(r"(?P<name>.+)[_-](?P<role>target|ref(?:erence)?[_-]?(?P<number>\d*))$", re.I)
_FOLDER = re.compile(r"(?:reference|ref|control)s?[_-]?(?P<number>\d*)$", re.I)


@dataclass(frozen=True)
class Example:
    """One thing to learn.

    Attributes:
        name: what messages and pictures of the training call it.
        prompt: the instruction.
        target: the picture that is wanted.
        references: the pictures beside it, image 1 first.
    """

    name: str
    prompt: str
    target: Path
    references: tuple[Path, ...] = ()


def read_examples(
    folder: str | Path, *, progress: Callable[[int, int], None] | None = None
) -> list[Example]:
    """The examples of a folder, or of a table with its pictures beside it; every file was read once.

    Args:
        progress: called with (examples looked at, examples in all).

    Raises:
        InputError: nothing there, or whatever is wrong with files: missing, damaged, without their
            counterpart, an empty instruction. Names up to twelve of them.
    """
    place = Path(folder).expanduser()
    if not place.exists():
        raise InputError(f"there is no training folder {place}; check the path")
    problems: list[str] = []
    examples = _found(place, problems)
    if not examples and not problems:
        raise InputError(
            f"there are no examples in {place}; expected NAME_target.png, NAME_ref1.png and NAME.txt, "
            "or the folders target and reference, or a metadata.jsonl"
        )
    if not problems:
        # Pictures last: they take the time.
        for number, example in enumerate(examples, 1):
            problems += _unreadable(example)
            if progress is not None:
                progress(number, len(examples))
    if problems:
        more = f"\n... and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
        listed = "\n".join(f"- {problem}" for problem in problems[:LISTED])
        raise InputError(
            f"the training folder {place} can't be used, nothing was started:\n{listed}{more}"
        )
    return examples


def _found(place: Path, problems: list[str]) -> list[Example]:
    if place.is_file():
        return list(_of_table(place, problems))
    for name in TABLES:
        if (place / name).is_file():
            return list(_of_table(place / name, problems))
    if (place / "target").is_dir():
        return list(_of_folders(place, problems))
    return list(_of_files(place, problems))


def _of_table(table: Path, problems: list[str]) -> Iterator[Example]:
    for row in read_rows(table):
        where = f"{table.name}, row {row.number}"
        if row.problem:
            problems.append(f"{where}: {row.problem}")
            continue
        values = {key.lower(): str(value) for key, value in row.values.items()}
        prompt = next((values[key] for key in PROMPTS if values.get(key)), "")
        target = values.get("target") or values.get("file_name")
        named = [(_order(key), value) for key, value in values.items() if _order(key) is not None]
        if not prompt.strip():
            problems.append(f"{where}: no prompt; expected one of the columns {', '.join(PROMPTS)}")
        if not target:
            problems.append(f"{where}: no target; expected a column target with a picture's path")
            continue
        names = (target, *(value for _, value in sorted(named)))  # type: ignore[type-var]
        paths = [_inside(table.parent, name, where, problems) for name in names]
        there = [path for path in paths if path is not None]
        if prompt.strip() and len(there) == len(names):
            yield Example(_called(row, target), prompt.strip(), there[0], tuple(there[1:]))


def _inside(folder: Path, name: str, where: str, problems: list[str]) -> Path | None:
    try:
        return inside(folder, name)
    except InputError as error:
        problems.append(f"{where}: {error}")
        return None


def _order(column: str) -> int | None:
    """The number of the reference that a column holds; None for other columns."""
    found = re.fullmatch(r"(?:image|ref|reference)[ _]?(\d*)", column)
    return None if found is None else int(found[1] or 1)


def _called(row: Row, target: str) -> str:
    return Path(target).stem if row.name.isdecimal() else row.name


def _of_files(folder: Path, problems: list[str]) -> Iterator[Example]:
    targets: dict[str, Path] = {}
    references: dict[str, dict[int, Path]] = {}
    texts = {composed(path.stem): path for path in _files(folder) if path.suffix.lower() == ".txt"}
    for path in _pictures(folder):
        found = _FILE.fullmatch(composed(path.stem))
        if found is None:
            problems.append(
                f"{path.name}: belongs to no example; expected a name that ends in _target, or in "
                "_ref1, _ref2, ..."
            )
            continue
        name, number = found["name"], int(found["number"] or 1)
        known = targets if found["role"].lower() == "target" else references.setdefault(name, {})
        key = name if known is targets else number
        if key in known:
            problems.append(f"{path.name}: {known[key].name} is there for the same; keep one")  # type: ignore[index]
        known[key] = path  # type: ignore[index]
    for name in sorted(references.keys() - targets.keys(), key=natural):
        first = next(iter(references[name].values()))
        problems.append(f"{first.name}: has no target; expected {name}_target{first.suffix}")
    for name, target in targets.items():
        text = texts.pop(name, None)
        prompt = _prompt(text, f"{name}.txt", problems)
        found_references = _in_order(references.get(name, {}), name, problems)
        if prompt:
            yield Example(name, prompt, target, found_references)
    problems += [f"{path.name}: has no picture {name}_target" for name, path in texts.items()]


def _of_folders(place: Path, problems: list[str]) -> Iterator[Example]:
    beside: dict[int, dict[str, Path]] = {}
    for folder in sorted(path for path in place.iterdir() if path.is_dir()):
        found = _FOLDER.fullmatch(folder.name)
        if found:
            pictures = {composed(path.stem): path for path in _pictures(folder)}
            beside[int(found["number"] or 1)] = pictures
    targets = {composed(path.stem): path for path in _pictures(place / "target")}
    for number, pictures in beside.items():
        problems += [
            f"{pictures[name].parent.name}/{pictures[name].name}: has no target; expected "
            f"target/{name}.png"
            for name in sorted(pictures.keys() - targets.keys(), key=natural)
        ]
        if number == 1:
            problems += [
                f"target/{targets[name].name}: has no reference of the same name; put one into "
                "the folder reference, or take the target away"
                for name in sorted(targets.keys() - pictures.keys(), key=natural)
            ]
    for name, target in targets.items():
        text = target.with_suffix(".txt")
        prompt = _prompt(text if text.is_file() else None, f"target/{name}.txt", problems)
        references = {number: found[name] for number, found in beside.items() if name in found}
        ordered = _in_order(references, name, problems)
        if prompt:
            yield Example(name, prompt, target, ordered)


def _files(folder: Path) -> list[Path]:
    try:
        found = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise InputError(f"the training folder {folder} can't be read ({error})") from error
    return sorted((path for path in found if path.is_file()), key=lambda path: natural(path.name))


def _pictures(folder: Path) -> list[Path]:
    return [path for path in _files(folder) if path.name.lower().endswith(PICTURE_SUFFIXES)]


def _prompt(text: Path | None, expected: str, problems: list[str]) -> str:
    if text is None:
        problems.append(f"{expected}: not there; expected the instruction as a text file")
        return ""
    try:
        words = read_small_text(text, LARGEST).strip()
    except (OSError, ValueError) as error:
        problems.append(f"{expected}: can't be read ({error}); save it as UTF-8")
        return ""
    if not words:
        problems.append(f"{expected}: is empty; write the instruction into it")
    return words


def _in_order(found: dict[int, Path], name: str, problems: list[str]) -> tuple[Path, ...]:
    numbers = sorted(found)
    if numbers != list(range(1, len(numbers) + 1)):
        problems.append(
            f"{name}: has references {', '.join(map(str, numbers))}; number them from 1 without a gap"
        )
    return tuple(found[number] for number in numbers)


def _unreadable(example: Example) -> Iterator[str]:
    if len(example.references) > MOST_REFERENCES:
        yield (
            f"{example.name}: has {len(example.references)} references; expected at most "
            f"{MOST_REFERENCES}"
        )
    for path in (example.target, *example.references):
        try:
            frames = load_image(path)
        except InputError as error:
            yield str(error)
            continue
        if len(frames) != 1:
            yield f"{path}: has {len(frames)} frames; expected one picture"
