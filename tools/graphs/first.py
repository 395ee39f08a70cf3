"""The first templates: one picture, two pictures, words alone. Commands name their nodes by number."""

from __future__ import annotations

from dataclasses import replace

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
    sampler,
    save,
    stitch,
    words,
)


def numbered(node: Node, number: int) -> Node:
    return replace(node, number=number)


FIRST: dict[str, Graph] = {
    "one_reference_edit": Graph(
        "## Edit one picture\n\nPress **Run**: the picture changes as the instruction says, the rest "
        'stays.\n\n- Also try: "make the circle purple", "make it night".\n- Without a latent, '
        "*Kontext: Stitch* paints in the size of the reference." + EMBEDDED + PICTURES,
        (
            loaders(),
            reference_column(
                numbered(picture("image", "kontext_shapes.png", "Picture"), 5),
                numbered(reference("one", 1, image="image.0", vae="vae.0"), 6),
            ),
            words(
                numbered(instruction("make the background blue"), 4),
                numbered(stitch("one"), 7),
            ),
            Column("Paint", PURPLE, 310, (numbered(sampler(seed=2), 8),)),
            result(
                numbered(finish(original="image.0"), 9),
                numbered(save("finish", "one_reference_edit"), 10),
            ),
        ),
        compare=("image.0", "finish.0"),
    ),
    "two_references": Graph(
        "## Two references\n\nPress **Run**: one thing of the first picture goes onto the background "
        "of the second.\n\n- **image 1** and **image 2** are numbered by the chain of *Kontext: "
        'Reference* nodes.\n- *Kontext: Stitch* draws where they stand.\n- Also try: "put the heart '
        'of image 2 on the background of image 1", "recolour image 1 as image 2".'
        + EMBEDDED
        + PICTURES,
        (
            loaders(),
            Column(
                "Reference",
                GREEN,
                290,
                (
                    numbered(picture("image", "kontext_star.png", "Picture"), 5),
                    numbered(reference("one", 1, image="image.0", vae="vae.0"), 7),
                ),
            ),
            Column(
                "Another reference",
                GREEN,
                290,
                (
                    numbered(picture("image2", "kontext_sunset.png", "Other picture"), 6),
                    numbered(
                        reference("two", 2, references="one.0", image="image2.0", vae="vae.0"), 8
                    ),
                ),
            ),
            words(
                numbered(instruction("put the star of image 1 on the background of image 2"), 4),
                numbered(stitch("two", like_image=2), 9),
            ),
            Column("Paint", PURPLE, 310, (numbered(sampler(seed=3), 10),)),
            result(
                numbered(finish(original="image2.0"), 11),
                numbered(save("finish", "two_references"), 13),
            ),
        ),
    ),
    "text_to_image": Graph(
        "## A picture from words\n\nPress **Run**. Without references the words go straight into "
        '*Kontext: Sampler*.\n\n- Also try: "a big yellow star at the top on a blue background".\n'
        "- Words alone are what this model does least well: try a few seeds.\n- *Size* is in pixels; "
        "the embedded model was trained at about 64." + EMBEDDED,
        (
            loaders(),
            Column(
                "Description",
                OCHRE,
                350,
                (
                    instruction(
                        "a big blue bunny in the middle on a yellow background",
                        title="Description",
                    ),
                    Node("size", "EmptySD3LatentImage", {"width": 64, "height": 64}, "Size"),
                ),
            ),
            Column(
                "Paint",
                PURPLE,
                310,
                (
                    Node(
                        "sampler",
                        "KontextSampler",
                        {"model": "model.0", "positive": "text.0", "latent_image": "size.0"},
                        more=160,
                    ),
                ),
            ),
            result(finish(), save("finish", "text_to_image")),
        ),
    ),
}
