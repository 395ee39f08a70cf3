"""Makes the tables of docs/hosts.md out of real test runs: python hosts_table.py RESULT.xml ...

The results are what `pytest --junitxml=RESULT.xml` wrote. Each run replaces the cells that it touched
in docs/hosts.json, the rest stay as they were, each with its date; the tables are that file, drawn.
"""

from __future__ import annotations

import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "docs/hosts.json"
PAGE = ROOT / "docs/hosts.md"
BEGIN, END = "<!-- made by tests/support/hosts_table.py -->", "<!-- end -->"

# What a column is called, and which test modules count for it.
AREAS = {
    "nodes and runs": r"tests\.api\.test_conformance_(schema|run|errors|files|bypass|templates)",
    "saved earlier": r"tests\.api\.test_conformance_saved",
    "no footprint, other packs": r"tests\.api\.test_conformance_crowd",
    "native types": r"tests\.native\.",
    "published files": r"tests\.api\.test_conformance_published",
    "batch": r"tests\.api\.test_batch_hosts",
    "comfy-cli": r"tests\.api\.test_clients_cli",
    "comfy-api-simplified": r"tests\.api\.test_clients_simplified",
    "ComfyScript": r"tests\.api\.test_clients_script",
}
WEB = r"tests\.web\."
RENDERERS = ("canvas", "vue")
HOST = re.compile(r"(standalone|comfyui-\d+(?:\.\d+)+)(?:-(?:own-)?(\d+\.\d+\.\d+))?")


@dataclass(frozen=True)
class Result:
    """One test on one host: where it counts, how it ended ("pass", "fail", "skip"), and when."""

    host: str
    column: str
    outcome: str
    date: str


def read(path: Path) -> list[Result]:
    """Every test of a junit file that ran on a host; tests without one are left out."""
    found = []
    for suite in ElementTree.parse(path).getroot().iter("testsuite"):
        date = suite.get("timestamp", "")[:10]
        for case in suite.iter("testcase"):
            place = _place(case.get("classname", ""), case.get("name", ""))
            if place is not None:
                found.append(Result(*place, _outcome(case), date))
    return found


def _place(module: str, name: str) -> tuple[str, str] | None:
    match = HOST.search(name)
    if match is None:
        return None
    host, frontend = match.groups()
    if re.match(WEB, module):
        drawn = next((r for r in RENDERERS if re.search(rf"[-\[]{r}[-\]]", name)), None)
        if drawn is None:
            drawn = "vue" if "nodes_2" in name else "canvas"
        return host, f"{frontend or 'own'} {drawn}"
    for column, pattern in AREAS.items():
        if re.match(pattern, module):
            return host, column
    return None


def _outcome(case: ElementTree.Element) -> str:
    if case.find("failure") is not None or case.find("error") is not None:
        return "fail"
    return "skip" if case.find("skipped") is not None else "pass"


def merge(record: dict[str, Any], results: Iterable[Result]) -> dict[str, Any]:
    """The record with the cells of these results new: {host: {column: {pass, fail, skip, date}}}."""
    fresh: dict[str, dict[str, Any]] = {}
    for result in results:
        cell = fresh.setdefault(result.host, {}).setdefault(
            result.column, {"pass": 0, "fail": 0, "skip": 0, "date": result.date}
        )
        cell[result.outcome] += 1
        cell["date"] = max(cell["date"], result.date)
    hosts = {*record, *fresh}
    return {
        h: dict(sorted({**record.get(h, {}), **fresh.get(h, {})}.items())) for h in sorted(hosts)
    }


def draw(record: dict[str, Any]) -> str:
    """Both tables as Markdown."""
    hosts = sorted(record, key=lambda name: (name != "standalone", _version(name)))
    columns = [c for c in AREAS if any(c in record[h] for h in hosts)]
    lines = [f"| host | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    for host in hosts:
        cells = [_cell(record[host].get(column)) for column in columns]
        lines.append(f"| {_shown(host)} | {' | '.join(cells)} |")
    lines += ["", "| host | frontend | canvas | Vue nodes |", "|---|---|---|---|"]
    for host in hosts:
        drawn = {tuple(c.split(" ")) for c in record[host] if c not in AREAS}
        for frontend in sorted({f for f, _ in drawn}, key=_version):
            cells = [_cell(record[host].get(f"{frontend} {r}")) for r in RENDERERS]
            lines.append(f"| {_shown(host)} | {frontend} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _version(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", name))


def _shown(host: str) -> str:
    return "embedded host" if host == "standalone" else host.replace("comfyui-", "ComfyUI ")


def _cell(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "not run"
    if not cell["pass"] and not cell["fail"]:
        return "skipped"
    failed = f"**{cell['fail']} failed**, " if cell["fail"] else ""
    skipped = f", {cell['skip']} skipped" if cell["skip"] else ""
    return f"{failed}{cell['pass']} passed{skipped} ({cell['date']})"


def write(page: str, tables: str) -> str:
    """The page with the tables between its two marks. Raises ValueError without them."""
    before, found, rest = page.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise ValueError(f"{PAGE.name} lacks the lines {BEGIN!r} and {END!r} around its tables")
    return f"{before}{BEGIN}\n{tables}\n{END}{after}"


def main(paths: list[str]) -> None:
    """Merge, and write both files anew."""
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    for path in paths:
        record = merge(record, read(Path(path)))
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(write(PAGE.read_text(encoding="utf-8"), draw(record)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
