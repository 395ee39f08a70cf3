"""Round trips without an edit: same size, nothing moved, at every odd size and shape."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from registration import discs, displacement, smooth

from kontext_core import Pipeline, edit, load_pipeline
from kontext_core.fit import Fit
from kontext_core.framing import fit_picture, on_page, plan_fit, plan_size, put_back
from kontext_core.images import resize
from kontext_core.resolutions import KONTEXT_RESOLUTIONS

SIZES = ((192, 128), (128, 192), (160, 160))
# Odd, 9:21, 21:9, a strip of 8:1 either way.
PICTURES = [(111, 79), (333, 250), (181, 421), (420, 181), (801, 100), (100, 801)]


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load_pipeline("tiny")


def test_a_shift_of_a_fifth_of_a_pixel_is_seen() -> None:
    for picture in (smooth(111, 79), discs(111, 79)):
        matrix = torch.tensor([[[1.0, 0, -0.4 / 111], [0, 1, 0]]])
        grid = F.affine_grid(matrix, [1, 3, 79, 111], align_corners=False)
        channels = picture.movedim(-1, 1)
        moved = F.grid_sample(channels, grid, "bilinear", "border", align_corners=False)
        assert displacement(picture, picture)[1] < 1e-6
        # Measured: 0.2004 and 0.2010.
        assert abs(displacement(picture, moved.movedim(1, -1))[0] - 0.2) < 0.02


@pytest.mark.parametrize("size", PICTURES, ids=str)
def test_onto_the_grid_and_back(size: tuple[int, int]) -> None:
    picture = smooth(*size)
    framing = plan_fit(*size, SIZES, "trained size")
    back = put_back(fit_picture(picture, framing), picture, framing)
    assert back.shape == picture.shape
    # Measured: 0.023 at most, of the picture's own pixels, in the corners too.
    assert displacement(picture, back)[1] < 0.05


@pytest.mark.parametrize("size", PICTURES, ids=str)
def test_an_edit_that_may_change_nothing(size: tuple[int, int], pipeline: Pipeline) -> None:
    """`edit` with an all-black mask: onto the grid, through the autoencoder alone, and back."""
    picture = discs(*size)
    result = edit(pipeline, "a", picture, steps=1, noise_mask=torch.zeros(size[1], size[0]))
    assert result.shape == picture.shape
    left, top, width, height = plan_fit(*size, pipeline.model.resolutions, "trained size").box
    pixel = max(1.0, min(width, height) / 64)
    # Measured: 0.027 at most, of the pixels that the model paints.
    assert displacement(picture, result)[0] / pixel < 0.1


POLICIES = [
    Fit("exact"),
    Fit("trained size", other_shape="crop"),
    Fit("megapixels", megapixels=0.02),
    Fit("megapixels", megapixels=0.02, other_shape="crop"),
]


@pytest.mark.parametrize("size", [*PICTURES, (2000, 100), (17, 19)], ids=str)
@pytest.mark.parametrize(
    "fit", POLICIES, ids=["exact", "trained, crop", "megapixels", "megapixels, crop"]
)
def test_every_policy_there_and_back(fit: Fit, size: tuple[int, int]) -> None:
    picture = smooth(*size)
    framing = fit.plan(size, SIZES)
    fitted = fit_picture(picture, framing)
    assert (fitted.shape[2], fitted.shape[1]) == framing.size
    assert not any(side % 16 for side in framing.size)
    back = put_back(fitted, picture, framing)
    assert back.shape == picture.shape
    if fit.policy == "exact":
        assert torch.equal(back, picture)
    elif min(size) > 20:
        # Measured: 0.025 at most, of the picture's own pixels, in the corners too.
        assert displacement(picture, back)[1] < 0.1


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("fit", POLICIES[:2], ids=["exact", "trained, crop"])
def test_every_policy_of_edit(fit: Fit, batch: int, pipeline: Pipeline) -> None:
    picture = discs(111, 79)
    pictures = torch.cat([picture, picture.flip(2), picture.flip(1)])[:batch]
    nothing = torch.zeros(79, 111)
    results = edit(pipeline, "a", pictures, steps=1, batch=batch, noise_mask=nothing, fit=fit)
    assert results.shape == pictures.shape
    for before, after in zip(pictures, results, strict=True):
        # Measured: 0.047.
        assert displacement(before[None], after[None])[0] < 0.1


def test_a_larger_page_holds_the_picture_where_it_was(pipeline: Pipeline) -> None:
    picture = discs(64, 64)
    fit = Fit("exact", margins=(16, 0, 16, 0))
    # 0 keeps the picture, and what is new is painted all the same.
    result = edit(pipeline, "a", picture, steps=1, noise_mask=torch.zeros(64, 64), fit=fit)
    assert result.shape == (1, 64, 96, 3)
    framing = fit.plan((64, 64), pipeline.model.resolutions)
    assert torch.equal(on_page(picture, framing)[:, :, 16:80], picture)
    # Measured: 0.032.
    assert displacement(picture, result[:, :, 16:80])[0] < 0.1
    # Put back, it is the picture's own, and what is new is as it was painted.
    exact = edit(
        pipeline, "a", picture, steps=1, noise_mask=torch.zeros(64, 64), fit=fit, paste_back=True
    )
    assert torch.equal(exact[:, :, 16:80], picture)
    assert torch.equal(exact[:, :, :16], result[:, :, :16])


def test_a_picture_for_each_result(pipeline: Pipeline) -> None:
    picture = discs(111, 79)
    pair = torch.cat([picture, picture.flip(2)])
    nothing = torch.zeros(79, 111)
    results = edit(pipeline, "a", pair, steps=1, batch=2, noise_mask=nothing)
    for before, after in zip(pair, results, strict=True):
        assert displacement(before[None], after[None])[0] < 0.1


def test_on_the_grid_of_a_size_that_was_asked_for(pipeline: Pipeline) -> None:
    """112 x 80 is no trained size; the reference once kept its own, and everything moved."""
    picture = discs(112, 80)
    nothing = torch.zeros(80, 112)
    result = edit(pipeline, "a", picture, width=112, height=80, steps=1, noise_mask=nothing)
    # Measured: 0.024.
    assert displacement(picture, result)[0] < 0.1
    # With four steps and no mask: nothing has moved to another place, and there is no second disc.
    made = edit(pipeline, "make the background yellow", picture, width=112, height=80, steps=4)
    red, green, blue = made[0].unbind(-1)
    places = (blue > red + 0.25).nonzero().float()
    middle = places.mean(0)
    wanted = torch.tensor([0.6 * 80, 0.7 * 112])
    # Measured: 0.9, and 12 for the farthest pixel of the disc, whose radius is 11.
    assert (middle - wanted).abs().max() < 4, middle
    assert (places - wanted).abs().max() < 20
    # Of a shape that is off by less than half a token: what does not fit is cut off, not squashed.
    assert plan_size((111, 85), (112, 80), SIZES, crop=True).box == (0, 3, 111, 79)


@pytest.mark.parametrize("size", [*PICTURES, (2000, 100), (17, 19), (64, 64)], ids=str)
@pytest.mark.parametrize("sizes", [SIZES, KONTEXT_RESOLUTIONS], ids=["small", "published"])
def test_padding_equals_its_plain_twin(size: tuple[int, int], sizes: tuple) -> None:
    """Which pads first and then resizes all of it, however much that is."""
    picture = smooth(*size)
    framing = plan_fit(*size, sizes, "trained size")
    left, top, width, height = framing.box
    right, bottom = left + width - size[0], top + height - size[1]
    padded = F.pad(picture.movedim(-1, 1), (-left, right, -top, bottom), mode="replicate")
    plain = resize(padded.movedim(1, -1), *framing.size)
    fitted = fit_picture(picture, framing)
    # Measured: 1/255, as Pillow picks another order of its two passes.
    assert (fitted - plain).abs().max() < 2.5 / 255
    back = resize(plain, width, height)[:, -top : size[1] - top, -left : size[0] - left]
    # Measured: 2/255.
    assert (put_back(fitted, picture, framing) - back).abs().max() < 3.5 / 255
    # The shape is kept: what one pixel becomes is as wide as high, to half a pixel of the picture.
    across, down = framing.size[0] / width, framing.size[1] / height
    assert abs(across / down - 1) < 0.51 / min(width, height)
