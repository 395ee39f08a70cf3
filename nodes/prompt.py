"""Kontext: Prompt: an instruction, and the phrases that tell Kontext what is to stay."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .notes import output
from .schema import make

# What to keep: the input, its phrase, and what people use it for. The phrases are such as Black Forest
# Labs' own prompting guide recommends: say what stays, not only what changes.
KEEP: dict[str, tuple[str, str]] = {
    "face": (
        "the same facial features, hairstyle and expression",
        "The person stays the same person.",
    ),
    "pose": ("the exact same position, scale and pose", "The subject stays where and how it is."),
    "framing": (
        "the same camera angle, framing and perspective",
        "The picture is not zoomed or turned.",
    ),
    "background": ("the same background", "Only what stands before it changes."),
    "light": ("the same lighting and shadows", "The light stays, whatever changes in it."),
    "style": ("the same artistic style", "A painting stays a painting."),
    "text": ("the same lettering, font and colour", "For words that are replaced by others."),
    "rest": ("everything else unchanged", "Whatever was not named stays."),
}


def instruction_of(instruction: str, keep: list[str]) -> str:
    """The instruction with ", while keeping ..." behind it, for these inputs of `KEEP`."""
    phrases = [KEEP[name][0] for name in keep]
    start = instruction.strip()
    if not phrases:
        return start
    listed = ", ".join(phrases[:-1]) + (" and " if len(phrases) > 1 else "") + phrases[-1]
    return f"{start.rstrip('.,; ')}, while keeping {listed}" if start else f"Keep {listed}"


class KontextPrompt(io.ComfyNode):
    """Words to words."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            node_id="KontextPrompt",
            display_name="Kontext: Prompt",
            description="Adds to an instruction what is to stay as it is, in phrases that FLUX.1 Kontext "
            "heeds. The whole text is shown in the node; nothing else is changed.",
            search_aliases=["kontext", "preset", "phrases", "keep", "preserve", "instruction"],
            has_intermediate_output=True,
            inputs=[
                io.String.Input(
                    "instruction",
                    multiline=True,
                    default="",
                    tooltip="What to change, in words. It stays as you wrote it; the phrases come behind.",
                ),
                *(
                    io.Boolean.Input(
                        f"keep_{name}", default=False, tooltip=f'Adds "{phrase}". {use}'
                    )
                    for name, (phrase, use) in KEEP.items()
                ),
            ],
            outputs=[
                io.String.Output(
                    "prompt",
                    display_name="STRING",
                    tooltip="For the text of CLIP Text Encode or the prompt of Kontext: Edit.",
                )
            ],
        )

    @classmethod
    def execute(cls, instruction: str, **keep: Any) -> io.NodeOutput:
        made = instruction_of(instruction, [name for name in KEEP if keep.get(f"keep_{name}")])
        return output(made, notes=[made] if made else [])
