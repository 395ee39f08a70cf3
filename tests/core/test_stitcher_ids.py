"""Where references stand: ids of every placement, against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from small_models import draw
from torch import Tensor

from kontext_core import InputError, Reference, ShapeError, stitch
from kontext_core.latents import FLUX_LATENT, pack


def reference(height: int, width: int, **settings: object) -> Reference:
    """A reference of this size in latent cells."""
    return Reference(draw(height * 100 + width, 1, 16, height, width), **settings)


def origins(context) -> list[tuple[float, float, float]]:
    """First-token position of every reference."""
    return [(p.t, p.h, p.w) for p in context.layout[1:]]


def test_target_alone() -> None:
    context = stitch((1, 16, 4, 6))
    expected = [[0.0, row, column] for row in range(2) for column in range(3)]
    assert context.img_ids.tolist() == [expected]
    assert context.img_ids.dtype == torch.float32
    assert context.tokens.shape == (1, 0, 64)
    assert context.target_tokens == 6
    assert context.bias is None


@pytest.mark.parametrize(
    ("method", "sizes", "expected"),
    [
        ("offset", [(12, 8)], [(1, 0, 0)]),
        # The worked example: tall, so the second goes below; then the third beside.
        ("offset", [(12, 8), (8, 16), (10, 6)], [(1, 0, 0), (1, 6, 0), (1, 0, 8)]),
        ("offset", [(8, 8), (8, 8)], [(1, 0, 0), (1, 4, 0)]),
        ("offset", [(8, 8)] * 4, [(1, 0, 0), (1, 4, 0), (1, 0, 4), (1, 8, 0)]),
        # Odd sizes: extents add up in cells, then half cells round up.
        ("offset", [(5, 7), (9, 3)], [(1, 0, 0), (1, 0, 4)]),
        ("offset", [(3, 9), (3, 9), (3, 9)], [(1, 0, 0), (1, 2, 0), (1, 3, 0)]),
        ("index", [(12, 8), (8, 16), (10, 6)], [(1, 0, 0), (2, 0, 0), (3, 0, 0)]),
        # Target 10x14 cells: the diagonal starts at tokens (5, 7).
        ("uxo", [(4, 6), (8, 2)], [(0, 5, 7), (0, 7, 10)]),
        ("uxo", [(3, 5), (2, 2)], [(0, 5, 7), (0, 7, 10)]),
    ],
)
def test_placements(
    method: str, sizes: list[tuple[int, int]], expected: list[tuple[float, float, float]]
) -> None:
    context = stitch((1, 16, 10, 14), [reference(*size) for size in sizes], method=method)
    assert origins(context) == expected


def test_uxo_counts_an_odd_target_up() -> None:
    """The diagonal starts after the padded target, 9x13 cells made 10x14."""
    context = stitch((1, 16, 9, 13), [reference(5, 3), reference(4, 4)], method="uxo")
    assert origins(context) == [(0, 5, 7), (0, 8, 9)]


def test_explicit_position_overrides_and_takes_no_place() -> None:
    placed = [
        reference(8, 8),
        reference(4, 4, position=(2.5, -3.0, 7.25)),
        reference(8, 8),
    ]
    assert origins(stitch((1, 16, 8, 8), placed)) == [(1, 0, 0), (2.5, -3, 7.25), (1, 4, 0)]
    by_index = stitch((1, 16, 8, 8), placed, method="index")
    assert origins(by_index) == [(1, 0, 0), (2.5, -3, 7.25), (2, 0, 0)]
    ids = by_index.img_ids[0, 16 + 16 : 16 + 16 + 4]
    assert ids.tolist() == [[2.5, -3, 7.25], [2.5, -3, 8.25], [2.5, -2, 7.25], [2.5, -2, 8.25]]


def test_ids_stay_exact_far_out() -> None:
    """Half precision would round these; float32 keeps every one apart."""
    context = stitch((1, 16, 4, 4), [reference(4, 600, position=(1, 0, 2000))])
    assert context.img_ids[0, 4:304, 2].tolist() == [2000.0 + i for i in range(300)]
    assert context.to("cpu", torch.bfloat16).img_ids.dtype == torch.float32


def test_tokens_are_scaled_packed_and_in_order() -> None:
    first, second = reference(4, 6), reference(6, 4)
    context = stitch((1, 16, 4, 4), [first, second])
    expected = [pack((r.latent - 0.1159) * 0.3611) for r in (first, second)]
    assert context.tokens.equal(torch.cat(expected, dim=1))
    assert [p.tokens for p in context.layout] == [4, 6, 6]
    assert [p.index for p in context.layout] == [0, 1, 2]
    assert context.img_ids.shape == (1, 16, 3)


@pytest.mark.parametrize(("height", "width"), [(5, 7), (1, 1), (4, 3)])
def test_odd_sizes_have_an_id_for_every_token(height: int, width: int) -> None:
    context = stitch((1, 16, height, width), [reference(height, width)])
    tokens = ((height + 1) // 2) * ((width + 1) // 2)
    assert context.target_tokens == tokens
    assert context.tokens.shape == (1, tokens, 64)
    assert context.img_ids.shape == (1, 2 * tokens, 3)
    # Same size as the target: the ids coincide but for t.
    target, ref = context.img_ids[0].chunk(2)
    assert ref[:, 1:].equal(target[:, 1:])
    assert (ref[:, 0] == 1).all() and (target[:, 0] == 0).all()


def test_batches() -> None:
    """One reference serves all targets; as many as targets are taken one by one."""
    one, two = draw(1, 1, 16, 4, 4), draw(2, 2, 16, 4, 4)
    context = stitch((2, 16, 4, 4), [Reference(one), Reference(two)])
    scaled: list[Tensor] = [pack(FLUX_LATENT.process_in(x)) for x in (one, two)]
    assert context.tokens[:, :4].equal(scaled[0].expand(2, -1, -1))
    assert context.tokens[:, 4:].equal(scaled[1])
    with pytest.raises(ShapeError, match="batch of 2, the target one of 3"):
        stitch((3, 16, 4, 4), [Reference(two)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strength": -0.1}, "strength is -0.1"),
        ({"strength": 4.5}, "strength is 4.5"),
        ({"strength": float("nan")}, "strength is nan"),
        ({"start": 0.5, "end": 0.5}, "start 0.5 and end 0.5"),
        ({"start": -0.1}, "start -0.1"),
        ({"end": 1.1}, "end 1.1"),
        ({"mask": torch.zeros(8, 8)}, "leaves none of its 4 tokens"),
        ({"mask": torch.ones(1, 8, 8)}, r"mask has shape \(1, 8, 8\)"),
        ({"position": (1.0, 2.0)}, "three numbers"),
        ({"position": (1.0, float("nan"), 0.0)}, "three numbers"),
    ],
)
def test_settings_out_of_range(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        stitch((1, 16, 4, 4), [reference(4, 4, **settings)])


def test_unusable_tensors() -> None:
    with pytest.raises(InputError, match="unknown placement method 'grid'"):
        stitch((1, 16, 4, 4), method="grid")
    for target in ((1, 16, 4), (1, 4, 4, 4), (1, 16, 0, 4)):
        with pytest.raises(ShapeError, match="target shape"):
            stitch(target)
    for latent in (draw(0, 16, 4, 4), draw(0, 1, 4, 4, 4), torch.zeros(1, 16, 4, 4).long()):
        with pytest.raises(ShapeError, match="reference 1"):
            stitch((1, 16, 4, 4), [Reference(latent)])
    broken = draw(0, 1, 16, 4, 4)
    broken[0, 3, 1, 1] = float("nan")
    with pytest.raises(InputError, match="reference 2 contains NaN"):
        stitch((1, 16, 4, 4), [reference(4, 4), Reference(broken)])
