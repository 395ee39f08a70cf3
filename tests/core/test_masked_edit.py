"""A mask in `edit` and on the command line: pixels outside stay the first picture's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from kontext_core import InputError, Pipeline, edit, load_mask
from kontext_core.commands.edit import mask_of
from kontext_core.commands.settings import SETTINGS
from kontext_core.stitcher import Reference

STEPS = {"steps": 2, "seed": 3}


def picture(height: int = 60, width: int = 90) -> Tensor:
    """Floats that are no multiple of 1/255."""
    return torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(4))


def test_pasted_back_to_the_bit(small_pipeline: Pipeline) -> None:
    first, mask = picture(), torch.zeros(30, 45)
    mask[5:20, 10:30] = 1
    given = {"noise_mask": mask, "batch": 2, "feather": 3, **STEPS}
    for match in (False, True):
        made = edit(small_pipeline, "a", first, paste_back=True, match_colours=match, **given)
        outside = mask.repeat_interleave(2, 0).repeat_interleave(2, 1) == 0
        for one in made:
            assert one[outside].equal(first[0][outside])
            assert (one - first[0])[~outside].abs().mean() > 0.01
    # A mask in latents alone keeps none of them.
    kept = edit(small_pipeline, "a", first, **given)[0]
    assert (kept - first[0])[outside].abs().mean() > 1e-3


def test_a_line_of_one_pixel_is_free(small_pipeline: Pipeline) -> None:
    """However thin, what is painted reaches the latent: bilinear resizing lost it between cells."""
    first = picture(64, 64)
    mask = torch.zeros(64, 64)
    nothing = edit(small_pipeline, "a", first, noise_mask=mask, **STEPS)
    mask[:, 8] = 1
    assert not edit(small_pipeline, "a", first, noise_mask=mask, **STEPS).equal(nothing)


def test_grey_is_read_in_two_ways(small_pipeline: Pipeline) -> None:
    mask = torch.full((64, 64), 0.6)
    soft, differential = (
        edit(small_pipeline, "a", picture(64, 64), noise_mask=mask, mask_mode=mode, **STEPS)
        for mode in ("soft", "differential")
    )
    assert not soft.equal(differential)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise_mask": None}, "paste_back is set, but there is no noise_mask"),
        ({"width": 64, "height": 64, "images": [picture(65, 64)]}, "in the result's size, 64 x 64"),
        ({"feather": -1}, "feather is -1"),
        ({"mask_mode": "hard"}, "unknown mask_mode 'hard'"),
    ],
)
def test_what_can_not_be_pasted_back(changes: dict, message: str, small_pipeline: Pipeline) -> None:
    values = {"images": [picture(64, 64)], "noise_mask": torch.ones(64, 64), "steps": 1, **changes}
    with pytest.raises(InputError, match=message):
        edit(small_pipeline, "a", paste_back=True, **values)


def test_a_latent_has_no_pixels_to_put_back(small_pipeline: Pipeline) -> None:
    latent = Reference(torch.randn(1, 16, 8, 8))
    with pytest.raises(InputError, match="but it is a latent"):
        edit(small_pipeline, "a", [latent], noise_mask=torch.ones(64, 64), paste_back=True, steps=1)


def test_the_command_reads_masks_and_boxes(tmp_path: Path) -> None:
    images = [picture()]

    def said(**changes: object) -> Tensor | None:
        return mask_of({**SETTINGS, **changes}, images)

    assert said() is None
    boxed = said(box="10,20,30,15")
    assert boxed is not None and boxed.shape == (60, 90) and int(boxed.sum()) == 450
    assert bool(boxed[20:35, 10:40].all())
    # As ComfyUI's mask editor saves: what was painted is transparent.
    alpha = Image.new("RGBA", (90, 60), (200, 10, 10, 255))
    alpha.paste((200, 10, 10, 0), (5, 6, 25, 16))
    alpha.save(tmp_path / "painted.png")
    painted = said(mask=str(tmp_path / "painted.png"), mask_channel="alpha")
    assert painted is not None and int(painted.sum()) == 200 and bool(painted[6:16, 5:25].all())
    alpha.convert("RGB").save(tmp_path / "plain.png")
    for given, message in (
        ({"mask": "a.png", "box": "0,0,1,1"}, "both say what may change"),
        ({"box": "0,0,8"}, "expected X,Y,WIDTH,HEIGHT"),
        ({"box": "0,0,8,x"}, "expected X,Y,WIDTH,HEIGHT"),
        ({"match_colours": "yes"}, "unknown match_colours 'yes'"),
        ({"mask": str(tmp_path / "plain.png"), "mask_channel": "alpha"}, "has no alpha channel"),
    ):
        with pytest.raises(InputError, match=message):
            said(**given)
    with pytest.raises(InputError, match="but there is no --image"):
        mask_of({**SETTINGS, "box": "0,0,8,8"}, [])
    with pytest.raises(InputError, match="unknown mask channel 'red'"):
        load_mask(tmp_path / "plain.png", "red")
