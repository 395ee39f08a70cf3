"""What a batch will do: a filled workflow, its pictures and a key for every row."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kontext_core.errors import InputError
from kontext_core.tables.names import inside, plain_name
from kontext_core.tables.rows import COMMENT, Row, Scalar

from ..prompt import SEEDS, Prompt, is_link, seeds_of
from .columns import Columns, NodeInput

# Of a random seed: the editor's numbers are exact up to 2^53.
RANDOM_SEEDS = 1 << 53


@dataclass(frozen=True)
class Picture:
    """A file that a row's workflow reads. `digest` is the SHA-256 of its content, in hex."""

    target: NodeInput
    path: Path
    digest: str


@dataclass
class PlannedRow:
    """One row, ready to run unless it has a `problem`.

    `key` stands for all that decides its result: equal keys in two commands are the same row.
    """

    row: Row
    key: str = ""
    prompt: Prompt = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)
    problem: str = ""
    has_seed: bool = False
    # While it runs: how often a server was lost with it, who refused it, and where it is, as
    # (server, prompt id), with the seed it went there with.
    attempts: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    sent: tuple[str, str] | None = None
    sent_seed: int | dict[str, int] | None = None

    @property
    def seed(self) -> int | dict[str, int] | None:
        """What its noise starts from."""
        return seeds_of(self.prompt)

    def with_pictures(self, names: dict[str, str]) -> Prompt:
        """The prompt to send, `names` giving what the server calls each picture, by digest."""
        prompt = {
            key: {**node, "inputs": dict(node["inputs"])} for key, node in self.prompt.items()
        }
        for picture in self.pictures:
            target = picture.target
            prompt[target.node]["inputs"][target.input] = names[picture.digest]
        return prompt


def check_columns(columns: Columns, rows: list[Row], common: dict[str, Scalar]) -> None:
    """Refuses a misspelt column before anything has run.

    Raises:
        InputError: a column that the workflow can't take.
    """
    names = dict.fromkeys([*common, *(name for row in rows for name in row.values)])
    for name in names:
        if not name.startswith(COMMENT):
            columns.resolve(name)


def make_jobs(
    rows: list[Row],
    columns: Columns,
    folder: Path,
    common: dict[str, Scalar] | None = None,
    seed: str = "keep",
) -> list[PlannedRow]:
    """A job for every row; what is wrong with a row is its job's `problem`.

    Args:
        folder: where the pictures that rows name lie.
        common: values of all rows that have none of their own in that column.
        seed: "keep", "random" or a number, see `apply_seed`; part of the keys.

    Raises:
        InputError: a column that the workflow can't take.
    """
    check_columns(columns, rows, common or {})
    digests: dict[Path, str] = {}
    jobs: list[PlannedRow] = []
    seen: Counter[str] = Counter()
    for row in rows:
        job = _job(row, columns, folder, common or {}, digests)
        job.key = _key(job, seed)
        seen[job.key] += 1
        if seen[job.key] > 1:
            job.key += f"-{seen[job.key]}"
        jobs.append(job)
    return jobs


def apply_seed(job: PlannedRow, seed: str, nonce: str) -> None:
    """Gives a row without a seed of its own one: as in the workflow ("keep"), a random one that
    stays the same under one `nonce` ("random"), or so many more than a number as rows came before.

    Raises:
        InputError: another word.
    """
    if seed == "keep" or job.has_seed or job.problem:
        return
    if seed == "random":
        text = hashlib.sha256(f"{nonce} {job.key}".encode()).hexdigest()
        value = int(text, 16) % RANDOM_SEEDS
    elif seed.isdecimal():
        value = int(seed) + job.row.number - 1
    else:
        raise InputError(f"seed is {seed!r}; expected keep, random, or a whole number from 0")
    for node in job.prompt.values():
        for name in SEEDS:
            if name in node["inputs"] and not is_link(node["inputs"][name]):
                node["inputs"][name] = value


def _job(
    row: Row,
    columns: Columns,
    folder: Path,
    common: dict[str, Scalar],
    digests: dict[Path, str],
) -> PlannedRow:
    job = PlannedRow(row, problem=row.problem)
    own = {key: value for key, value in row.values.items() if not key.startswith(COMMENT)}
    values = {**common, **own}
    try:
        job.prompt, named = columns.fill(values)
        for target, name in named:
            path = inside(folder, name)
            if path not in digests:
                digests[path] = _digest(path)
            job.pictures.append(Picture(target, path, digests[path]))
        targets = [target for column in values for target in columns.resolve(column)]
        job.has_seed = any(target.input in SEEDS for target in targets)
        for target in targets:
            if target.input == "filename_prefix":
                plain_name(str(job.prompt[target.node]["inputs"][target.input]))
    except InputError as error:
        job.problem = job.problem or str(error)
    return job


def _digest(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"the picture {path} can't be read ({error})") from error
    if not content:
        raise InputError(f"the picture {path} is empty; copy it anew")
    return hashlib.sha256(content).hexdigest()


def _key(job: PlannedRow, seed: str) -> str:
    if job.problem:
        # It never ran, so it only has to differ from all that did.
        return f"problem {secrets.token_hex(8)}"
    parts: list[Any] = [
        {key: [node["class_type"], node["inputs"]] for key, node in job.prompt.items()},
        [[str(picture.target), picture.digest] for picture in job.pictures],
        job.row.name,
        "keep" if job.has_seed else seed,
    ]
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:32]
