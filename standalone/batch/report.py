"""What a batch tells: before it runs, when it is stopped, and in the end; as text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kontext_core.tables.rows import COMMENT

from .columns import Columns
from .plan import PlannedRow
from .runner import Summary


def counts(summary: Summary) -> dict[str, int]:
    """How many rows ended how."""
    return {
        "done": summary.done,
        "already": summary.already,
        "failed": summary.failed,
        "left": summary.left,
    }


def as_json(summary: Summary, manifest: Path) -> dict[str, Any]:
    """All there is to know, row by row."""
    kept = ("row", "name", "event", "seed", "server", "seconds", "total_seconds", "lost", "error")
    rows = [
        {key: record[key] for key in kept if key in record}
        | ({"files": [entry["file"] for entry in record["files"]]} if "files" in record else {})
        for record in summary.records
    ]
    where = {"output": str(summary.folder), "manifest": str(manifest)}
    return {**counts(summary), **where, "rows": rows}


def as_text(summary: Summary, manifest: Path) -> str:
    """One line."""
    parts = [f"{summary.done} rows done"]
    if summary.already:
        parts.append(f"{summary.already} were done before")
    if summary.failed:
        parts.append(f"{summary.failed} failed")
    if summary.left:
        parts.append(f"{summary.left} left, as no server answers; run the command again")
    return f"{', '.join(parts)}: {manifest}"


def stopped_text(summary: Summary) -> str:
    """What Ctrl-C leaves."""
    finished = summary.done + summary.already
    total = finished + summary.failed + summary.left
    return f"{finished} of {total} rows are done; run the same command again to go on"


def planned_json(jobs: Sequence[PlannedRow], columns: Columns) -> str:
    """What would run, with the reason of each row that could not."""
    rows = [
        {"row": job.row.number, "name": job.row.name, "seed": job.seed, "error": job.problem}
        for job in jobs
    ]
    return json.dumps({"columns": _used(jobs, columns), "rows": rows}, indent=2)


def planned_text(jobs: Sequence[PlannedRow], columns: Columns) -> str:
    """The same for people."""
    lines = [f"column {name} -> {', '.join(to)}" for name, to in _used(jobs, columns).items()]
    for job in jobs:
        told = job.problem or f"seed {job.seed}, {len(job.pictures)} pictures"
        lines.append(f"row {job.row.number} {job.row.name}: {told}")
    bad = sum(bool(job.problem) for job in jobs)
    return "\n".join([*lines, f"{len(jobs) - bad} rows could run, {bad} could not"])


def _used(jobs: Sequence[PlannedRow], columns: Columns) -> dict[str, list[str]]:
    names = dict.fromkeys(name for job in jobs for name in job.row.values)
    kept = [name for name in names if not name.startswith(COMMENT)]
    return {name: [str(target) for target in columns.resolve(name)] for name in kept}
