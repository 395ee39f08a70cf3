"""The benchmark's graphs for ComfyUI, in API format: so many pictures, Kontext: Edit, a picture to save."""

from __future__ import annotations

from typing import Any

# The embedded model's size of a square, which every answer of the benchmark is.
EMBEDDED = 64


def edit_graph(count: int) -> dict[str, Any]:
    """A prompt that takes the columns of `rows/COUNT.jsonl`, on the embedded model.

    Args:
        count: of pictures, 1..3, as Kontext: Edit takes them.
    """
    embedded = "embedded: tiny"
    loaders = {
        "1": _node("KontextLoadModel", "Model", model_name=embedded, precision="auto"),
        "2": _node("KontextLoadTextEncoders", "Text encoders", t5_name=embedded, clip_l_name=embedded),
        "3": _node("KontextLoadVAE", "VAE", model_name=embedded, precision="auto"),
    }  # fmt: skip
    pictures = {
        str(3 + number): _node("LoadImage", f"Image {number}", image="kontext_star.png")
        for number in range(1, count + 1)
    }
    images = {f"image{number}": [str(3 + number), 0] for number in range(1, count + 1)}
    edit = _node(
        "KontextEdit", "Answer", **images, model=["1", 0], clip=["2", 0], vae=["3", 0], prompt="answer",
        seed=0, steps=28, guidance=2.5, width=EMBEDDED, height=EMBEDDED, like_image=1,
    )  # fmt: skip
    save = _node("SaveImage", "Result", images=["10", 0], filename_prefix="anchor")
    return {**loaders, **pictures, "10": edit, "11": save}


def _node(kind: str, title: str, **inputs: Any) -> dict[str, Any]:
    return {"inputs": inputs, "class_type": kind, "_meta": {"title": title}}
