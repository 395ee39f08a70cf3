"""Inputs that several nodes have, declared once: their limits, defaults and words."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .schema import BoundingBox

MAX_SEED = 2**64 - 1
SAME_SEED = "Starting noise; the same seed and settings give the same picture."


def seed_input(tooltip: str = SAME_SEED) -> io.Int.Input:
    """0 to 2**64 - 1, with the widget that changes it after each run."""
    return io.Int.Input(
        "seed", default=0, min=0, max=MAX_SEED, control_after_generate=True, tooltip=tooltip
    )


def steps_input() -> io.Int.Input:
    return io.Int.Input(
        "steps",
        default=28,
        min=1,
        max=1000,
        tooltip="More is slower and cleaner. 28 suits FLUX.1 Kontext, the embedded model is done "
        "after 12.",
    )


def guidance_input(tooltip: str) -> io.Float.Input:
    """FLUX.1's own guidance, an input of the model."""
    return io.Float.Input("guidance", default=2.5, min=0.0, max=100.0, step=0.1, tooltip=tooltip)


def like_input(tooltip: str, last: int = 64) -> io.Int.Input:
    """Number of the image whose shape the result has. Optional: workflows of the first version
    lack it."""
    return io.Int.Input("like_image", optional=True, default=1, min=1, max=last, tooltip=tooltip)


def present_like(number: int, count: int) -> tuple[int, list[str]]:
    """The number of an image among so many, and a note where it is another than `number`.

    A reference that is bypassed, muted or not connected leaves the graph running: the last image
    there is takes the place of one that is missing.
    """
    if number <= count:
        return number, []
    there = "is 1 image" if count == 1 else f"are {count} images"
    return count, [f"like_image is {number}, but there {there}: the result is like image {count}"]


def boxes_input(tooltip: str) -> Any:
    """Boxes that another node draws or finds."""
    drawn = "From Create Bounding Boxes of newer ComfyUI, drawn at that size, or a detector."
    # Newer editors would show numbers of their own, which are always sent, instead of a socket.
    socket = {"forceInput": True}
    return BoundingBox.Input(
        "boxes", optional=True, tooltip=f"{tooltip} {drawn}", extra_dict=socket
    )


def picture_inputs(count: int, tooltip: str) -> list[Any]:
    """`image_1` to `image_<count>`. The editor shows as many as are wired, and one more
    (web/js/growing.js)."""
    return [
        io.Image.Input(f"image_{number}", optional=True, tooltip=tooltip.format(number))
        for number in range(1, count + 1)
    ]
