"""Templates of what people edit for: pointing, styles, letters, one thing in several scenes, a choice."""

from __future__ import annotations

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
    reference,
    reference_column,
    result,
    save,
    stitch,
    words,
)


def _edited(name: str, note: str, file: str, text: str, seed: int, *between: Node) -> Graph:
    """A picture, what stands between it and Kontext: Edit, and the result."""
    shown = f"{between[-1].key if between else 'image'}.0"
    values = {"image1": shown, "prompt": text, "seed": seed}
    return Graph(
        note + EMBEDDED + PICTURES,
        (
            Column("Picture", GREEN, 290, (picture("image", file, "Picture"), *between)),
            Column("Edit", OCHRE, 350, (Node("edit", "KontextEdit", values, more=400),)),
            result(save("edit", name)),
        ),
        compare=("image.0", "edit.0"),
    )


WAYS: dict[str, Graph] = {
    "box_cue": _edited(
        "box_cue",
        "## Point at something\n\nPress **Run**: *Kontext: Box* draws a box into the picture, the "
        "instruction speaks of it, and the result comes without it.\n\n- Move the box by its four "
        "numbers, or open the mask editor of *Load Image*, paint over what is meant and connect its "
        'MASK to *Kontext: Box*.\n- Also try: "make the thing in the box blue".',
        "kontext_shapes.png",
        "remove what is in the box",
        1,
        Node(
            "box",
            "KontextBox",
            {"image": "image.0", "left": 0.55, "top": 0.25, "width": 0.4, "height": 0.45},
        ),
    ),
    "style_of_a_picture": _edited(
        "style_of_a_picture",
        "## Draw in the style of a picture\n\nPress **Run**: the picture gives its style, the words what "
        'is drawn in it.\n\n- For photographs: "using this style, a bunny, a dog and a cat are having a '
        'tea party".\n- The result has the size of the picture; width and height give another.',
        "kontext_neon.png",
        "in the style of this picture draw a red heart in the middle on a black background",
        1,
    ),
    "replace_letters": _edited(
        "replace_letters",
        "## Replace letters\n\nPress **Run**: the letter becomes another one, its colour and place "
        "stay.\n\n- On real signs, quote both: \"replace 'joy' with 'BFL'\".\n- Say what stays: "
        "*Kontext: Prompt* has a phrase for lettering.",
        "kontext_letter.png",
        "replace the A with the letter C",
        1,
    ),
    "choose_among_candidates": Graph(
        "## Choose among candidates\n\nPress **Run**: four seeds are stopped after a few steps, and "
        "*Kontext: Compare* shows what they will become.\n\n- Write the numbers of the best into **pick** "
        "and press Run again: only those are finished.\n- Empty **pick** for a new look, and change the "
        "seed for other candidates." + EMBEDDED + PICTURES,
        (
            loaders(),
            reference_column(
                picture("image", "kontext_star.png", "Picture"),
                reference("one", 1, image="image.0", vae="vae.0"),
            ),
            words(
                instruction("the same star in the top left on a green background"), stitch("one")
            ),
            Column(
                "Candidates",
                PURPLE,
                310,
                (
                    Node(
                        "candidates",
                        "KontextCandidates",
                        {
                            "model": "model.0",
                            "positive": "stitch.0",
                            "latent_image": "stitch.1",
                            # A scorer can be chosen without another wire.
                            "vae": "vae.0",
                            "original": "image.0",
                            "look": 4,
                            "steps": 12,
                        },
                        # The picture of a run in progress, and what is said of it.
                        more=240,
                    ),
                    finish("candidates", original="image.0"),
                ),
            ),
            Column(
                "Result",
                PURPLE,
                340,
                (
                    Node(
                        "compare",
                        "KontextCompare",
                        {"before": "image.0", "after": "finish.0"},
                        more=300,
                    ),
                    save("finish", "choose_among_candidates"),
                ),
            ),
        ),
    ),
    "new_scenes": Graph(
        "## One thing, several scenes\n\nPress **Run**: *Kontext: Batch* reads a scene from each line, and "
        "the thing of the picture is painted into each.\n\n- One line, one picture; every file is saved.\n"
        "- For people: say what stays (*Kontext: Prompt* has phrases), and change one thing a line."
        + EMBEDDED
        + PICTURES,
        (
            Column("Picture", GREEN, 290, (picture("image", "kontext_star.png", "Picture"),)),
            Column(
                "Scenes",
                OCHRE,
                380,
                (
                    Node(
                        "batch",
                        "KontextBatch",
                        {
                            "images": "image.0",
                            "lines": "the same star in the top left on a green background\n"
                            "the same star in the middle on a black background\n"
                            "the same star at the bottom on a white background",
                            "name_prefix": "kontext/scene_",
                        },
                        more=120,
                    ),
                ),
            ),
            Column(
                "Paint",
                PURPLE,
                350,
                (
                    Node(
                        "edit",
                        "KontextEdit",
                        {"image1": "batch.0", "prompt": "batch.1", "seed": "batch.3", "steps": 12},
                        more=200,
                    ),
                ),
            ),
            result(
                Node(
                    "save",
                    "SaveImage",
                    {"images": "edit.0", "filename_prefix": "batch.2"},
                    "Result",
                    more=380,
                )
            ),
        ),
    ),
}
