"""Kontext: Load LoRA: a MODEL with a LoRA on it, as a low-rank branch or merged into the weights."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from .files import choices, complaint, find, stamp
from .native.lora import add_lora
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
    """MODEL to MODEL with a LoRA."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            node_id="KontextLoadLora",
            display_name="Kontext: Load LoRA",
            description="Puts a LoRA on a FLUX.1 MODEL, whatever tool made it and in whatever "
            "format the model's weights are. Chain several. The MODEL that comes in is not "
            "changed.",
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
                    options=choices("lora"),
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
            ],
            outputs=[
                io.Model.Output(
                    "patched",
                    display_name="MODEL",
                    tooltip="With the LoRA, for a sampler or another LoRA loader.",
                )
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
    def execute(cls, model: Any, lora_file: str, strength: float, mode: str) -> io.NodeOutput:
        if strength == 0:
            return output(model, notes=["strength is 0: not applied"])
        lora = load_file(lora_file or "")
        patched, report, notes = add_lora(model, lora, strength, merge=mode == "merge")
        # The core has logged the same, with the whole path.
        lines = [*replace(report, path=lora_file).lines(), *notes]
        if report.text_encoder:
            lines.append(
                "for the text encoders take the host's own LoRA loader with this file and a CLIP"
            )
        if not report.matched:
            lines.insert(
                0,
                "this LoRA changes nothing: no key of it fits this MODEL. It was made for another "
                "model, or for the text encoders alone; take one that was made for FLUX.1",
            )
        return output(patched, notes=lines)
