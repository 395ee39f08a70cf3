"""What can't act, or does nothing, is said in the node; size and price too."""

from __future__ import annotations

from typing import Any

import pytest
import torch

PROMPT = "put the red star on the blue circle"


def notes(made: Any) -> str:
    return "\n".join(made.ui["kontext_notes"])


@pytest.fixture
def chain(pack: Any, vae: Any, image: Any) -> Any:
    return pack.run("KontextReference", image=image(1), vae=vae)[0]


def test_a_reference_without_a_picture_is_left_out(pack: Any, vae: Any, chain: Any) -> None:
    """As a muted Load Image leaves it."""
    made = pack.run("KontextReference", references=chain, vae=vae)
    assert made[0].items == chain.items
    assert "left out" in notes(made)
    alone = pack.run("KontextReference", vae=vae)
    assert alone[0].items == ()


def test_a_batch_is_not_several_references(pack: Any, vae: Any, image: Any) -> None:
    assert "batch of 2" in notes(pack.run("KontextReference", image=image(1, batch=2), vae=vae))
    assert notes(pack.run("KontextReference", image=image(1), vae=vae)) == ""
    edit = pack.run("KontextEdit", image2=image(1, batch=2), prompt=PROMPT, steps=1)
    assert "image2 is a batch of 2" in notes(edit)
    assert "image2 is image 1 of the prompt" in notes(edit)


def test_a_picture_kept_far_above_the_trained_size(pack: Any, vae: Any, image: Any) -> None:
    made = pack.run("KontextReference", image=image(1, 256, 256), vae=vae, fit="keep")
    assert "256 tokens, 16.0 times" in notes(made)
    assert notes(pack.run("KontextReference", image=image(1, 256, 256), vae=vae)) == ""


def test_an_all_black_mask(pack: Any, vae: Any, image: Any) -> None:
    """Load Image gives 64 x 64 zeros when nothing was painted, whatever the picture's size."""
    empty, original = torch.zeros(1, 64, 64), image(1, 50, 100)
    with pytest.raises(pack.error("InputError"), match="all black"):
        pack.run("KontextReference", image=original, vae=vae, mask=empty)
    samples = {"samples": torch.zeros(1, 16, 6, 10)}
    made = pack.run("KontextFinish", samples=samples, vae=vae, original=original, mask=empty)
    assert torch.equal(made[0], original)
    assert "all black" in notes(made)


def test_stitch_states_size_tokens_and_cost(pack: Any, encode: Any, chain: Any) -> None:
    made = pack.run("KontextStitch", conditioning=encode(PROMPT), references=chain)
    [size] = made.ui["kontext_size"]
    assert (size["width"], size["height"], size["target"], size["references"]) == (
        64,
        64,
        16,
        (16,),
    )
    assert size["text"] == 12
    assert size["total"] == 44
    assert size["relative"] == 1
    # The editor shows it before the run; notes are for what a person should know.
    assert notes(made) == ""
    assert size["said"] == (
        "64 x 64 pixels, the shape of image 1: 16 tokens beside 12 of text and 16 of 1 reference. "
        "A step costs the same as that of a plain edit"
    )
    large = {"samples": torch.zeros(1, 16, 32, 32)}
    made = pack.run("KontextStitch", conditioning=encode(PROMPT), references=chain, latent=large)
    assert "256 x 256 pixels are 16.0 times the area that the model was trained at" in notes(made)
    assert made.ui["kontext_size"][0]["relative"] > 5


def test_like_image_beside_a_latent(pack: Any, encode: Any, chain: Any) -> None:
    inputs = {"conditioning": encode(PROMPT), "references": chain}
    latent = {"samples": torch.zeros(1, 16, 8, 8)}
    made = pack.run("KontextStitch", **inputs, latent=latent, like_image=2)
    assert "like_image 2 has no effect" in notes(made)


def sampled(pack: Any, model: Any, encode: Any, text: str = PROMPT, **inputs: Any) -> str:
    latent = inputs.pop("latent", {"samples": torch.zeros(1, 16, 8, 8)})
    inputs = {"positive": encode(text), "latent_image": latent, "steps": 1, **inputs}
    return notes(pack.run("KontextSampler", model=model, **inputs))


def test_inputs_of_the_sampler_that_cannot_act(pack: Any, model: Any, encode: Any) -> None:
    assert sampled(pack, model, encode) == ""
    assert "negative has no effect" in sampled(pack, model, encode, negative=encode("blue"))
    assert sampled(pack, model, encode, negative=encode(""), cfg=2.0) == ""
    assert "denoise is 0.5" in sampled(pack, model, encode, denoise=0.5)
    start = {"samples": torch.ones(1, 16, 8, 8)}
    assert sampled(pack, model, encode, denoise=0.5, latent=start) == ""
    black = {**start, "noise_mask": torch.zeros(1, 1, 64, 64)}
    assert "noise mask is all black" in sampled(pack, model, encode, latent=black)


def test_empty_and_cut_instructions_are_said_once(
    pack: Any, model: Any, encode: Any, chain: Any
) -> None:
    assert "the instruction is empty" in sampled(pack, model, encode, "")
    # The small encoder reads 48 tokens: 47 words and the end.
    long = " ".join(["star"] * 60)
    assert "61 tokens, the text encoder reads 48: the last 13" in sampled(pack, model, encode, long)
    assert sampled(pack, model, encode, " ".join(["star"] * 47)) == ""
    made = pack.run("KontextStitch", conditioning=encode(""), references=chain)
    assert "the instruction is empty" in notes(made)
    painted = pack.run(
        "KontextSampler", model=model, positive=made[0], latent_image=made[1], steps=1
    )
    assert notes(painted) == ""


def test_a_published_pair_of_encoders_says_what_it_cuts(pack: Any) -> None:
    rows = pack.module("kontext_core.text.rows")
    clip = pack.module("nodes.native.clip")

    class Pair:
        def halves(self, text: str, **_: Any) -> dict[str, Any]:
            return {"l": [[]], "t5xxl": [rows.t5_row(text, max_length=512)]}

        def lost(self, text: str) -> int:
            return 7

    cut = clip.text_notes(clip.tokens_of(Pair(), "word " * 600))
    assert "519 tokens, the text encoder reads 512: the last 7" in cut[0]
    assert "empty" in clip.text_notes(clip.tokens_of(Pair(), ""))[0]
