"""What graphs are made of: nodes, columns, and the nodes and notes that most of them share.

A graph is a list of columns, a column a list of nodes. Links are written at the input they end in:
"loader.0" is output 0 of the node called loader.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

BLUE, GREEN, OCHRE, PURPLE = "#3f789e", "#8A8", "#b58b2a", "#a1309b"
PICTURES = (
    "\n\nPictures missing? They lie in `workflows/input` of the pack: copy them to ComfyUI's `input` "
    "folder."
)
EMBEDDED = (
    "\n\nThe **embedded model** is tiny, runs on any CPU and knows only small drawn scenes. For "
    "photographs choose FLUX.1 Kontext files in the loaders."
)
LICENCE = "\n\nFLUX.1 Kontext [dev] has its own licence: read it on the page of the file."


@dataclass(frozen=True)
class Node:
    """`key` is its name in links; `values` holds widget values and links; `more` is extra height.
    `number` is its id where commands name it; others are numbered in order."""

    key: str
    type: str
    values: dict[str, Any] = field(default_factory=dict)
    title: str = ""
    more: int = 0
    number: int = 0


@dataclass(frozen=True)
class Column:
    title: str
    color: str
    width: int
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Graph:
    """`note` is the Markdown of its note; the columns become groups. `compare` names the outputs
    that ComfyUI's Compare Images shows: before and after."""

    note: str
    columns: tuple[Column, ...]
    compare: tuple[str, str] | None = None


def loaders(
    model: str = "embedded: tiny",
    t5: str = "embedded: tiny",
    clip_l: str = "embedded: tiny",
    vae: str = "embedded: tiny",
    *between: Node,
) -> Column:
    """The three loaders, and what stands between model and sampler."""
    return Column(
        "Model",
        BLUE,
        290,
        (
            Node("model", "KontextLoadModel", {"model_name": model}),
            Node("clip", "KontextLoadTextEncoders", {"t5_name": t5, "clip_l_name": clip_l}),
            Node("vae", "KontextLoadVAE", {"model_name": vae}),
            *between,
        ),
    )


def picture(key: str, name: str, title: str) -> Node:
    return Node(key, "LoadImage", {"image": name}, title, more=260)


def reference(key: str, number: int, **values: Any) -> Node:
    # ComfyUI 0.3.64 knows no advanced inputs and shows them all, which Nodes 2.0 draw higher.
    return Node(key, "KontextReference", values, f"Reference: image {number}", more=12)


def instruction(text: str, key: str = "text", title: str = "Instruction") -> Node:
    return Node(key, "CLIPTextEncode", {"clip": "clip.0", "text": text}, title, more=90)


def stitch(references: str, key: str = "stitch", text: str = "text", **values: Any) -> Node:
    links = {"conditioning": f"{text}.0", "references": f"{references}.0"}
    return Node(key, "KontextStitch", {**links, **values}, more=210)


def sampler(model: str = "model", key: str = "sampler", at: str = "stitch", **values: Any) -> Node:
    links = {"model": f"{model}.0", "positive": f"{at}.0", "latent_image": f"{at}.1"}
    return Node(key, "KontextSampler", {**links, **values}, more=160)


def for_ksampler() -> tuple[Node, Node]:
    """What stands before ComfyUI's own sampler: guidance 2.5, and a negative that is not used."""
    return (
        Node("guidance", "FluxGuidance", {"conditioning": "stitch.0", "guidance": 2.5}),
        Node("negative", "ConditioningZeroOut", {"conditioning": "text.0"}),
    )


def ksampler(seed: int, more: int = 0) -> Node:
    links = {"model": "model.0", "positive": "guidance.0", "negative": "negative.0"}
    how = {"seed": seed, "steps": 28, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}
    return Node("sampler", "KSampler", {**links, "latent_image": "stitch.1", **how}, more=more)


def save(image: str, prefix: str, title: str = "Result") -> Node:
    values = {"images": f"{image}.0", "filename_prefix": f"kontext/{prefix}"}
    return Node("save", "SaveImage", values, title, more=350)


def finish(at: str = "sampler", key: str = "finish", **values: Any) -> Node:
    return Node(key, "KontextFinish", {"samples": f"{at}.0", "vae": "vae.0", **values})


def reference_column(*nodes: Node, width: int = 290) -> Column:
    return Column("Reference", GREEN, width, nodes)


def words(*nodes: Node) -> Column:
    return Column("Instruction", OCHRE, 310, nodes)


def result(*nodes: Node) -> Column:
    return Column("Result", PURPLE, 300, nodes)
