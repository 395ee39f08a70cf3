"""The nodes give exactly what the core gives when it is called directly."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

PROMPT = "put the red star on the blue circle"


def graph(
    pack: Any, nets: tuple[Any, Any, Any], images: list[Tensor], latent: Any = None, **settings: Any
) -> tuple[Any, Tensor]:
    """Reference chain, Stitch, Sampler and Finish: (LATENT, IMAGE)."""
    model, clip, vae = nets
    chain = None
    for one in images:
        chain = pack.run("KontextReference", references=chain, image=one, vae=vae)[0]
    text = clip.encode_from_tokens_scheduled(clip.tokenize(PROMPT))
    stitched = pack.run("KontextStitch", conditioning=text, references=chain, latent=latent)
    settings = {"steps": 3, "seed": 7, **settings}
    samples = pack.run(
        "KontextSampler", model=model, positive=stitched[0], latent_image=stitched[1], **settings
    )[0]
    return samples, pack.run("KontextFinish", samples=samples, vae=vae)[0]


@pytest.fixture
def nets(model: Any, clip: Any, vae: Any) -> tuple[Any, Any, Any]:
    return model, clip, vae


@pytest.mark.parametrize("shapes", [[(64, 64)], [(64, 64), (48, 80)], [(80, 48), (64, 64)]])
def test_the_graph_equals_the_core_in_one_call(
    pack: Any,
    nets: tuple[Any, Any, Any],
    image: Callable[..., Tensor],
    small_folder: Path,
    shapes: list[tuple[int, int]],
) -> None:
    images = [image(seed, height, width) for seed, (height, width) in enumerate(shapes)]
    pipeline = pack.module("kontext_core.pipeline")
    expected = pipeline.edit(small_folder, PROMPT, images, seed=7, steps=3)
    _, found = graph(pack, nets, images)
    # Same calls in the same order on one machine: measured 0.
    assert torch.equal(found, expected)


def test_edit_equals_the_graph(
    pack: Any, nets: tuple[Any, Any, Any], image: Callable[..., Tensor]
) -> None:
    images = [image(1), image(2, 48, 80)]
    samples, expected = graph(pack, nets, images)
    made = pack.run(
        "KontextEdit", image1=images[0], image2=images[1], prompt=PROMPT, seed=7, steps=3
    )
    assert torch.equal(made[0], expected)
    assert torch.equal(made[1]["samples"], samples["samples"])
    model, clip, vae = nets
    given = pack.run(
        "KontextEdit", image1=images[0], image2=images[1], model=model, clip=clip, vae=vae,
        prompt=PROMPT, seed=7, steps=3,
    )  # fmt: skip
    assert torch.equal(given[0], expected)


def test_edit_without_pictures_paints_in_the_size_asked_for(pack: Any) -> None:
    made = pack.run("KontextEdit", prompt=PROMPT, steps=1, width=96, height=48)
    assert made[0].shape == (1, 48, 96, 3)
    assert made[1]["samples"].shape == (1, 16, 6, 12)
    assert pack.run("KontextEdit", prompt=PROMPT, steps=1)[0].shape == (1, 64, 64, 3)


def test_sampler_equals_sample(
    pack: Any, nets: tuple[Any, Any, Any], encode: Callable[[str], Any]
) -> None:
    """Batch, negative with cfg, img2img and a noise mask at once."""
    core = pack.module("kontext_core.sampling")
    schedule = pack.module("kontext_core.schedule")
    stitcher = pack.module("kontext_core.stitcher")
    guidance = pack.module("kontext_core.guidance")
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(2, 16, 8, 8, generator=generator)
    mask = (torch.rand(1, 64, 64, generator=generator) > 0.5).float()
    reference = stitcher.Reference(torch.randn(1, 16, 6, 10, generator=generator), strength=0.5)
    wanted, unwanted = encode(PROMPT), encode("")
    flux = nets[0].load()
    context = stitcher.stitch((2, 16, 8, 8), [reference], latent_format=flux.latent_format)
    expected = core.sample(
        flux,
        context,
        guidance.Conditioning(wanted[0][0], wanted[0][1]["pooled_output"], 3.5),
        schedule.make_timesteps(4, context.target_tokens, denoise=0.6),
        noise=core.make_noise(11, (2, 16, 8, 8)),
        latent=start,
        negative=guidance.Conditioning(unwanted[0][0], unwanted[0][1]["pooled_output"], 3.5),
        cfg=2.0,
        solver="heun",
        noise_mask=mask,
    )
    conditioning = pack.module("nodes.conditioning")
    found = pack.run(
        "KontextSampler",
        model=nets[0],
        positive=conditioning.attach(wanted, [reference], "offset"),
        negative=unwanted,
        latent_image={"samples": start, "noise_mask": mask},
        seed=11,
        steps=4,
        guidance=3.5,
        cfg=2.0,
        solver="heun",
        denoise=0.6,
    )[0]
    assert torch.equal(found["samples"], expected)
    assert found["noise_mask"] is mask
    # Each of the settings has a part in it.
    assert not torch.allclose(found["samples"][0], found["samples"][1])


def test_a_noise_mask_keeps_what_is_black(
    pack: Any, model: Any, encode: Callable[[str], Any]
) -> None:
    start = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    found = pack.run(
        "KontextSampler",
        model=model,
        positive=encode(PROMPT),
        latent_image={"samples": start, "noise_mask": mask},
        steps=3,
    )[0]["samples"]
    # float32 through three Euler steps: measured 4.8e-7 on values of order one.
    assert (found - start)[..., 4:].abs().max() < 1e-5
    assert (found - start)[..., :4].abs().mean() > 0.1


def test_batch_index_picks_pictures_of_a_larger_batch(
    pack: Any, model: Any, encode: Callable[[str], Any]
) -> None:
    inputs = {"model": model, "positive": encode(PROMPT), "steps": 2, "seed": 5}
    indexed = {"samples": torch.zeros(3, 16, 8, 8), "batch_index": [0, 1, 2]}
    three = pack.run("KontextSampler", latent_image=indexed, **inputs)[0]["samples"]
    last = {"samples": torch.zeros(1, 16, 8, 8), "batch_index": [2]}
    one = pack.run("KontextSampler", latent_image=last, **inputs)[0]["samples"]
    # A batch and a single picture take other matrix kernels: measured 3.8e-6.
    assert (one[0] - three[2]).abs().max() < 1e-4
    assert (one[0] - three[0]).abs().mean() > 0.1


def test_an_empty_latent_of_another_model_is_taken_as_empty(
    pack: Any, model: Any, encode: Callable[[str], Any]
) -> None:
    inputs = {"model": model, "positive": encode(PROMPT), "steps": 2}
    four = pack.run("KontextSampler", latent_image={"samples": torch.zeros(1, 4, 8, 8)}, **inputs)
    right = pack.run("KontextSampler", latent_image={"samples": torch.zeros(1, 16, 8, 8)}, **inputs)
    assert torch.equal(four[0]["samples"], right[0]["samples"])


def test_stitch_takes_the_target_from_the_first_reference(pack: Any, vae: Any, image: Any) -> None:
    first = pack.run("KontextReference", image=image(1, 48, 80), vae=vae)[0]
    chain = pack.run("KontextReference", references=first, image=image(2), vae=vae)[0]
    assert len(first.items) == 1
    output = pack.run("KontextStitch", conditioning=[[torch.zeros(1, 1, 1), {}]], references=chain)
    assert output[1]["samples"].shape == (1, 16, 6, 10)
    layout = output.ui["kontext_layout"]
    assert [(p["index"], p["t"], p["rows"], p["columns"]) for p in layout] == [
        (0, 0.0, 3, 5),
        (1, 1.0, 3, 5),
        (2, 1.0, 4, 4),
    ]
    assert layout[0]["picture"] is None
    for placed in layout[1:]:
        kind, _, data = placed["picture"].partition(";base64,")
        small = Image.open(io.BytesIO(base64.b64decode(data)))
        assert (kind, small.format) == ("data:image/jpeg", "JPEG")
        # The picture's own shape, not that of what it was encoded as.
        assert small.size in ((80, 48), (64, 64))


def test_stitch_hands_back_what_its_drawing_is_made_for(pack: Any, vae: Any, image: Any) -> None:
    references = pack.run("KontextReference", image=image(1, 48, 80), vae=vae)[0]
    inputs = {"conditioning": [[torch.zeros(1, 1, 1), {}]], "references": references}
    assert pack.run("KontextStitch", layout="1a2b", **inputs).ui["kontext_made"] == ["1a2b"]
    assert pack.run("KontextStitch", **inputs).ui["kontext_made"] == []


@pytest.mark.parametrize("method", ["offset", "index", "uxo"])
def test_stitch_draws_its_method_and_hands_it_on(
    method: str, pack: Any, vae: Any, image: Any
) -> None:
    """The drawn places, the ones that the core makes, and the method in the conditioning are one."""
    chain = pack.run("KontextReference", image=image(1, 64, 80), vae=vae)[0]
    chain = pack.run("KontextReference", references=chain, image=image(2), vae=vae)[0]
    output = pack.run(
        "KontextStitch",
        conditioning=[[torch.zeros(1, 1, 1), {}]],
        latent={"samples": torch.zeros(1, 16, 8, 8)},
        references=chain,
        method=method,
    )
    drawn = [(p["t"], p["h"], p["w"]) for p in output.ui["kontext_layout"]]
    stitcher = pack.module("kontext_core.stitcher")
    sizes = [tuple(one.latent.shape[-2:]) for one in chain.items]
    assert drawn == [(0, 0, 0), *stitcher.place(sizes, method, (4, 4))]
    others = [stitcher.place(sizes, m, (4, 4)) for m in ("offset", "index", "uxo") if m != method]
    assert drawn[1:] not in others
    assert output[0][0][1]["reference_latents_method"] == method


@pytest.mark.parametrize(
    ("fit", "height", "width", "expected"),
    [
        ("trained size", 200, 300, (48, 80)),
        ("trained size", 20, 20, (64, 64)),
        ("shrink", 200, 300, (48, 80)),
        ("shrink", 40, 50, (32, 48)),
        ("keep", 200, 300, (192, 288)),
    ],
)
def test_fit(
    pack: Any, vae: Any, image: Any, fit: str, height: int, width: int, expected: tuple[int, int]
) -> None:
    chain = pack.run("KontextReference", image=image(1, height, width), vae=vae, fit=fit)[0]
    rows, columns = chain.items[0].latent.shape[-2:]
    assert (rows * 8, columns * 8) == expected


@pytest.mark.parametrize("fit", ["keep", "shrink"])
def test_a_mask_loses_the_margins_its_picture_loses(
    pack: Any, vae: Any, image: Any, fit: str
) -> None:
    mask = torch.zeros(1, 40, 76)
    mask[:, :, 6:22] = 1
    chain = pack.run("KontextReference", image=image(1, 40, 76), vae=vae, mask=mask, fit=fit)[0]
    output = pack.run("KontextStitch", conditioning=[[torch.zeros(1, 1, 1), {}]], references=chain)
    # 76 pixels lose 6 at either side: white is the first of four columns of tokens, two rows.
    assert output.ui["kontext_layout"][1]["columns"] == 4
    assert output.ui["kontext_layout"][1]["tokens"] == 2
