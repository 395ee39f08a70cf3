"""The graphs of the templates and of the help pages' pictures, as short as they can be said."""

from __future__ import annotations

from .embedded import WITH_EMBEDDED
from .files import FILES
from .first import FIRST
from .pages import PAGES
from .parts import Column, Graph, Node
from .published import WITH_FILES
from .ways import WAYS

__all__ = ["FILES", "PAGES", "TEMPLATES", "TITLES", "Column", "Graph", "Node"]

# The name of a template in the editor, the easiest first: the file's. Its key is the name of its
# twin in workflows/api, and what older links and commands say.
TITLES: dict[str, str] = {
    "one_node_edit": "01 Edit a picture with one node",
    "one_reference_edit": "02 Edit a picture step by step",
    "two_references": "03 Combine two pictures",
    "text_to_image": "04 Paint from words",
    "inpaint_with_mask": "05 Change only what a mask covers",
    "chain_of_two_turns": "06 Edit the result again",
    "batch": "07 Many edits with one Run",
    "ksampler_with_our_loaders": "08 Paint with the KSampler of ComfyUI",
    "gguf_edit": "09 Kontext from GGUF files",
    "fp8_with_lora": "10 Kontext in fp8 with a LoRA",
    "large_picture": "11 A large picture in tiles",
    "stitch_with_native_flux": "12 Stitch with a model that ComfyUI loads",
    "quantize": "13 Make a smaller model file",
    "extend_picture": "14 Extend a picture",
    "box_cue": "19 Point at something with a box",
    "style_of_a_picture": "20 Draw in the style of a picture",
    "replace_letters": "21 Replace letters",
    "new_scenes": "22 One thing in several scenes",
    "choose_among_candidates": "23 Choose among candidates",
}
TEMPLATES: dict[str, Graph] = {**FIRST, **WITH_EMBEDDED, **WAYS, **WITH_FILES}
