"""Kontext: Names: an instruction that calls references by name, written with their numbers."""

from __future__ import annotations

from comfy_api.latest import io

from ..kontext_core.names import write_numbers
from .conditioning import ReferenceChain
from .notes import output
from .schema import References, make


class KontextNames(io.ComfyNode):
    """Names into numbers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            node_id="KontextNames",
            display_name="Kontext: Names",
            description="Writes image 2 for the logo in an instruction, if the second Kontext: "
            "Reference is named so: the model knows pictures by number. What was replaced stands in "
            "the node after the run; nothing else is changed.",
            search_aliases=["kontext", "instruction", "prompt", "name", "image 1", "image 2"],
            # Has the notes sent again when the node itself is answered from the cache.
            has_intermediate_output=True,
            inputs=[
                io.String.Input(
                    "text",
                    multiline=True,
                    default="",
                    tooltip="What to do, with the references' names, for example \"put the logo on "
                    'the mug". Whole words, capitals or not, the longest name first; numbers still '
                    "work.",
                ),
                References.Input(
                    "references",
                    optional=True,
                    tooltip="The last of the chained Kontext: Reference nodes, which goes to "
                    "Kontext: Stitch too. Open: the text stays as it is.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "instruction",
                    display_name="text",
                    tooltip="The instruction with numbers, for CLIP Text Encode.",
                )
            ],
        )

    @classmethod
    def execute(cls, text: str, references: ReferenceChain | None = None) -> io.NodeOutput:
        items = references.items if references is not None else ()
        made = write_numbers(text, [one.name for one in items])
        notes = [
            f'"{written}" is image {number}{_times(made.found.count((written, number)))}'
            for written, number in made.found
        ]
        notes += [
            f'"{name}", the name of image {number}, is not in the text'
            for name, number in made.absent
        ]
        if made.found:
            notes.append(f"The model reads: {made.text}")
        return output(made.text, notes=notes)


def _times(count: int) -> str:
    return f", {count} times" if count > 1 else ""
