"""Ordinary jobs from Python: what people have goes in, what they mean comes out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lora_files import lora_files
from PIL import Image
from small_models import draw, make_autoencoder, make_flux, make_text_encoder
from torch import Tensor

from kontext_core import (
    Cancelled,
    CheckpointError,
    InputError,
    KontextError,
    Pipeline,
    Reference,
    edit,
    load_lora,
    save_image,
    set_loras,
)
from kontext_core.lora.apply import loras_on

PROMPT = "put the red star on image two"
STEPS = {"steps": 2, "seed": 3}


def picture(seed: int) -> Tensor:
    return draw(seed, 1, 64, 64, 3).mul(0.2).add(0.5).clamp(0, 1).mul(255).round().div(255)


@pytest.fixture
def pipeline() -> Pipeline:
    """One that a test may change."""
    return Pipeline(make_flux(), make_autoencoder(), make_text_encoder())


@pytest.fixture
def lora_file(tmp_path: Path) -> Path:
    return lora_files(make_flux())["kohya"].write(tmp_path / "a.safetensors")


def test_a_photo_as_people_have_it(small_pipeline: Pipeline, tmp_path: Path) -> None:
    path = save_image(picture(1), tmp_path / "a.png")
    base = edit(small_pipeline, PROMPT, [picture(1)], **STEPS)
    with Image.open(path) as opened:
        forms = [path, str(path), [path], opened.copy(), picture(1)]
    forms += [[small_pipeline.encode(path)], [small_pipeline.reference(path)]]
    for form in forms:
        assert edit(small_pipeline, PROMPT, form, **STEPS).equal(base), type(form)


def test_two_references_one_of_them_with_a_mask(small_pipeline: Pipeline, tmp_path: Path) -> None:
    whole = torch.zeros(64, 64)
    whole[:, :32] = 1
    file = save_image(whole[..., None].expand(-1, -1, 3), tmp_path / "mask.png")
    base = edit(small_pipeline, PROMPT, [picture(1), picture(2)], **STEPS)
    half = small_pipeline.reference(picture(1), mask=file, strength=0.7, name="left")
    assert half.mask is not None and half.mask.equal(whole)
    masked = edit(small_pipeline, PROMPT, [half, picture(2)], **STEPS)
    # What the mask hides has no say.
    other = picture(1).clone()
    other[:, :, 48:] = 0.5
    again = small_pipeline.reference(other, mask=whole, strength=0.7)
    # Measured: 0.011 and 0.018; the autoencoder alone sees across the edge.
    near = (edit(small_pipeline, PROMPT, [again, picture(2)], **STEPS) - masked).abs().mean()
    assert (masked - base).abs().mean() > near
    moved = small_pipeline.reference(picture(1), position=(1.0, 8.0, 8.0))
    assert not edit(small_pipeline, PROMPT, [moved, picture(2)], **STEPS).equal(base)


def test_a_batch_of_prompts(small_pipeline: Pipeline) -> None:
    prompts = [PROMPT, "the blue circle", "red star"]
    together = edit(small_pipeline, prompts, picture(1), batch=2, **STEPS)
    assert together.shape == (6, 64, 64, 3)
    for i, prompt in enumerate(prompts):
        alone = edit(small_pipeline, prompt, picture(1), batch=2, **STEPS)
        # Measured: 2e-6; a batch takes other matrix kernels.
        assert (together[i::3] - alone).abs().max() < 1e-4
    assert (together[0] - together[1]).abs().mean() > 1e-4


def test_a_stopped_run_is_continued(small_pipeline: Pipeline) -> None:
    settings = {"steps": 4, "seed": 3}
    whole = edit(small_pipeline, PROMPT, picture(1), **settings)
    asked: list[None] = []

    def stop() -> bool:
        asked.append(None)
        return len(asked) > 2

    with pytest.raises(Cancelled) as caught:
        edit(small_pipeline, PROMPT, picture(1), should_stop=stop, **settings)
    state = caught.value.state
    assert state is not None and (state.step, state.steps) == (2, 4)
    assert edit(small_pipeline, PROMPT, picture(1), state=state, **settings).equal(whole)


def test_a_lora_for_one_run(pipeline: Pipeline, lora_file: Path) -> None:
    plain = edit(pipeline, PROMPT, picture(1), **STEPS)
    forms = [lora_file, str(lora_file), [str(lora_file)], [(lora_file, 1)], (lora_file, 1.0),
             [load_lora(lora_file)]]  # fmt: skip
    with_it = edit(pipeline, PROMPT, picture(1), loras=forms[0], **STEPS)
    assert not with_it.equal(plain)
    for form in forms[1:]:
        assert edit(pipeline, PROMPT, picture(1), loras=form, **STEPS).equal(with_it), form
    assert edit(pipeline, PROMPT, picture(1), **STEPS).equal(plain)


def test_the_callers_own_loras_stay(pipeline: Pipeline, lora_file: Path) -> None:
    own = load_lora(lora_file)
    set_loras(pipeline.model, [(own, 0.4)])
    before = edit(pipeline, PROMPT, picture(1), **STEPS)
    edit(pipeline, PROMPT, picture(1), loras=[(lora_file, 1.0)], **STEPS)
    assert loras_on(pipeline.model) == [(own, 0.4)]
    assert edit(pipeline, PROMPT, picture(1), **STEPS).equal(before)
    # After a run that failed too.
    with pytest.raises(Cancelled):
        edit(pipeline, PROMPT, picture(1), loras=own, should_stop=lambda: True, **STEPS)
    assert loras_on(pipeline.model) == [(own, 0.4)]
    set_loras(pipeline.model, [])
    assert not edit(pipeline, PROMPT, picture(1), **STEPS).equal(before)


def test_a_noise_mask_keeps_the_rest(small_pipeline: Pipeline) -> None:
    """In latents exactly; the decoder sees across the edge."""
    mask = torch.zeros(64, 64)
    mask[:, 48:] = 1
    result = edit(small_pipeline, PROMPT, picture(1), noise_mask=mask, **STEPS)
    nothing = edit(small_pipeline, PROMPT, picture(1), noise_mask=torch.zeros(64, 64), **STEPS)
    whole = edit(small_pipeline, PROMPT, picture(1), **STEPS)
    assert not result.equal(nothing) and not result.equal(whole)
    kept = small_pipeline.autoencoder.decode(small_pipeline.encode(picture(1)))
    # Measured: 1e-6.
    assert (nothing - ((kept + 1) / 2).clamp(0, 1).movedim(1, -1)).abs().max() < 1e-4


LATENT = draw(1, 1, 16, 8, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": 5}, "prompt is 5; expected an instruction"),
        ({"prompt": ["a", ""]}, "instruction 2 is empty"),
        ({"prompt": ["a", None]}, "instruction 2 is a NoneType"),
        ({"prompt": []}, r"prompt is \[\]"),
        ({"prompt": ["a"] * 9, "batch": 8}, "9 instructions and batch 8 make 72"),
        ({"seed": "7"}, "seed is '7'; expected a whole number"),
        ({"seed": True}, "seed is True"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"steps": "4"}, "steps is '4'"),
        ({"batch": 2.0}, "batch is 2.0"),
        ({"guidance": "2.5"}, "guidance is '2.5'"),
        ({"cfg": "2"}, "cfg is '2'"),
        ({"denoise": None}, "denoise is None"),
        ({"width": "64", "height": 64}, "width is '64'"),
        ({"method": None}, "unknown placement method None"),
        ({"solver": 1}, "unknown solver 1"),
        ({"schedule": []}, r"unknown schedule \[\]"),
        ({"negative": 3, "cfg": 2.0}, "negative is a int; expected a text"),
        ({"images": [5]}, "image 1 is a int; expected a path, a Pillow picture or a tensor"),
        ({"images": "nowhere.png"}, "there is no picture at nowhere.png"),
        ({"images": [Reference("a.png")]}, "encode pictures with Pipeline.reference"),
        ({"images": [Reference(LATENT, strength="1")]}, "reference 1: strength is '1'"),
        ({"images": [Reference(LATENT, mask="m.png", name="cat")]}, r"1 \(cat\): mask is a str"),
        ({"images": [Reference(LATENT, start=None)]}, "start None and end 1.0 must be shares"),
        ({"images": [Reference(LATENT, position=3)]}, "position is 3; expected three numbers"),
        ({"images": [Reference(LATENT, mask=torch.full((8, 8), torch.nan))]}, "mask contains NaN"),
        ({"images": [LATENT / 0]}, "reference 1 contains NaN"),
        ({"images": [LATENT], "width": 32, "height": 32, "denoise": 0.5}, "a latent of"),
        ({"images": [], "noise_mask": torch.ones(8, 8)}, "there is a noise mask, which starts"),
        ({"noise_mask": torch.full((8, 8), torch.nan)}, "noise mask contains NaN"),
        ({"noise_mask": "mask.png"}, "noise mask is a str; expected a tensor"),
        ({"loras": [5]}, "LoRA 1 is 5; expected a path"),
        ({"loras": [("a.safetensors", "1")]}, "LoRA 1: strength is '1'"),
        ({"loras": 5}, "loras is 5; expected a list"),
        ({"state": "x"}, "state is a str"),
    ],
)
def test_wrong_kinds_are_told_plainly(
    changes: dict, message: str, small_pipeline: Pipeline
) -> None:
    values = {"prompt": PROMPT, "images": [picture(1)], "steps": 1, **changes}
    with pytest.raises(InputError, match=message):
        edit(small_pipeline, **values)


def test_nan_is_blamed_on_what_brought_it(
    pipeline: Pipeline, lora_file: Path, tmp_path: Path
) -> None:
    made = lora_files(make_flux())["kohya"]
    key = next(name for name in made.tensors if "lora_up" in name)
    made.tensors[key] = made.tensors[key] * torch.nan
    broken = made.write(tmp_path / "broken.safetensors")
    with pytest.raises(CheckpointError, match=f"broken.safetensors: {key} holds NaN or infinite"):
        edit(pipeline, PROMPT, loras=[lora_file, broken], **STEPS)
    assert pipeline.model.txt_in.weight.isfinite().all()
    with torch.no_grad():
        pipeline.model.single_blocks[1].linear2.weight[3, 4] = torch.inf
    with pytest.raises(KontextError, match="own single_blocks.1.linear2.weight has such values"):
        edit(pipeline, PROMPT, **STEPS)
    with torch.no_grad():
        pipeline.autoencoder.decoder.conv_out.bias.fill_(torch.nan)
        pipeline.model.single_blocks[1].linear2.weight[3, 4] = 0
    with pytest.raises(KontextError, match="in decoding the picture: .*decoder.conv_out.bias"):
        edit(pipeline, PROMPT, **STEPS)


def test_ids_of_one_serve_a_batch(small_pipeline: Pipeline) -> None:
    flux = small_pipeline.model
    img, txt, y = draw(1, 2, 6, 64), draw(2, 2, 3, 40), draw(3, 2, 24)
    ids, words = draw(4, 2, 6, 3).round(), torch.zeros(2, 3, 3)
    ids[1] = ids[0]
    times = torch.tensor([0.5, 0.5])
    full = flux(img, ids, txt, words, times, y, times)
    for first, second in ((ids[:1], words), (ids, words[:1]), (ids[:1], words[:1])):
        # Measured: 0.
        assert (flux(img, first, txt, second, times, y, times) - full).abs().max() < 1e-6
    with pytest.raises(InputError, match="txt_ids is a batch of 3, the image tokens one of 2"):
        flux(img, ids, txt, torch.zeros(3, 3, 3), times, y, times)


def test_pictures_by_name(small_pipeline: Pipeline, caplog: pytest.LogCaptureFixture) -> None:
    two = [picture(1), picture(2)]
    numbers = edit(small_pipeline, "put image 2 on image 1", two, **STEPS)
    names = ["the mug", "logo"]
    with caplog.at_level("INFO"):
        made = edit(small_pipeline, "Put the logo on the mug", two, names=names, **STEPS)
    plain = edit(small_pipeline, "Put image 2 on image 1", two, **STEPS)
    assert made.equal(plain)
    assert "'the logo' in the instruction is image 2" in caplog.text
    # A name for fewer pictures than there are, and one that does not occur.
    made = edit(small_pipeline, "put image 2 on image 1", two, names=["sky"], **STEPS)
    assert made.equal(numbers)
    assert "'sky', the name of image 1, is not in the instruction" in caplog.text
    for wrong, why in ((["a", "b", "c"], "3 names for 2"), ("ab", "a list"), (["a", "A"], "both")):
        with pytest.raises(InputError, match=why):
            edit(small_pipeline, PROMPT, two, names=wrong, **STEPS)


def test_a_reference_at_its_own_resolution(small_pipeline: Pipeline) -> None:
    half = small_pipeline.reference(picture(1), resolution=0.5)
    whole = small_pipeline.reference(picture(1))
    assert half.latent.shape[-1] * 2 == whole.latent.shape[-1]
    assert half.cells == whole.cells
    # The result keeps the picture's size.
    made = edit(small_pipeline, PROMPT, [half], **STEPS)
    assert made.shape == edit(small_pipeline, PROMPT, [whole], **STEPS).shape
