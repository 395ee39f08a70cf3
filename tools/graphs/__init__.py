"""The graphs of the templates and of the help pages' pictures, as short as they can be said."""

from __future__ import annotations

from .embedded import WITH_EMBEDDED
from .files import FILES
from .first import FIRST
from .masked import MASKED
from .pages import PAGES
from .parts import Column, Graph, Node
from .published import WITH_FILES
from .sessions import SESSIONS
from .together import TOGETHER
from .training import TRAINING
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
    "masked_edit": "09 Repaint only what a mask covers",
    "crop_and_stitch": "10 Edit a small region in full detail",
    "extend_picture": "11 Extend a picture",
    "box_cue": "12 Point at something with a box",
    "style_of_a_picture": "13 Draw in the style of a picture",
    "replace_letters": "14 Replace letters",
    "pictures_by_name": "15 Call pictures by name",
    "new_scenes": "16 One thing in several scenes",
    "session_of_turns": "17 Edit turn by turn in a session",
    "choose_among_candidates": "18 Choose among candidates",
    "several_in_one_node": "19 Several pictures in one node",
    "one_canvas": "20 Several pictures on one canvas",
    "ten_turns": "21 Ten turns in one node",
    "accelerated_edit": "22 Paint faster",
    "train_lora": "23 Teach it a new thing",
    "gguf_edit": "24 Kontext from GGUF files",
    "fp8_with_lora": "25 Kontext in fp8 with a LoRA",
    "large_picture": "26 A large picture in tiles",
    "stitch_with_native_flux": "27 Stitch with a model that ComfyUI loads",
    "quantize": "28 Make a smaller model file",
}
TEMPLATES: dict[str, Graph] = {
    **FIRST,
    **WITH_EMBEDDED,
    **MASKED,
    **WAYS,
    **TOGETHER,
    **SESSIONS,
    **WITH_FILES,
    **TRAINING,
}
