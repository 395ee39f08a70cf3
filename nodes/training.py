"""What a training node shows while it runs, and where its files lie."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ..kontext_core.errors import InputError
from .files import own_folder
from .host import get_host

if TYPE_CHECKING:
    from ..kontext_core.finetune import TrainProgress

# What the editor's panel listens to.
EVENT = "kontext.training"
# Seconds between two messages, points of a curve, rows of pictures that are kept.
PAUSE, POINTS, ROWS = 0.5, 200, 4
RUNS = "kontext_training"


def lora_paths(name: str) -> tuple[str, Path, Path]:
    """(name in the loaders' lists, the LoRA's file, folder of its run) for a name the user gave.

    Raises:
        InputError: a name that leads out of the folder, or a host without an output folder.
    """
    plain = name.strip().replace("\\", "/").removesuffix(".safetensors")
    below = PurePosixPath(plain)
    bad = not below.parts or below.is_absolute() or ".." in below.parts
    if bad or any(ord(letter) < 32 or letter in ':*?"<>|' for letter in plain):
        raise InputError(
            f"name is {name[:80]!r}; expected a plain one, such as my_style or clients/my_style"
        )
    output = get_host().output_folder()
    if output is None:
        raise InputError("there is no output folder here for the training: run inside ComfyUI")
    return (
        f"{below}.safetensors",
        own_folder("lora") / f"{below}.safetensors",
        output / RUNS / below,
    )


@dataclass
class Panel:
    """Sends the state of a training to the editor, not more often than anybody can look.

    Args:
        node: the node's id, by which the editor finds it.
        earlier: (step, loss) of a run that is gone on with.
    """

    node: str
    steps: int
    losses: list[tuple[int, float]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    sent: float = 0.0

    def after(self, progress: TrainProgress) -> None:
        """A step is done."""
        from .preview import thumbnail

        self.losses.append((progress.step, progress.loss))
        if progress.pictures:
            shown = [thumbnail(picture) for picture in progress.pictures]
            self.rows = [*self.rows, {"step": progress.step, "pictures": shown}][-ROWS:]
        last = progress.step == progress.steps
        if progress.pictures or last or time.monotonic() - self.sent >= PAUSE:
            self.show("running")

    def show(self, state: str) -> None:
        """Tell the editor now."""
        self.sent = time.monotonic()
        get_host().tell(EVENT, {"node": self.node, **self.report(state)})

    def report(self, state: str) -> dict[str, Any]:
        """What the panel draws; `state` is "running", "stopped" or "done"."""
        step = self.losses[-1][0] if self.losses else 0
        return {
            "state": state,
            "step": step,
            "steps": self.steps,
            "curve": curve(self.losses),
            "rows": self.rows,
        }


def curve(losses: Sequence[tuple[int, float]], most: int = POINTS) -> list[list[float]]:
    """At most so many points [step, loss], each the mean of the steps since the one before."""
    size = -(-len(losses) // most) or 1
    parts = [losses[start : start + size] for start in range(0, len(losses), size)]
    return [[part[-1][0], round(sum(loss for _, loss in part) / len(part), 5)] for part in parts]
