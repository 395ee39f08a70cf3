"""Where rows run: what the scheduler asks of a server, and the ways a row can come back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event
from typing import Any, Protocol

from kontext_core.errors import KontextError

from .plan import PlannedRow


class RowFailed(KontextError):
    """The workflow raised an error; it would do so again."""


class RowRefused(KontextError):
    """This place can't run the row, another may: a missing file or node."""


class RowLost(KontextError):
    """The place is there, but has forgotten the row: it was restarted."""


class PlaceLost(KontextError):
    """The place no longer answers, and its rows with it."""


class Stopped(KontextError):
    """The batch is to end."""


@dataclass(frozen=True)
class Result:
    """A finished row: its files as (ending with the dot, content), and how long it ran."""

    files: list[tuple[str, bytes]] = field(default_factory=list)
    seconds: float | None = None


class Place(Protocol):
    """One server, or one worker of a cluster."""

    name: str

    def run(self, job: PlannedRow, sent: Callable[[str], None], stop: Event) -> Result:
        """Run a row to its end, or go on with the run it was `sent` as.

        Args:
            sent: to be called with the run's id before it goes out.

        Raises:
            RowFailed, RowRefused, RowLost, PlaceLost, Stopped: see there.
        """
        ...

    def answers(self) -> bool:
        """Whether it is there."""
        ...


def check_status(entry: dict[str, Any]) -> float | None:
    """The seconds that a run of the history took, if it says.

    Raises:
        RowFailed: it ended badly; the message names the node.
    """
    status = entry.get("status") or {}
    events = {str(event): data for event, data in status.get("messages") or []}
    if "execution_error" in events:
        data = events["execution_error"]
        kind = str(data.get("exception_type", "error")).rpartition(".")[2]
        raise RowFailed(
            f"node {data.get('node_id')} ({data.get('node_type')}): {kind}: "
            f"{str(data.get('exception_message', '')).strip()}"
        )
    if "execution_interrupted" in events:
        raise RowFailed("it was stopped on the server; run the batch again to repeat it")
    if status.get("status_str", "success") != "success":
        raise RowFailed("the server says no more than that it failed; look into its log")
    try:
        start, end = (events[f"execution_{word}"]["timestamp"] for word in ("start", "success"))
        return round((end - start) / 1000, 3)
    except (KeyError, TypeError):
        return None


def contents_of(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The files that a run of the history made, in the order of its nodes; previews only where it
    saved nothing."""
    outputs = entry.get("outputs") or {}
    found = [
        file
        for key in sorted(outputs, key=lambda key: (len(key), key))
        for files in outputs[key].values()
        if isinstance(files, list)
        for file in files
        if isinstance(file, dict) and isinstance(file.get("filename"), str)
    ]
    return [file for file in found if file.get("type", "output") == "output"] or found
