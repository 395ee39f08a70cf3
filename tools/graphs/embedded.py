"""Templates that run as they come, on the embedded model."""

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
    for_ksampler,
    instruction,
    ksampler,
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

WITH_EMBEDDED: dict[str, Graph] = {
    "one_node_edit": Graph(
        "## Everything in one node\n\nPress **Run**: *Kontext: Edit* loads the embedded model, "
        "looks at up to three pictures and does what the prompt says.\n\n- Connect a MODEL, CLIP "
        "and VAE to it to use files of yours.\n- Its LATENT is the result before decoding: for "
        "*Kontext: Reference*, to go on without loss." + EMBEDDED + PICTURES,
        (
            Column("Picture", GREEN, 290, (picture("image", "kontext_shapes.png", "Picture"),)),
            Column(
                "Edit",
                OCHRE,
                350,
                (
                    Node(
                        "edit",
                        "KontextEdit",
                        {"image1": "image.0", "prompt": "make it night", "seed": 1},
                        more=400,
                    ),
                ),
            ),
            result(save("edit", "one_node_edit")),
        ),
        compare=("image.0", "edit.0"),
    ),
    "chain_of_two_turns": Graph(
        "## Edit the edited picture\n\nThe first turn's latent goes straight into the reference of "
        "the second: no decoding in between, so nothing is lost from turn to turn.\n\n- Add as many "
        "turns as you like in the same way.\n- Each turn has an instruction and a seed of its own."
        + EMBEDDED
        + PICTURES,
        (
            loaders(),
            reference_column(
                replace(picture("image", "kontext_shapes.png", "Picture"), more=200),
                reference("one", 1, image="image.0", vae="vae.0"),
                instruction("make the background blue", title="Instruction 1"),
            ),
            Column(
                "Turn 1",
                OCHRE,
                310,
                (stitch("one"), sampler(seed=2)),
            ),
            Column(
                "Turn 2",
                PURPLE,
                310,
                (
                    reference("two", 1, latent="sampler.0"),
                    instruction("make it night", "text2", "Instruction 2"),
                    stitch("two", "stitch2", "text2"),
                ),
            ),
            Column(
                "Paint again",
                PURPLE,
                310,
                (
                    sampler(key="sampler2", at="stitch2", seed=3),
                    Node("decode1", "KontextFinish", {"samples": "sampler.0", "vae": "vae.0"}),
                    Node(
                        "preview", "PreviewImage", {"images": "decode1.0"}, "After turn 1", more=140
                    ),
                ),
            ),
            result(finish("sampler2"), save("finish", "chain_of_two_turns", "After turn 2")),
        ),
    ),
    "inpaint_with_mask": Graph(
        "## Change only what the mask covers\n\nThe mask is white where the picture may change. "
        "*Kontext: Finish* puts every pixel outside of it back from the original, exactly.\n\n"
        "- Draw a mask of your own: right click on *Load Image*, *Open in MaskEditor*, and connect "
        "its MASK instead.\n- **feather** softens the inside of the mask's edge."
        + EMBEDDED
        + PICTURES,
        (
            loaders(),
            reference_column(
                picture("image", "kontext_shapes.png", "Picture"),
                reference("one", 1, image="image.0", vae="vae.0"),
            ),
            words(instruction("make the circle blue"), stitch("one")),
            Column(
                "Paint",
                PURPLE,
                310,
                (
                    sampler(seed=4),
                    Node(
                        "mask",
                        "LoadImageMask",
                        {"image": "kontext_mask.png", "channel": "red"},
                        "Mask: white may change",
                        more=180,
                    ),
                ),
            ),
            result(
                finish(original="image.0", mask="mask.0", feather=4),
                save("finish", "inpaint_with_mask"),
            ),
        ),
        compare=("image.0", "finish.0"),
    ),
    "extend_picture": Graph(
        "## Extend a picture\n\n*Kontext: Canvas* adds new pixels beside the picture, the model paints "
        "there, and *Kontext: Finish* puts every pixel of the picture back, exactly.\n\n- **left, top, "
        "right, bottom** are in the picture's pixels; **aspect** extends it to a shape instead.\n"
        "- Say what is to stand there. **fill** is what the model sees there before: *edge* suits "
        "most pictures.\n- **feather** blends the seam." + EMBEDDED + PICTURES,
        (
            loaders(),
            reference_column(
                replace(picture("image", "kontext_shapes.png", "Picture"), more=180),
                Node(
                    "canvas",
                    "KontextCanvas",
                    {"image1": "image.0", "vae": "vae.0", "right": 128, "feather": 8},
                    more=20,
                ),
            ),
            Column(
                "Instruction",
                OCHRE,
                275,
                (
                    instruction("add a yellow star on the right"),
                    reference("one", 1, image="canvas.0", vae="vae.0", target="canvas.1"),
                ),
            ),
            Column("Paint", PURPLE, 275, (stitch("one"), replace(sampler(seed=3), more=150))),
            result(
                finish(original="image.0", mask="canvas.2"),
                save("finish", "extend_picture"),
            ),
        ),
    ),
    "accelerated_edit": Graph(
        "## Paint faster\n\n*Kontext: Accelerate* leaves out work whose result hardly changes: "
        "references are computed in some steps only, and steps that would repeat the last one are "
        "skipped. After **Run** it says how much.\n\n- **preset**: *safe*, *balanced* or *fast*; its "
        "help page says what each costs.\n- Compare with *off*, and with fewer steps at the same "
        "price.\n- ComfyUI's *KSampler* takes its MODEL too." + EMBEDDED + PICTURES,
        (
            loaders(),
            reference_column(
                picture("image", "kontext_shapes.png", "Picture"),
                reference("one", 1, image="image.0", vae="vae.0"),
            ),
            words(instruction("make the background blue"), stitch("one")),
            Column(
                "Faster",
                PURPLE,
                290,
                (Node("fast", "KontextAccelerate", {"model": "model.0"}, more=90),),
            ),
            Column("Paint", PURPLE, 290, (sampler("fast", seed=2),)),
            result(finish(original="image.0"), save("finish", "accelerated_edit")),
        ),
    ),
    "ksampler_with_our_loaders": Graph(
        "## Our loaders with ComfyUI's KSampler\n\nMODEL, CLIP, VAE, CONDITIONING and LATENT are "
        "ComfyUI's own kinds: any sampler and scheduler works, and so do LoRA loaders, patches and "
        "*SamplerCustomAdvanced*.\n\n- **FluxGuidance** holds the guidance: 2.5 suits Kontext.\n"
        "- With cfg 1 the negative is not used; it only has to be there.\n- **simple** is the "
        "scheduler for Kontext." + EMBEDDED + PICTURES,
        (
            loaders(),
            reference_column(
                picture("image", "kontext_shapes.png", "Picture"),
                reference("one", 1, image="image.0", vae="vae.0"),
            ),
            words(instruction("make the background blue"), stitch("one"), *for_ksampler()),
            Column("Paint", PURPLE, 310, (ksampler(seed=2, more=260),)),
            result(
                Node("decode", "VAEDecode", {"samples": "sampler.0", "vae": "vae.0"}),
                save("decode", "ksampler_with_our_loaders"),
            ),
        ),
        compare=("image.0", "decode.0"),
    ),
    "batch": Graph(
        "## Many edits with one Run\n\n*Kontext: Batch* gives out one row after another; what "
        "follows runs once for each.\n\n- **lines**: one prompt a line, or a pasted table with "
        "columns name, image, prompt, seed.\n- **source**: a folder of pictures below the input "
        "folder, or a `.csv` or `.jsonl` file there.\n- For hundreds of rows, or several servers: "
        "`python -m standalone batch`." + EMBEDDED + PICTURES,
        (
            loaders(),
            Column(
                "Rows",
                GREEN,
                350,
                (
                    picture("image", "kontext_shapes.png", "Picture"),
                    Node(
                        "batch",
                        "KontextBatch",
                        {
                            "images": "image.0",
                            "lines": "make the background blue\nmake it night\nmake the circle "
                            "purple",
                            "seed": 2,
                            "name_prefix": "kontext/batch_",
                        },
                        more=120,
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
                        {
                            "image1": "batch.0",
                            "model": "model.0",
                            "clip": "clip.0",
                            "vae": "vae.0",
                            "prompt": "batch.1",
                            "seed": "batch.3",
                        },
                        more=400,
                    ),
                ),
            ),
            result(
                Node(
                    "save",
                    "SaveImage",
                    {"images": "edit.0", "filename_prefix": "batch.2"},
                    "Results",
                    more=420,
                )
            ),
        ),
    ),
    "pictures_by_name": Graph(
        "## Pictures by name\n\nPress **Run**: *Kontext: Names* writes image 1 and image 2 for the "
        "names that the *Kontext: Reference* nodes have, and shows what the model reads.\n\n- Give "
        "a reference any name, and use it in the instruction.\n- Exchange the pictures: the names "
        "go along." + EMBEDDED + PICTURES,
        (
            loaders(),
            Column(
                "Reference",
                GREEN,
                290,
                (
                    picture("image", "kontext_star.png", "Picture"),
                    reference("one", 1, image="image.0", vae="vae.0", name="the card"),
                ),
            ),
            Column(
                "Another reference",
                GREEN,
                290,
                (
                    picture("image2", "kontext_sunset.png", "Other picture"),
                    reference(
                        "two",
                        2,
                        references="one.0",
                        image="image2.0",
                        vae="vae.0",
                        name="the evening",
                    ),
                ),
            ),
            words(
                Node(
                    "names",
                    "KontextNames",
                    {
                        "text": "put the star of the card on the background of the evening",
                        "references": "two.0",
                    },
                    "Instruction",
                    more=150,
                ),
                Node("text", "CLIPTextEncode", {"clip": "clip.0", "text": "names.0"}, more=40),
                stitch("two", like_image=2),
            ),
            Column("Paint", PURPLE, 310, (sampler(seed=3),)),
            result(finish(original="image2.0"), save("finish", "pictures_by_name")),
        ),
    ),
}
