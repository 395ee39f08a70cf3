"""Several pictures on every host: in one node, on one canvas; and boxes and layers that ComfyUI's own
nodes draw."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from host_client import Client


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def test_boxes_drawn_in_the_host(client: Client) -> None:
    """A box on a picture, and the same box as the place of a picture on another one."""
    if "CreateBoundingBoxes" not in client.get("/object_info"):
        pytest.skip("this host has no Create Bounding Boxes")
    # As the editor sends a list that is no link.
    drawn = {"__value__": [{"x": 64, "y": 32, "width": 128, "height": 128}]}
    prompt = {
        "1": node("LoadImage", image="kontext_star.png"),
        "2": node("LoadImage", image="kontext_shapes.png"),
        "3": node("CreateBoundingBoxes", width=256, height=256, editor_state=drawn),
        "4": node(
            "KontextBox", image=["1", 0], left=0.0, top=0.0, width=0.1, height=0.1,
            colour="magenta", line=0.03, boxes=["3", 1],
        ),
        "5": node(
            "KontextArrange", image_1=["1", 0], image_2=["2", 0], layout="places", gap=0, columns=0,
            background="white", width=0, height=0, places="", boxes=["3", 1],
        ),
        "6": node("SaveImage", images=["4", 0], filename_prefix="boxed"),
        "7": node("SaveImage", images=["5", 0], filename_prefix="arranged"),
    }  # fmt: skip
    run = client.run(prompt)
    assert run.ok, run.error
    pictures = {
        entry["filename"].partition("_")[0]: np.asarray(client.view(entry).convert("RGB")).astype(
            int
        )
        for entry in run.files()
    }
    boxed, arranged = pictures["boxed"], pictures["arranged"]
    # On the outline, and nothing of the four numbers.
    assert abs(boxed[33, 100] - [255, 0, 219]).max() <= 2
    assert abs(boxed[0, 10] - [255, 0, 219]).max() > 100
    # The green of the other picture within the box, this one's own background outside.
    assert abs(arranged[40, 70] - arranged[150, 180]).max() <= 4
    assert abs(arranged[40, 70] - arranged[10, 10]).max() > 40


def test_layers_of_the_host(client: Client) -> None:
    """A stack of layers on our canvas, and the host's own drawing of it, which a reference takes as it
    is: the same picture, where nothing is turned or blended."""
    if "ImageCompositor" not in client.get("/object_info"):
        pytest.skip("this host has no layers")
    prompt = {
        "1": node("LoadImage", image="kontext_star.png"),
        "2": node("LoadImage", image="kontext_shapes.png"),
        "3": node("AddLayer", image=["1", 0], x=0, y=0),
        "4": node(
            "AddLayer", layers=["3", 0], image=["2", 0], x=64, y=32, width=128, height=128, flip_h=True,
        ),
        "5": node("ImageCompositor", layers=["4", 0], compositor={}),
        "6": node(
            "KontextArrange", layers=["4", 0], layout="places", gap=0, columns=0, background="white",
            width=0, height=0, places="",
        ),
        "7": node("SaveImage", images=["5", 0], filename_prefix="theirs"),
        "8": node("SaveImage", images=["6", 0], filename_prefix="ours"),
        "9": node("KontextLoadVAE", model_name="embedded: tiny", precision="auto"),
        "10": node(
            "KontextReference", image=["5", 0], vae=["9", 0], strength=1.0, start=0.0, end=1.0,
            fit="trained size", placement="auto", t=1.0, dh=0.0, dw=0.0,
        ),
        "11": node(
            "KontextLoadTextEncoders", t5_name="embedded: tiny", clip_l_name="embedded: tiny",
            padding="256",
        ),
        "12": node("CLIPTextEncode", clip=["11", 0], text="make the star blue"),
        "13": node("KontextStitch", conditioning=["12", 0], references=["10", 0], method="offset"),
        "14": node(
            "KontextFinish", samples=["13", 1], vae=["9", 0], feather=0, other_shape="refuse"
        ),
        "15": node("PreviewImage", images=["14", 0]),
    }  # fmt: skip
    run = client.run(prompt)
    assert run.ok, run.error
    pictures = {
        entry["filename"].partition("_")[0]: np.asarray(client.view(entry).convert("RGB")).astype(
            int
        )
        for entry in run.files()
        if entry["type"] == "output"
    }
    theirs, ours = pictures["theirs"], pictures["ours"]
    assert theirs.shape == ours.shape
    # They resize with Lanczos, we with a bicubic curve: edges differ, places don't.
    # They also round down on their way through linear light. Measured: mean 0.82 of 255, no pixel by 8.
    away = abs(theirs - ours).max(-1)
    assert away.mean() < 1 and away.max() <= 8
    assert away[:30].max() <= 1
    [told] = [d["output"] for d in run.data("executed") if d["node"] == "13"]
    assert len(told["kontext_layout"]) == 2


def test_one_node_gives_what_a_chain_gives(client: Client) -> None:
    def prompt(references: dict[str, Any]) -> dict[str, Any]:
        return {
            "1": node("LoadImage", image="kontext_star.png"),
            "2": node("LoadImage", image="kontext_sunset.png"),
            "3": node("KontextLoadVAE", model_name="embedded: tiny", precision="auto"),
            "4": node(
                "KontextLoadTextEncoders", t5_name="embedded: tiny", clip_l_name="embedded: tiny",
                padding="256",
            ),
            "5": node("CLIPTextEncode", clip=["4", 0], text="put the star on the background"),
            **references,
            "8": node("KontextStitch", conditioning=["5", 0], references=["7", 0], method="offset"),
            "9": node("PreviewImage", images=["1", 0]),
            "10": node("KontextFinish", samples=["8", 1], vae=["3", 0], feather=0, other_shape="refuse"),
            "11": node("PreviewImage", images=["10", 0]),
        }  # fmt: skip

    given = {
        "strength": 1.0, "start": 0.0, "end": 1.0, "fit": "trained size", "placement": "auto",
        "t": 1.0, "dh": 0.0, "dw": 0.0,
    }  # fmt: skip
    chain = {
        "6": node("KontextReference", image=["1", 0], vae=["3", 0], **given),
        "7": node("KontextReference", references=["6", 0], image=["2", 0], vae=["3", 0], **given),
    }
    one = {
        "7": node(
            "KontextReferences", vae=["3", 0], image_1=["1", 0], image_2=["2", 0],
            fit="trained size", names="", positions="",
        )
    }  # fmt: skip
    layouts = []
    for references in (chain, one):
        run = client.run(prompt(references))
        assert run.ok, run.error
        [told] = [d["output"] for d in run.data("executed") if d["node"] == "8"]
        layouts.append(told["kontext_layout"])
    assert layouts[0] == layouts[1]
    assert [placed["tokens"] for placed in layouts[0]] == [16, 16, 16]
