"""Pages: what is new beside a picture, what is cut off, and how the new area is filled."""

from __future__ import annotations

import logging

import pytest
import torch
from small_models import make_autoencoder, make_flux, make_text_encoder

from kontext_core import InputError, Pipeline, edit
from kontext_core.fit import Fit, aspect_of, far_from_trained
from kontext_core.framing import (
    fit_picture,
    frame_mask,
    on_page,
    on_page_mask,
    plan_exact,
    put_back,
    unframe_mask,
)
from kontext_core.pages import FILLS, Page, lay_out, new_area, plan_page

SIZES = ((64, 64), (96, 64), (64, 96))


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(make_flux(), make_autoencoder(), make_text_encoder())


def test_margins_and_aspects() -> None:
    assert plan_page((111, 79)) is None
    assert plan_page((111, 79), aspect=111 / 79) is None
    page = plan_page((111, 79), margins=(32, 1, 16, 0))
    assert page == Page((111, 79), (-32, -1, 159, 80))
    assert page.margins == (32, 1, 16, 0)
    square = plan_page((111, 79), aspect=1.0)
    assert square is not None and square.box == (0, -16, 111, 111)
    cut = plan_page((111, 79), aspect=1.0, other_shape="crop")
    assert cut is not None and cut.box == (16, 0, 79, 79)
    assert cut.margins == (-16, 0, -16, 0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"margins": (0, -1, 0, 0)}, "left, top"),
        ({"margins": (0, 0, 20000, 0)}, "at most 16384"),
        ({"aspect": 100.0}, "0.015625 to 64"),
        ({"other_shape": "stretch"}, "pad, crop"),
        ({"fill": "noise"}, "edge, mirror, grey"),
    ],
)
def test_pages_that_can_not_be(options: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        plan_page((64, 64), **options)


def test_aspects_in_words() -> None:
    assert aspect_of("16:9") == 16 / 9
    assert aspect_of("1.5") == 1.5
    for text in ("wide", "1:0", "1:2:3", ""):
        with pytest.raises(InputError, match="16:9"):
            aspect_of(text)


@pytest.mark.parametrize("fill", FILLS)
def test_what_the_new_area_is_filled_with(fill: str) -> None:
    picture = torch.rand(2, 3, 4, 3)
    page = Page((4, 3), (-3, 0, 8, 3), fill)
    made = lay_out(picture, page)
    assert made.shape == (2, 3, 8, 3)
    assert torch.equal(made[:, :, 3:7], picture)
    left, right = {
        "edge": (picture[:, :, [0, 0, 0]], picture[:, :, [3]]),
        "mirror": (picture[:, :, [2, 1, 0]], picture[:, :, [3]]),
        "grey": (torch.full((2, 3, 3, 3), 0.5), torch.full((2, 3, 1, 3), 0.5)),
    }[fill]
    assert torch.equal(made[:, :, :3], left)
    assert torch.equal(made[:, :, 7:], right)


def test_a_mirror_goes_on_beyond_the_pictures_own_length() -> None:
    picture = torch.arange(2.0)[None, None, :, None].expand(1, 1, 2, 3)
    made = lay_out(picture, Page((2, 1), (-5, 0, 9, 1), "mirror"))
    assert made[0, 0, :, 0].tolist() == [0, 0, 1, 1, 0, 0, 1, 1, 0]


def test_a_picture_of_twice_the_size_has_a_page_of_twice_the_size() -> None:
    made = lay_out(torch.rand(1, 6, 8, 3), Page((4, 3), (-3, 0, 8, 3)))
    assert made.shape == (1, 6, 16, 3)


def test_what_is_new_and_its_feather() -> None:
    page = Page((4, 2), (-2, 0, 6, 2))
    assert new_area(page).tolist() == [[1, 1, 0, 0, 0, 0]] * 2
    # Half a pixel and one and a half inside, of two.
    assert new_area(page, 2).tolist() == [[1, 1, 0.75, 0.25, 0, 0]] * 2
    assert not new_area(Page((4, 2), (1, 0, 2, 2)), 2).any()


@pytest.mark.parametrize("size", [(111, 79), (64, 64), (2000, 100)])
def test_a_mask_of_the_canvas_is_cut_to_the_picture(size: tuple[int, int]) -> None:
    framing = plan_exact(size, SIZES)
    mask = (torch.rand(1, size[1], size[0]) > 0.5).float()
    assert torch.equal(unframe_mask(frame_mask(mask, framing), framing, size), mask)
    double = unframe_mask(frame_mask(mask, framing), framing, (size[0] * 2, size[1] * 2))
    assert double.shape == (1, size[1] * 2, size[0] * 2)


def test_original_and_mask_are_laid_out_once() -> None:
    framing = Fit("exact", margins=(0, 0, 32, 0)).plan((64, 64), SIZES)
    picture, mask = torch.rand(1, 64, 64, 3), torch.zeros(64, 64)
    laid = on_page(picture, framing)
    assert laid.shape == (1, 64, 96, 3)
    assert on_page(laid, framing) is laid
    new = on_page_mask(mask, framing, 1.0)
    assert new.shape == (64, 96) and new.sum() == 64 * 32
    assert on_page_mask(new, framing, 1.0) is new


@pytest.mark.parametrize("fill", FILLS)
def test_there_and_back_with_margins(fill: str) -> None:
    picture = torch.rand(1, 79, 111, 3)
    framing = Fit("exact", margins=(32, 0, 16, 5), fill=fill).plan((111, 79), SIZES)
    back = put_back(fit_picture(picture, framing), on_page(picture, framing), framing)
    assert back.shape == (1, 84, 159, 3)
    assert torch.equal(back[:, :79, 32:143], picture)


@pytest.mark.parametrize(
    ("fit", "picture", "said"),
    [
        (Fit(), (64, 64), []),
        (Fit(), (111, 79), []),
        (Fit("exact"), (640, 640), ["times the area"]),
        (Fit("exact"), (32, 32), ["25% of the area"]),
        (Fit("exact"), (160, 32), ["longer than every shape"]),
        (Fit(), (2000, 100), ["fills 8% of 96 x 64"]),
        (Fit("exact"), (2000, 100), ["times the area", "longer than every shape"]),
        (Fit("custom", size=(128, 128)), (64, 64), ["times the area"]),
    ],
)
def test_a_size_far_from_what_was_trained_is_said(
    fit: Fit, picture: tuple[int, int], said: list[str]
) -> None:
    found = far_from_trained(fit.plan(picture, SIZES))
    assert len(found) == len(said)
    assert all(part in sentence for part, sentence in zip(said, found, strict=True))


def test_edit_says_it_too(pipeline: Pipeline, caplog: pytest.LogCaptureFixture) -> None:
    picture = torch.rand(1, 160, 160, 3)
    for options in ({"fit": "exact"}, {"width": 160, "height": 160}):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "kontext_core"):
            made = edit(pipeline, "a", picture, steps=1, **options)
        assert made.shape == (1, 160, 160, 3)
        assert "6.2 times the area" in caplog.text


def test_edit_needs_a_picture_to_fit(pipeline: Pipeline) -> None:
    for images in ((), torch.zeros(1, 16, 8, 8)):
        with pytest.raises(InputError, match="about the first picture"):
            edit(pipeline, "a", images, fit="exact", steps=1)
    with pytest.raises(InputError, match="unknown fit 'stretch'"):
        edit(pipeline, "a", torch.rand(1, 64, 64, 3), fit="stretch", steps=1)


def test_custom_pads_or_crops_and_gives_that_size(pipeline: Pipeline) -> None:
    picture = torch.rand(1, 64, 64, 3)
    for shape in ("pad", "crop"):
        fit = Fit("custom", other_shape=shape)
        made = edit(pipeline, "a", picture, width=128, height=64, fit=fit, steps=1)
        assert made.shape == (1, 64, 128, 3)
