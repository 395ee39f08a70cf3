"""`session`: the turns of a session file, and their pictures."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..session import Turn


def add_session(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    session = commands.add_parser(
        "session", help="list the turns of a session file, and write their pictures"
    )
    session.add_argument("file", metavar="FILE", help="a .kontext file")
    session.add_argument("--export", metavar="FOLDER", help="write pictures as turn_0003.png there")
    session.add_argument(
        "--turn", type=int, action="append", metavar="N", help="export this turn only; may repeat"
    )
    session.add_argument("--json", action="store_true", help="list as JSON")
    session.set_defaults(run=run)


def run(options: argparse.Namespace) -> str:
    """The list, or the paths that were written."""
    from ..session import Session

    session = Session(options.file)
    if options.export is not None:
        return "\n".join(str(path) for path in session.export(options.export, options.turn))
    turns = session.turns()
    if options.json:
        return json.dumps([asdict(turn) for turn in turns], indent=2)
    return as_text(turns)


def as_text(turns: Sequence[Turn]) -> str:
    """One line a turn: number, parent, words, seed, time, note."""
    lines = []
    for turn in turns:
        came = "start" if turn.parent is None else f"from {turn.parent}, seed {turn.seed}"
        words = f": {ascii(turn.prompt)}" if turn.prompt else ""
        note = f" ({ascii(turn.note)[1:-1]})" if turn.note else ""
        lines.append(f"{turn.number:4}  {turn.created}  {came}{words}{note}")
    return "\n".join(lines) or "no turns yet"
