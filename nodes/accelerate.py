"""Kontext: Accelerate: a MODEL whose runs leave work out, as a preset or every knob says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..kontext_core.accelerate import (
    BASES,
    PRESETS,
    Acceleration,
    Pruning,
    Region,
    Reuse,
    StepReuse,
)
from ..kontext_core.checks import check_choice
from .native import sockets
from .native.carried import ACCELERATION, Accelerated, carrying
from .notes import output
from .schema import make, widget

# The knobs' own preset.
CUSTOM = "custom"
CHOICES = (*PRESETS, CUSTOM)


def settings_of(
    warm_up: float = 0.15,
    full_at_end: int = 1,
    references_every: int = 4,
    skip_threshold: float = 0.0,
    skip_limit: int = 2,
    skip_order: int = 1,
    skip_basis: str = BASES[0],
    region_every: int = 1,
    region_similarity: float = Region.similarity,
    region_grow: int = Region.grow,
    keep_references: float = 1.0,
    references_order: int = Reuse.order,
) -> Acceleration | None:
    """What the knobs say; None where all means are off.

    Raises:
        InputError: a value out of range.
    """
    made = Acceleration(
        context=(
            Reuse(warm_up, references_every, full_at_end, references_order)
            if references_every > 1
            else None
        ),
        steps=(
            StepReuse(skip_threshold, warm_up, full_at_end, skip_limit, skip_order, skip_basis)
            if skip_threshold > 0
            else None
        ),
        region=(
            Region(warm_up, region_every, full_at_end, region_similarity, region_grow)
            if region_every > 1
            else None
        ),
        pruning=Pruning(keep_references, warm_up, last=full_at_end)
        if keep_references < 1
        else None,
    )
    return None if made == Acceleration() else made


def preset_of(name: str) -> Acceleration | None:
    """The settings of a preset; None for off.

    Raises:
        InputError: there is none of this name.
    """
    return PRESETS[check_choice(name, "preset", tuple(PRESETS))]


def accelerated(model: Any, preset: str) -> Any:
    """A MODEL from `check_model` whose runs are accelerated so; with off the one given.

    Raises:
        InputError: an unknown preset; a MODEL that the host has loaded.
    """
    settings = preset_of(preset)
    return model if settings is None else _with(model, settings, preset)


def _with(model: Any, settings: Acceleration, preset: str, node: str | None = None) -> Any:
    sockets().require_ours(model)
    return carrying(model, ACCELERATION, Accelerated(settings, preset, node))


class KontextAccelerate(io.ComfyNode):
    """MODEL to the same, faster and a little less exact."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        knob = "Only with preset custom."
        return make(
            node_id="KontextAccelerate",
            display_name="Kontext: Accelerate",
            description="Makes runs of a MODEL faster by leaving out work whose result hardly changes: "
            "references are computed in some steps only, steps that would repeat the last one are "
            "skipped, and what an edit leaves alone is not painted again. For KSampler and Kontext: "
            "Sampler alike. After a run it says what was left out.",
            search_aliases=[
                "kontext",
                "speed",
                "faster",
                "cache",
                "teacache",
                "first block cache",
                "easycache",
                "reuse",
                "turbo",
            ],  # fmt: skip
            # Has the notes sent again when the node itself is answered from the cache.
            has_intermediate_output=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="From Kontext: Load Model, with its LoRAs. A MODEL from ComfyUI's own "
                    "loaders can't be accelerated here.",
                ),
                io.Combo.Input(
                    "preset",
                    options=list(CHOICES),
                    default="balanced",
                    tooltip="off changes nothing. safe, balanced and fast leave out more and more: the "
                    "help page says what each does and costs in quality. custom: as the inputs below "
                    "say.",
                ),
                widget(
                    io.Float,
                    "warm_up",
                    optional=True,
                    default=0.15,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip=f"Share of the run at whose beginning every step is complete. {knob}",
                    advanced=True,
                ),
                widget(
                    io.Int,
                    "full_at_end",
                    optional=True,
                    default=1,
                    min=0,
                    max=1000,
                    tooltip=f"So many steps at the end are complete. {knob}",
                    advanced=True,
                ),
                widget(
                    io.Int,
                    "references_every",
                    optional=True,
                    default=4,
                    min=1,
                    max=1000,
                    tooltip="Every so many-th step computes the references anew, the others take what "
                    f"they said then. 1: every step. {knob}",
                    advanced=True,
                ),
                widget(
                    io.Float,
                    "skip_threshold",
                    optional=True,
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="A step is skipped after its first block where that changes the picture by "
                    f"less than this share of what it did before. 0: none; 0.08 to 0.12 are usual. {knob}",
                    advanced=True,
                ),
                widget(
                    io.Int,
                    "skip_limit",
                    optional=True,
                    default=2,
                    min=1,
                    max=1000,
                    tooltip=f"At most so many steps are skipped in a row. {knob}",
                    advanced=True,
                ),
                widget(
                    io.Int,
                    "skip_order",
                    optional=True,
                    default=1,
                    min=0,
                    max=2,
                    tooltip="How a skipped step is guessed: 0 repeats the last one, 1 goes on in a line, "
                    f"2 in a curve. {knob}",
                    advanced=True,
                ),
                widget(
                    io.Combo,
                    "skip_basis",
                    optional=True,
                    options=list(BASES),
                    default=BASES[0],
                    tooltip=f"Formula of the guess; hermite goes less far. {knob}",
                    advanced=True,
                ),
                widget(
                    io.Int,
                    "region_every",
                    optional=True,
                    default=1,
                    min=1,
                    max=1000,
                    tooltip="Every so many-th step paints the whole picture, the others only the part that "
                    "differs from the first reference of the target's size, or that the latent's noise "
                    f"mask lets change. 1: every step is whole. {knob}",
                    advanced=True,
                ),
                widget(
                    io.Float,
                    "region_similarity",
                    optional=True,
                    default=Region.similarity,
                    min=-1.0,
                    max=1.0,
                    step=0.01,
                    tooltip="A place counts as unchanged from this likeness to the reference on, a cosine. "
                    f"{knob}",
                    advanced=True,
                ),
                widget(
                    io.Int,
                    "region_grow",
                    optional=True,
                    default=Region.grow,
                    min=0,
                    max=64,
                    tooltip=f"By so many tokens of 16 pixels the part that changes is grown. {knob}",
                    advanced=True,
                ),
                widget(
                    io.Float,
                    "keep_references",
                    optional=True,
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the references' tokens that stay, those that are looked at most. 1: "
                    f"all of them. {knob}",
                    advanced=True,
                ),
                widget(
                    io.Int,
                    "references_order",
                    optional=True,
                    default=Reuse.order,
                    min=0,
                    max=1,
                    tooltip="What steps between take of the references: 0 what they said last, 1 goes on "
                    f"in a line from the last two times, with twice the memory. {knob}",
                    advanced=True,
                ),
                widget(
                    io.Boolean,
                    "keep_8_bit",
                    optional=True,
                    default=False,
                    tooltip="Keeps what references and unchanged parts said in 8 bits: half the memory, a "
                    "little less exact. With every preset.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Model.Output(
                    "accelerated",
                    display_name="MODEL",
                    tooltip="For KSampler, Kontext: Sampler or another sampler. LoRAs may come before or "
                    "after.",
                )
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, preset: str, keep_8_bit: bool = False, **knobs: Any
    ) -> io.NodeOutput:
        settings = settings_of(**knobs) if preset == CUSTOM else preset_of(preset)
        if settings is None:
            # Takes back what a node before has said.
            other = carrying(model, ACCELERATION, None)
            return output(other, notes=["off: nothing is left out"])
        if keep_8_bit:
            settings = replace(settings, bits=8)
        return output(_with(model, settings, preset, getattr(cls.hidden, "unique_id", None)))
