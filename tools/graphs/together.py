"""Templates of several pictures: in one node, and on one canvas."""

from __future__ import annotations

from dataclasses import replace

from .masked import MASK
from .parts import (
    EMBEDDED,
    GREEN,
    OCHRE,
    PICTURES,
    PURPLE,
    Column,
    Graph,
    Node,
    finish,
    instruction,
    loaders,
    picture,
    result,
    sampler,
    save,
    stitch,
)

TOGETHER: dict[str, Graph] = {
    "several_in_one_node": Graph(
        "## Several pictures, one node\n\n*Kontext: References* has a socket for each picture, and one "
        "more as soon as the last is wired: *image_1* is image 1 of the instruction.\n\n- **names**, one "
        "a line, are for *Kontext: Names*.\n- Drag the pictures in *Kontext: Stitch* to places of their "
        "own.\n- For strength, mask or time of one of them chain a *Kontext: Reference*."
        + EMBEDDED
        + PICTURES,
        (
            loaders(),
            Column(
                "Pictures",
                GREEN,
                290,
                (
                    picture("thing", "kontext_star.png", "Image 1: the thing"),
                    picture("scene", "kontext_sunset.png", "Image 2: the background"),
                ),
            ),
            Column(
                "Instruction",
                OCHRE,
                310,
                (
                    Node(
                        "references",
                        "KontextReferences",
                        {"vae": "vae.0", "image_1": "thing.0", "image_2": "scene.0"},
                        more=150,
                    ),
                    instruction("put the star of image 1 on the background of image 2"),
                ),
            ),
            Column("Paint", PURPLE, 310, (stitch("references", like_image=2), sampler(seed=7))),
            result(finish(original="scene.0"), save("finish", "several_in_one_node")),
        ),
    ),
    "one_canvas": Graph(
        "## Several pictures on one canvas\n\n*Kontext: Arrange* cuts the circle out by its mask and puts "
        "it on the other picture; the model edits both as one picture.\n\n- **places**: a line for each "
        "picture, left, top, width and height. The first line is empty: the scene fills the canvas.\n"
        "- **layout** row, column and grid put pictures side by side.\n- Newer ComfyUI: draw places with "
        "*Create Bounding Boxes*, and connect its bboxes to **boxes**." + EMBEDDED + PICTURES,
        (
            Column(
                "Pictures",
                GREEN,
                290,
                (
                    picture("scene", "kontext_star.png", "The scene"),
                    picture("thing", "kontext_shapes.png", "The thing"),
                ),
            ),
            Column(
                "Canvas",
                GREEN,
                310,
                (
                    replace(MASK, title="Mask: white is shown"),
                    Node(
                        "canvas",
                        "KontextArrange",
                        {
                            "image_1": "scene.0",
                            "image_2": "thing.0",
                            "mask_2": "mask.0",
                            "layout": "places",
                            "places": "\n0.35, 0.2, 0.65, 0.65",
                        },
                        more=220,
                    ),
                ),
            ),
            Column(
                "Edit",
                OCHRE,
                350,
                (
                    Node(
                        "edit",
                        "KontextEdit",
                        {"image1": "canvas.0", "prompt": "make the background green", "seed": 1},
                        more=400,
                    ),
                ),
            ),
            result(
                Node("shown", "PreviewImage", {"images": "canvas.0"}, "The canvas", more=240),
                save("edit", "one_canvas"),
            ),
        ),
    ),
}
