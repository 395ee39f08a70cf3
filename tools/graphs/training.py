"""The template that trains a LoRA, and edits with it."""

from __future__ import annotations

from .parts import (
    BLUE,
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

TRAINING: dict[str, Graph] = {
    "train_lora": Graph(
        "## Teach it a new thing\n\nThe embedded model has never drawn a crescent. "
        "`input/kontext_crescent` holds 24 examples, `NAME_ref1.png`, `NAME.txt` and "
        "`NAME_target.png` each; half of them are ordinary edits, so that nothing else is forgotten. "
        "A run learns for about a minute, then edits a picture with what it has learned.\n\n- **Stop** "
        "it at any time: the next run goes on.\n- For FLUX.1: a folder of yours, another **name**, a "
        "rate of 0.0001.",
        (
            loaders(),
            Column(
                "Training",
                BLUE,
                350,
                (
                    Node(
                        "train",
                        "KontextTrainLora",
                        {
                            "model": "model.0", "clip": "clip.0", "vae": "vae.0",
                            "dataset": "kontext_crescent", "name": "crescent", "steps": 200,
                            "batch": 8, "learning_rate": 0.002, "training_seed": 1, "sample_every": 50,
                            "schedule": "cosine", "samples": 2,
                        },
                        more=345,
                    ),
                ),
            ),
            Column(
                "Reference",
                GREEN,
                290,
                (
                    picture("image", "kontext_star.png", "Picture"),
                    reference("one", 1, image="image.0", vae="vae.0"),
                ),
            ),
            words(
                instruction("turn the yellow star into a crescent"),
                stitch("one"),
            ),
            Column("Paint", PURPLE, 285, (sampler("train", seed=1, steps=12),)),
            result(finish(original="image.0"), save("finish", "train_lora")),
        ),
    ),
}  # fmt: skip
