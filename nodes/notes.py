"""What a run has to say to its user: sentences that a node shows below its widgets.

They travel as the list `kontext_notes` of a node's `ui` output, which web/js/notes.js shows and which
clients of the API find in the history. A node that speaks always sends it, empty too: the host joins
the lists of several executions, and an empty one takes the last run's away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

if TYPE_CHECKING:
    from ..kontext_core.cost import Cost
    from ..kontext_core.framing import Framing
    from ..kontext_core.stitcher import Placed

# Keys of ours in the host's dicts: what a text encoder has to say, in a CONDITIONING; which part of
# which picture a LATENT shows.
TEXT_NOTES = "kontext_text_notes"
FRAMING = "kontext_framing"


def output(*values: Any, notes: Sequence[str] = (), **ui: list[Any]) -> io.NodeOutput:
    """A node's outputs with its notes, each once, and what else the browser draws."""
    return io.NodeOutput(*values, ui={**ui, "kontext_notes": list(dict.fromkeys(notes))})


def told_by(conditioning: Any) -> list[str]:
    """What the text encoder had to say about an instruction."""
    entries = conditioning if isinstance(conditioning, list) else []
    return [note for _, extra in entries for note in extra.get(TEXT_NOTES, ())]


def order_notes(name: str, slots: Sequence[Any], before: int = 0) -> list[str]:
    """Pictures whose input has another number than the instruction has to use.

    Args:
        name: of the inputs, without their number.
        slots: what comes in at each, None where nothing does.
        before: images of the instruction that come first.
    """
    there = [number for number, one in enumerate(slots, 1) if one is not None]
    return [
        f"{name}{number} is image {place} of the prompt: "
        + ("a chain comes before it" if before else "an input before it is open")
        for place, number in enumerate(there, before + 1)
        if place != number
    ]


def batch_notes(name: str, count: int) -> list[str]:
    """A batch is easily taken for several references."""
    if count == 1:
        return []
    return [
        f"{name} is a batch of {count}: one reference for each of {count} results, not {count} "
        "references of one result. For several images of one instruction, give each its own input"
    ]


def size_notes(name: str, framing: Framing) -> list[str]:
    """A picture kept far larger than the model has learned to look at."""
    from ..kontext_core.cost import beyond_trained, tokens_of

    times = beyond_trained(framing.size, framing.trained)
    if times is None:
        return []
    width, height = framing.size
    return [
        f"{name} is kept at {width} x {height}: {tokens_of(width, height)} tokens, {times:.1f} "
        f"times the area that the model was trained at ({_size(framing.trained)}). Slow, and it may "
        "not be understood; fit 'trained size' brings it there"
    ]


def cost_notes(cost: Cost, trained: tuple[int, int] | None) -> list[str]:
    """A warning where the result is far larger than what the model was trained at.

    Args:
        trained: the size nearest to the result's shape that the model was trained at, if known.
    """
    from ..kontext_core.cost import beyond_trained

    times = beyond_trained((cost.width, cost.height), trained)
    if times is None or trained is None:
        return []
    return [
        f"{cost.width} x {cost.height} pixels are {times:.1f} times the area that the model was "
        f"trained at ({_size(trained)}): things may be doubled or misplaced. Paint at a trained size "
        "and enlarge the result"
    ]


def overlap_notes(layout: Sequence[Placed]) -> list[str]:
    """Images that a person has placed on each other, one sentence each."""
    from ..kontext_core.overlap import overlaps

    return [
        f"{_called(one.first)} and {_called(one.second)} share {one.tokens:g} places at the same t: "
        "the model may take them for one picture. Move one of them, or set placement to auto"
        for one in overlaps(layout)
    ]


def _called(number: int) -> str:
    return f"image {number}" if number else "the target"


def cost_payload(
    cost: Cost, trained: tuple[int, int] | None, like: int | None = None
) -> list[dict[str, Any]]:
    """Size and price of a run, as numbers and as a sentence ("said"), for clients.

    Args:
        trained: as for `cost_notes`.
        like: number of the image whose shape it is.
    """
    shape = f", the shape of image {like}" if like else ""
    beside = [f"{cost.text} of text"]
    if cost.references:
        count = len(cost.references)
        beside.append(f"{sum(cost.references)} of {count} reference{'s' if count > 1 else ''}")
    price = ""
    if cost.relative is not None:
        price = f". A step costs {_times(cost.relative)} that of a plain edit"
    said = (
        f"{cost.width} x {cost.height} pixels{shape}: {cost.target} tokens beside "
        f"{' and '.join(beside)}{price}"
    )
    return [{**asdict(cost), "total": cost.total, "trained": trained, "said": said}]


def _times(share: float) -> str:
    if math.isclose(share, 1, abs_tol=0.05):
        return "the same as"
    return f"{share:.0f} times" if share >= 10 else f"{share:.1f} times"


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
