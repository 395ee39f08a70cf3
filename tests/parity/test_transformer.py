"""The transformer beside diffusers' FluxTransformer2DModel, in every placement of references.

The oracle gets ids and tokens written out here, from the published formulas, not from `stitch`.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from diffusers import FluxTransformer2DModel
from oracle import diffusers_transformer
from small_models import draw, make_flux
from torch import Tensor

from kontext_core import Flux, Reference, stitch
from kontext_core.latents import pack

# Measured on outputs of standard deviation 1: 0, to the last bit; the margin is for CPUs whose
# matrix products round differently for the oracle's separate q, k, v and our joint one.
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def twin(small_flux: Flux) -> FluxTransformer2DModel:
    return diffusers_transformer(small_flux)


def tokens_of(raw: Tensor) -> Tensor:
    """Scaled and packed as the pipeline does it, odd sides continued from the other edge."""
    latent = (raw - 0.1159) * 0.3611
    if latent.shape[2] % 2:
        latent = torch.cat([latent, latent[:, :, :1]], dim=2)
    if latent.shape[3] % 2:
        latent = torch.cat([latent, latent[..., :1]], dim=3)
    b, c, h, w = latent.shape
    cells = latent.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return cells.reshape(b, h // 2 * (w // 2), 4 * c)


def grid(t: float, h: float, w: float, height: int, width: int) -> Tensor:
    """Ids of a latent of this size whose first token stands at (t, h, w)."""
    rows = []
    for row in range(-(-height // 2)):
        rows.extend([t, h + row, w + column] for column in range(-(-width // 2)))
    return torch.tensor(rows, dtype=torch.float32)


@dataclass(frozen=True)
class Case:
    """Sizes in latent cells, and where each reference's first token has to stand."""

    name: str
    target: tuple[int, int]
    references: tuple[tuple[int, int], ...] = ()
    origins: tuple[tuple[float, float, float], ...] = ()
    method: str = "offset"
    explicit: bool = False
    batch: int = 1


CASES = [
    Case("no reference", (8, 12)),
    Case("one", (8, 12), ((8, 12),), ((1, 0, 0),)),
    Case("offset two", (8, 8), ((12, 8), (8, 16)), ((1, 0, 0), (1, 6, 0))),
    Case("offset three", (8, 8), ((12, 8), (8, 16), (10, 6)), ((1, 0, 0), (1, 6, 0), (1, 0, 8))),
    Case("offset odd", (7, 9), ((5, 7), (9, 3)), ((1, 0, 0), (1, 0, 4))),
    Case("index", (8, 8), ((12, 8), (8, 16)), ((1, 0, 0), (2, 0, 0)), "index"),
    Case("uxo", (8, 12), ((6, 8), (4, 4)), ((0, 4, 6), (0, 7, 10)), "uxo"),
    Case("uxo odd", (7, 9), ((5, 7), (4, 4)), ((0, 4, 5), (0, 7, 9)), "uxo"),
    Case(
        "explicit", (8, 8), ((6, 8), (4, 4)), ((2, -3, 5.5), (0.5, 300, 7)), "index", explicit=True
    ),
    Case("batch", (6, 8), ((6, 8), (8, 4)), ((1, 0, 0), (1, 0, 4)), batch=2),
]


@pytest.mark.parametrize("guidance", [2.5, 4.0])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_velocity(
    case: Case, guidance: float, small_flux: Flux, twin: FluxTransformer2DModel
) -> None:
    target = draw(1, case.batch, 16, *case.target)
    latents = [draw(2 + i, case.batch, 16, *size) for i, size in enumerate(case.references)]
    positions = case.origins if case.explicit else (None,) * len(latents)
    context = stitch(
        target.shape,
        [Reference(raw, position=at) for raw, at in zip(latents, positions, strict=True)],
        method=case.method,
    )
    txt, vec = draw(20, case.batch, 5, 40), draw(21, case.batch, 24)
    times = torch.tensor([0.83, 0.31])[: case.batch]
    strength = torch.full((case.batch,), guidance)

    img = torch.cat([pack((target - 0.1159) * 0.3611), context.tokens], dim=1)
    ours = small_flux(img, context.img_ids, txt, torch.zeros(1, 5, 3), times, vec, strength)
    theirs = twin(
        torch.cat([tokens_of(raw) for raw in (target, *latents)], dim=1),
        txt,
        vec,
        times,
        torch.cat(
            [grid(0, 0, 0, *case.target)]
            + [grid(*at, *size) for at, size in zip(case.origins, case.references, strict=True)]
        ),
        torch.zeros(5, 3),
        strength,
        return_dict=False,
    )[0]
    # A dead network would agree with anything.
    assert 0.3 < theirs.std() < 3
    assert (ours - theirs).abs().max() < TOLERANCE

    alone = small_flux(
        img, context.img_ids, txt, torch.zeros(1, 5, 3), times, vec, strength,
        target_tokens=context.target_tokens,
    )  # fmt: skip
    # Measured: 0. Only the last layer's product has fewer rows.
    assert (alone - ours[:, : context.target_tokens]).abs().max() < 2e-6


@pytest.mark.parametrize("strength", [2, 3])
def test_strength_is_that_many_copies(
    strength: int, small_flux: Flux, twin: FluxTransformer2DModel
) -> None:
    """A key that weighs twice is a key shown twice, which the oracle can do."""
    target, first, second = draw(1, 1, 16, 6, 6), draw(2, 1, 16, 6, 4), draw(3, 1, 16, 4, 4)
    context = stitch(target.shape, [Reference(first), Reference(second, strength=strength)])
    txt, vec, times = draw(4, 1, 5, 40), draw(5, 1, 24), torch.tensor([0.6])
    ours = small_flux(
        torch.cat([pack((target - 0.1159) * 0.3611), context.tokens], dim=1),
        context.img_ids, txt, torch.zeros(1, 5, 3), times, vec, torch.tensor([2.5]),
        attn_bias=context.bias, target_tokens=context.target_tokens,
    )  # fmt: skip

    def shown(copies: int) -> Tensor:
        images = [target, first, *[second] * copies]
        ids = [grid(0, 0, 0, 6, 6), grid(1, 0, 0, 6, 4), *[grid(1, 0, 2, 4, 4)] * copies]
        tokens = torch.cat([tokens_of(raw) for raw in images], dim=1)
        return twin(
            tokens, txt, vec, times, torch.cat(ids), torch.zeros(5, 3), torch.tensor([2.5]),
            return_dict=False,
        )[0][:, :9]  # fmt: skip

    assert (shown(strength) - shown(1)).abs().max() > 1e-2
    # Measured: 1.4e-6.
    assert (ours - shown(strength)).abs().max() < TOLERANCE


def test_without_guidance_embedding() -> None:
    """A model that is not guidance-distilled, and deeper in single blocks than in double ones."""
    model = make_flux(7, guidance_embed=False, depth=1, depth_single_blocks=3)
    twin = diffusers_transformer(model)
    target, txt, vec = draw(1, 1, 16, 4, 6), draw(2, 1, 3, 40), draw(3, 1, 24)
    context = stitch(target.shape)
    times = torch.tensor([0.4])
    ours = model(pack(target), context.img_ids, txt, torch.zeros(1, 3, 3), times, vec)
    theirs = twin(
        pack(target), txt, vec, times, context.img_ids[0], torch.zeros(3, 3), return_dict=False
    )[0]
    assert 0.3 < theirs.std() < 3
    # Measured: 0.
    assert (ours - theirs).abs().max() < TOLERANCE
