"""Templates with a mask in sampling: where it holds for the whole picture, and around a region."""

from __future__ import annotations

from .parts import (
    EMBEDDED,
    GREEN,
    PURPLE,
    Column,
    Graph,
    Node,
    finish,
    instruction,
    loaders,
    picture,
    reference,
    result,
    sampler,
    save,
    stitch,
    words,
)

MASK = Node(
    "mask",
    "LoadImageMask",
    {"image": "kontext_mask.png", "channel": "red"},
    "Mask: white may change",
    more=180,
)

MASKED: dict[str, Graph] = {
    "masked_edit": Graph(
        "## Repaint only what the mask covers\n\nThe sampler repaints what is white. As a mask in "
        "sampling is never exact, *Kontext: Finish* then puts all other pixels back, to the bit.\n\n"
        "- **mask_mode** differential: grey says how much may change.\n- **match_colours**: no seam."
        + EMBEDDED,
        (
            loaders(),
            Column(
                "Picture", GREEN, 290, (picture("image", "kontext_shapes.png", "Picture"), MASK)
            ),
            words(
                reference("one", 1, image="image.0", vae="vae.0"),
                instruction("make the circle blue"),
            ),
            Column("Paint", PURPLE, 310, (stitch("one", mask="mask.0"), sampler(seed=4))),
            result(
                finish(original="image.0", mask="mask.0", feather=4, match_colours=True),
                save("finish", "masked_edit"),
            ),
        ),
    ),
    "crop_and_stitch": Graph(
        "## A small region in full detail\n\n*Kontext: Crop* shows the model what is around the mask, "
        "as large as it was trained; *Kontext: Paste* puts the edit into its place.\n\n- **context**: "
        "how much of the surroundings it sees.\n- Without a mask: the box of **x**, **y**, **width**, "
        "**height**." + EMBEDDED,
        (
            loaders(),
            Column(
                "Picture", GREEN, 290, (picture("image", "kontext_shapes.png", "Picture"), MASK)
            ),
            Column(
                "Crop",
                GREEN,
                290,
                (
                    Node(
                        "crop",
                        "KontextCrop",
                        {"image": "image.0", "mask": "mask.0", "vae": "vae.0", "context": 1.2},
                        more=60,
                    ),
                    reference("one", 1, image="crop.0", vae="vae.0"),
                ),
            ),
            words(instruction("make the circle blue"), stitch("one", mask="crop.1")),
            Column("Paint", PURPLE, 310, (sampler(seed=4),)),
            result(
                finish(),
                Node(
                    "paste", "KontextPaste", {"image": "finish.0", "crop": "crop.2", "feather": 4}
                ),
                save("paste", "crop_and_stitch"),
            ),
        ),
    ),
}
