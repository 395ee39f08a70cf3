"""The whole way from pictures and words to a picture, on small random networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_models import draw
from torch import Tensor

from kontext_core import (
    Cancelled,
    Conditioning,
    InputError,
    KontextError,
    ModelNotFoundError,
    Pipeline,
    Reference,
    edit,
    load_pipeline,
    make_noise,
    make_timesteps,
    sample,
    stitch,
)
from kontext_core.images import to_model, to_picture

PROMPT = "put the red star on image two"


def picture(seed: int, height: int = 64, width: int = 64) -> Tensor:
    return draw(seed, 1, height, width, 3).mul(0.2).add(0.5).clamp(0, 1)


def test_equals_its_parts(small_pipeline: Pipeline) -> None:
    """Two references at trained sizes, so that nothing is resized."""
    images = [picture(1), picture(2, 80, 48)]
    result = edit(small_pipeline, PROMPT, images, seed=5, steps=2, guidance=3.0)
    vae = small_pipeline.autoencoder
    references = [Reference(vae.encode(to_model(image))) for image in images]
    context = stitch((1, 16, 8, 8), references)
    latent = sample(
        small_pipeline.model,
        context,
        Conditioning(*small_pipeline.text_encoder.encode([PROMPT]), 3.0),
        make_timesteps(2, 16),
        noise=make_noise(5, (1, 16, 8, 8)),
    )
    assert result.equal(to_picture(vae.decode(latent)))
    assert result.shape == (1, 64, 64, 3) and result.dtype == torch.float32
    assert 0 <= result.min() and result.max() <= 1


def test_every_input_counts(small_pipeline: Pipeline) -> None:
    def run(prompt: str = PROMPT, first: int = 1, second: int = 2, **settings: object) -> Tensor:
        images = [picture(first), picture(second)]
        return edit(small_pipeline, prompt, images, **{"steps": 2, **settings})

    base = run()
    assert run().equal(base)
    changed = [
        run(prompt="put the star red on image two"),
        run(first=3),
        run(second=3),
        run(first=2, second=1),
        run(seed=1),
        run(steps=3),
        run(guidance=4.0),
        run(method="index"),
        run(denoise=0.5),
        run(solver="heun"),
        run(schedule="simple"),
        run(timesteps=[1, 0.3]),
        run(cfg=3.0),
        run(cfg=3.0, negative="blue"),
    ]
    for i, result in enumerate(changed):
        # Measured: 0.0016 at least, for the swap of two references that a random network makes.
        assert (result - base).abs().mean() > 3e-4, i
    assert not changed[-1].equal(changed[-2])


@pytest.mark.parametrize(
    ("images", "settings", "expected"),
    [
        ([], {}, (64, 64)),
        ([(200, 100)], {}, (200, 100)),
        ([(79, 111), (64, 64)], {}, (79, 111)),
        ([(16, 400)], {}, (16, 400)),
        ([(79, 111)], {"width": 48, "height": 80}, (80, 48)),
        ([(64, 64)], {"width": 32, "height": 16}, (16, 32)),
        ([], {"width": 16, "height": 16}, (16, 16)),
    ],
)
def test_size_of_the_result(
    images: list, settings: dict, expected: tuple[int, int], small_pipeline: Pipeline
) -> None:
    pictures = [picture(1, *size) for size in images]
    result = edit(small_pipeline, PROMPT, pictures, steps=1, **settings)
    assert result.shape == (1, *expected, 3)
    if pictures:
        # A reference that says no more than its picture is the same.
        encoded = [small_pipeline.reference(one) for one in pictures]
        again = edit(small_pipeline, PROMPT, encoded, steps=1, **settings)
        assert again.shape == result.shape
        assert again.equal(result) or settings


def test_first_of_a_batch_is_the_single_one(small_pipeline: Pipeline) -> None:
    batch = edit(small_pipeline, PROMPT, [picture(1)], steps=2, batch=2)
    alone = edit(small_pipeline, PROMPT, [picture(1)], steps=2)
    assert batch.shape == (2, 64, 64, 3)
    # Measured: 1.3e-6.
    assert (batch[:1] - alone).abs().max() < 1e-4
    assert (batch[0] - batch[1]).abs().mean() > 1e-2


def test_callback_and_cancel(small_pipeline: Pipeline) -> None:
    steps: list[tuple[int, int]] = []
    edit(
        small_pipeline, PROMPT, steps=3,
        callback=lambda step, total, x0: steps.append((step, total)),
    )  # fmt: skip
    assert steps == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(Cancelled):
        edit(small_pipeline, PROMPT, steps=3, should_stop=lambda: len(steps) >= 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": ""}, "the instruction is empty"),
        ({"prompt": " \n "}, "the instruction is empty"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 10**9}, "steps is 1000000000"),
        ({"seed": -1}, "seed is -1"),
        ({"guidance": -1.0}, "guidance is -1"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"cfg": 1000.0}, "cfg is 1000"),
        ({"width": 64}, "width is 64 and height None"),
        ({"width": 64, "height": 65}, "height is 65"),
        ({"width": 2**20, "height": 64}, "width is 1048576"),
        ({"denoise": 0.0}, "denoise is 0"),
        ({"images": [], "denoise": 0.5}, "which starts from a picture, but none was given"),
        ({"method": "grid"}, "unknown placement method 'grid'"),
        ({"solver": "dpm"}, "unknown solver 'dpm'"),
        ({"schedule": "karras"}, "unknown schedule 'karras'"),
        ({"batch": 0}, "batch is 0"),
        ({"images": [torch.zeros(1, 1, 1, 3)]}, "image 1 is 1x1"),
        ({"images": [picture(1), torch.full((1, 64, 64, 3), torch.nan)]}, "image 2 contains NaN"),
        ({"images": [torch.zeros(1).expand(1, 20000, 20000, 3)]}, "image 1 is 20000x20000"),
        ({"images": [torch.zeros(64, 64, 3)]}, "image 1 has shape"),
        ({"images": [torch.rand(2, 64, 64, 3)]}, "batch of 2, the target one of 1"),
    ],
)
def test_bad_input(changes: dict, message: str, small_pipeline: Pipeline) -> None:
    values = {"prompt": PROMPT, "images": [picture(1)], "steps": 1, **changes}
    prompt, images = values.pop("prompt"), values.pop("images")
    with pytest.raises(InputError, match=message):
        edit(small_pipeline, prompt, images, **values)


def test_unknown_model() -> None:
    with pytest.raises(ModelNotFoundError, match="there is no model 'nothing-here'") as caught:
        edit("nothing-here", PROMPT)
    assert isinstance(caught.value, KontextError) and isinstance(caught.value, FileNotFoundError)


def test_from_a_folder(model_folder: Path, small_pipeline: Pipeline) -> None:
    """Saved and loaded again, the networks give the same picture."""
    loaded = load_pipeline(model_folder)
    values = {"steps": 2, "seed": 3}
    result = edit(loaded, PROMPT, [picture(1)], **values)
    saved = edit(small_pipeline, PROMPT, [picture(1)], **values)
    # Measured: 1e-6. Read tensors lie at other addresses, and products round by alignment.
    assert (result - saved).abs().max() < 2e-5
    by_name = edit(model_folder, PROMPT, [picture(1)], **values)
    assert (by_name - saved).abs().max() < 2e-5


@pytest.mark.parametrize("part", ["picture", "mask"])
def test_nothing_is_squashed_into_another_shape(part: str, small_pipeline: Pipeline) -> None:
    """A start or a mask of another shape than the result is refused, at any size of it taken."""

    def run(picture: tuple[int, int], mask: tuple[int, int]) -> None:
        image = torch.rand(1, picture[1], picture[0], 3)
        given = {"noise_mask": torch.ones(mask[1], mask[0])} if part == "mask" else {"denoise": 0.5}
        edit(small_pipeline, "a", [image], width=64, height=64, steps=2, **given)

    run((128, 128), (32, 32))
    # Without a size the result has the picture's shape, whatever the grid's.
    mask = torch.ones(100, 30)
    edit(small_pipeline, "a", torch.rand(1, 100, 30, 3), steps=1, noise_mask=mask)
    with pytest.raises(InputError, match="the mask is 100 x 30, the picture 30 x 100"):
        small_pipeline.reference(torch.rand(1, 100, 30, 3), mask=mask.T)
    with pytest.raises(InputError, match="another shape"):
        run((128, 64) if part == "picture" else (64, 64), (64, 32))


def test_a_list_of_timesteps_takes_the_place_of_a_schedule(small_pipeline: Pipeline) -> None:
    pictures = [picture(1)]
    base = edit(small_pipeline, PROMPT, pictures, steps=3)
    times = make_timesteps(3, 16)
    assert edit(small_pipeline, PROMPT, pictures, timesteps=times, steps=9).equal(base)
    assert edit(small_pipeline, PROMPT, pictures, timesteps=times[:-1].tolist()).equal(base)
    # One that begins later starts from the first picture, as denoise does.
    late = edit(small_pipeline, PROMPT, pictures, steps=2, denoise=0.5)
    start = make_timesteps(2, 16, denoise=0.5)
    assert edit(small_pipeline, PROMPT, pictures, timesteps=start).equal(late)
    with pytest.raises(InputError, match="first of the timesteps is below 1"):
        edit(small_pipeline, PROMPT, timesteps=start)
