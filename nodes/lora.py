"""Kontext: Load LoRA: a MODEL with a LoRA on it, as a low-rank branch or merged into the weights, and a
CLIP where the LoRA is for the text encoders too."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from .files import EMBEDDED_LORAS, choices, complaint, find, stamp
from .native.carried import FEW_STEPS, carrying
from .native.lora import add_lora
from .native.text_lora import add_text_lora
from .notes import output
from .schema import make

if TYPE_CHECKING:
    from ..kontext_core.lora.load import Lora

MODES = ("branch", "merge")
# Another strength for the same file must not read it again. Goes with the last MODEL that has it.
_loaded: weakref.WeakValueDictionary[tuple[str, str], Lora] = weakref.WeakValueDictionary()


def load_file(name: str) -> Lora:
    """A LoRA by its name in the node's list, the same object while the file stays as it is.

    Raises:
        ModelNotFoundError, CheckpointError: not there, or not a LoRA for this kind of model.
    """
    from ..kontext_core.lora.load import load_lora

    path: Path = find("lora", name)
    key = (str(path), stamp("lora", name))
    lora = _loaded.get(key)
    if lora is None:
        lora = _loaded[key] = load_lora(path)
    return lora


class KontextLoadLora(io.ComfyNode):
    """MODEL, and CLIP, to the same with a LoRA."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            node_id="KontextLoadLora",
            display_name="Kontext: Load LoRA",
            description="Puts a LoRA on a FLUX.1 MODEL, whatever tool made it and in whatever "
            "format the model's weights are, and on its CLIP where the file has a part for it. Chain "
            "several. What comes in is not changed.",
            search_aliases=["kontext", "lora", "lora loader", "lycoris", "dora", "style"],
            # Has the report sent again when the node itself is answered from the cache.
            has_intermediate_output=True,
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="From Kontext: Load Model, or another LoRA. A FLUX.1 from the host's "
                    "own loaders does as well; there every LoRA is merged.",
                ),
                io.Combo.Input(
                    "lora_file",
                    options=[*choices("lora"), *EMBEDDED_LORAS],
                    tooltip="A .safetensors file in models/loras, made for FLUX.1.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-20.0,
                    max=20.0,
                    step=0.05,
                    tooltip="1 as trained, 0 not at all, negative for the opposite.",
                ),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default=MODES[0],
                    tooltip="branch: beside the weights; works with every file, and another "
                    "strength costs nothing. merge: into a copy of the weights, for files in "
                    "float32, bfloat16 or float16; the run is as fast as without a LoRA.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The model's text encoders, for a LoRA that changes them too. Open: only "
                    "the MODEL is changed.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    "patched",
                    display_name="MODEL",
                    tooltip="With the LoRA, for a sampler or another LoRA loader.",
                ),
                io.Clip.Output(
                    "patched_clip",
                    display_name="CLIP",
                    tooltip="The text encoders with the LoRA, for Text Encode. Nothing comes out where "
                    "the input is open.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, lora_file: str | None = None) -> bool | str:
        """Says before the run where a missing file belongs."""
        return complaint("lora", lora_file) or True

    @classmethod
    def fingerprint_inputs(cls, lora_file: str | None = None, **_: Any) -> str:
        """Loads again what was replaced on disk."""
        return stamp("lora", lora_file)

    @classmethod
    def execute(
        cls, model: Any, lora_file: str, strength: float, mode: str, clip: Any = None
    ) -> io.NodeOutput:
        from ..kontext_core.lora.few_steps import few_steps, lora_notes
        from ..kontext_core.lora.report import Report

        if strength == 0:
            return output(model, clip, notes=["strength is 0: not applied"])
        lora = load_file(lora_file or "")
        patched, report, notes = add_lora(model, lora, strength, merge=mode == "merge")
        few = few_steps(lora) if report.matched else None
        if few is not None:
            patched = carrying(patched, FEW_STEPS, few)
        clip, texts = (clip, Report()) if clip is None else add_text_lora(clip, lora, strength)
        # The core has logged the same, with the whole path.
        shown = [
            replace(report, path=lora_file, text_encoder=()),
            *(replace(part, path=lora_file) for part in texts.loras),
        ]
        lines = [*Report(tuple(shown)).text().splitlines(), *notes, *_of_text(lora, clip)]
        lines += lora_notes(few, strength)
        if not report.matched and not texts.matched:
            lines.insert(0, _nothing(lora))
        return output(patched, clip, notes=lines)


def _of_text(lora: Lora, clip: Any) -> list[str]:
    """What becomes of the keys for text encoders."""
    from ..kontext_core.lora.text import unplaced

    if not lora.text_encoder:
        return []
    if clip is None:
        return [
            f"{len(lora.text_encoder)} keys are for the text encoders: connect clip, and use the CLIP "
            "that comes out, or they have no effect"
        ]
    lost = unplaced(lora)
    return (
        [f"{len(lost)} keys for text encoders matched nothing, such as {lost[0]}"] if lost else []
    )


def _nothing(lora: Lora) -> str:
    why = "It was made for another model; take one that was made for FLUX.1"
    if not lora.entries and lora.encoders:
        why = "It is for FLUX.1's text encoders alone: connect clip, and a CLIP of T5 and CLIP-L"
    return f"this LoRA changes nothing: no key of it fits what is connected. {why}"
