"""What a run saves: forwards of some tokens equal whole ones, runs leave nothing behind, counts are true."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from small_models import draw, make_flux
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from kontext_core import Cancelled, Conditioning, Flux, InputError, Reference, sample, stitch
from kontext_core.accelerate import (
    Accelerate,
    Acceleration,
    Pruning,
    Region,
    Reuse,
    StepReuse,
    step_at,
)
from kontext_core.accelerated import AcceleratedRun, TokenCounts, WorkReport
from kontext_core.forecast import extrapolate
from kontext_core.guidance import Nag
from kontext_core.models.kept import KeptContext
from kontext_core.models.nag import NagTexts
from kontext_core.models.stored import Stored
from kontext_core.sampling import make_noise
from kontext_core.schedule import make_timesteps

TEXT, TARGET = 70, 150
WORDS = Conditioning(draw(50, 1, 4, 40), draw(51, 1, 24))
OTHER = Conditioning(draw(52, 1, 4, 40), draw(53, 1, 24))


def velocity(model: Flux, references: int, batch: int = 1, **more: Any) -> Tensor:
    """One forward; `references` are tokens here, of which `only` takes some."""
    count = TARGET + references
    y, guidance = draw(5, batch, 24), torch.full((batch,), 2.5)
    only = torch.cat([torch.arange(TARGET), TARGET + more.pop("only", torch.arange(references))])
    if more.pop("still", False):
        with torch.no_grad():
            more["still"] = model.modulations(torch.zeros(1), y, guidance).at(0, batch)
    with torch.no_grad():
        return model(
            draw(1, batch, count, 64)[:, only], draw(2, 1, count, 3).mul(9).round()[:, only],
            draw(3, batch, TEXT, 40), torch.zeros(1, TEXT, 3), torch.full((batch,), 0.7), y, guidance,
            attn_bias=torch.linspace(-1, 1, count)[None, only], target_tokens=TARGET, **more,
        )  # fmt: skip


def watched(model: Flux, seen: list[int]) -> RemovableHandle:
    """Notes how many image tokens the first block computes."""
    layer: Any = model.double_blocks[0]
    return layer.img_attn.qkv.register_forward_hook(
        lambda layer, given, out: seen.append(given[0].shape[1])
    )


@pytest.mark.parametrize("references", [0, 150, 300])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("nag", [False, True])
def test_a_regional_forward_is_that_part_of_the_whole(
    references: int, batch: int, nag: bool
) -> None:
    model, kept = make_flux(), KeptContext()
    kept.keeps_target = True
    more: dict[str, Any] = {"nag": NagTexts(Nag(), 30, TEXT - 30)} if nag else {}
    more["still"] = references > 0
    plain = velocity(model, references, batch, **more)
    assert velocity(model, references, batch, kept=kept, **more).equal(plain)
    rows = torch.tensor([0, 3, 4, 77, 149])
    kept.focus(rows, TARGET)
    kept.reuse = kept.regional = True
    seen: list[int] = []
    watched(model, seen)
    part = velocity(model, references, batch, kept=kept, **more)
    assert part.shape == (batch, 5, 64)
    assert seen == [5]
    # Measured: 2.9e-6, of outputs of order one.
    assert (part - plain[:, rows]).abs().max() < 1e-5


def test_reused_references_beside_a_negative_text() -> None:
    """Guidance within the attention tells texts and image apart, also where references are read."""
    model, kept = make_flux(), KeptContext()
    more = {"nag": NagTexts(Nag(), 30, TEXT - 30), "kept": kept}
    plain = velocity(model, 150, **more)
    kept.reuse = True
    # Measured: 1.9e-6.
    assert (velocity(model, 150, **more) - plain).abs().max() < 1e-5


def test_pruned_references_are_as_if_absent() -> None:
    model, kept = make_flux(), KeptContext()
    chosen = torch.tensor([1, 5, 6, 200, 299])
    plain = velocity(model, 300, only=chosen)
    kept.chosen = chosen
    # Measured: 0, and 1.6e-6 from what is kept.
    assert (velocity(model, 300, kept=kept) - plain).abs().max() < 1e-5
    kept.reuse = True
    assert (velocity(model, 300, kept=kept) - plain).abs().max() < 1e-5
    # A whole forward ranks all of them, and what is left out then is as if absent in the next.
    kept.reuse, kept.ranking = False, True
    assert velocity(model, 300, kept=kept).equal(velocity(model, 300))
    assert kept.attended is not None
    assert kept.attended.shape == (300,)
    assert 0 < float(kept.attended.sum()) < 1
    # A bias of -1 to 1 along the tokens shows in the ranks.
    assert kept.attended[:100].sum() < kept.attended[200:].sum()


@pytest.mark.parametrize("block", [0, 1])
def test_a_stopped_forward_keeps_nothing(block: int) -> None:
    """Except for one that ends behind the first block, which may be a skipped step."""
    model, kept = make_flux(), KeptContext()
    plain = velocity(model, 150, kept=kept)
    before = [pair for stored in kept._references for pair in stored.at(0)]

    def stop(*given: object) -> None:
        raise RuntimeError("stopped")

    handle = model.double_blocks[block].register_forward_hook(stop)
    with pytest.raises(RuntimeError, match="stopped"):
        velocity(model, 150, kept=kept)
    handle.remove()
    assert len(kept) == (4 if block == 0 else 0)
    if block == 0:
        after = [pair for stored in kept._references for pair in stored.at(0)]
        assert all(one is other for one, other in zip(before, after, strict=True))
    else:
        kept.reuse = True
        with pytest.raises(InputError, match="of 0 blocks are kept"):
            velocity(model, 150, kept=kept)
        kept.reuse = False
        velocity(model, 150, kept=kept)
    kept.reuse = True
    # Measured: 1.9e-6.
    assert (velocity(model, 150, kept=kept) - plain).abs().max() < 1e-5


# Step reuse


@pytest.mark.parametrize("order", [0, 1, 2])
def test_extrapolation_meets_polynomials(order: int) -> None:
    times = [1.0, 0.93, 0.81][-order - 1 :]
    factors = [draw(i, 2, 3) for i in range(order + 1)]

    def value(t: float) -> Tensor:
        return sum((factor * t**power for power, factor in enumerate(factors)), torch.zeros(2, 3))

    points = [(t, value(t)) for t in times]
    for t in (0.81, 0.7, 0.2):
        # Measured: 1.1e-6.
        assert (extrapolate(points, t, order, "taylor") - value(t)).abs().max() < 1e-5
    # Hermite's goes half as far.
    half = extrapolate(points, 0.81 - 0.06, order, "taylor")
    assert extrapolate(points, 0.81 - 0.12, order, "hermite").allclose(half)
    # Fewer points than the order asks for.
    assert extrapolate(points[-1:], 0.3, order, "taylor").equal(points[-1][1])


SHAPE = (2, 16, 6, 8)


def run(model: Flux, accelerate: Accelerate, **changes: Any) -> Tensor:
    shape = changes.pop("shape", SHAPE)
    references = [
        Reference(draw(7, 1, 16, *shape[2:])),
        Reference(draw(8, 1, 16, 6, 8), start=changes.pop("start", 0.0), end=0.75),
    ]
    context = stitch(shape, references[: changes.pop("references", 2)])
    times = make_timesteps(8, context.target_tokens)
    return sample(
        model, context, WORDS, times, noise=make_noise(1, shape), accelerate=accelerate, **changes
    )


def counts(model: Flux, accelerate: Accelerate, **changes: Any) -> tuple[int, int, int, int]:
    reports: list[WorkReport] = []
    run(model, accelerate, report=reports.append, **changes)
    (report,) = reports
    return report.full, report.reused, report.regional, report.skipped


# Everything is alike to it, so only limits hold it back.
SKIPPING = StepReuse(1.0, first=0.2, last=1, limit=2, order=1)
# Two in four of the target's tokens, by their numbers; random latents are unlike their estimate.
SOME = Region(first=0.2, every=11, last=1, similarity=0.0, grow=0, most=1.0)
ALL = Acceleration(Reuse(0, 8, 1), StepReuse(1.0, 0.3, 1, 1), SOME, Pruning(0.5, 0.1, 8))
EVERY = [Acceleration(Reuse(0, 8, 1)), Acceleration(steps=SKIPPING), Acceleration(region=SOME),
         Acceleration(pruning=Pruning(0.25, 0.1, 3)), ALL]  # fmt: skip


def test_which_steps_are_skipped(small_flux: Flux) -> None:
    # Two computed, two skipped, one computed, two skipped, the last one computed.
    assert counts(small_flux, SKIPPING, references=1) == (4, 0, 0, 4)
    assert counts(small_flux, StepReuse(1.0, 0, 0, 100), references=1) == (1, 0, 0, 7)
    assert counts(small_flux, StepReuse(1.0, 1.0), references=1) == (8, 0, 0, 0)
    # Another reference begins anew.
    assert counts(small_flux, StepReuse(1.0, 0, 0, 100)) == (2, 0, 0, 6)
    both = Acceleration(Reuse(0, 3, 0), StepReuse(1.0, 0.3, 0, 1))
    # Full, two reused, skipped where a full one was due, full, skipped, reused, skipped: the next is
    # due three steps after the one that came late.
    assert counts(small_flux, both, references=1) == (2, 3, 0, 3)


@pytest.mark.parametrize("accelerate", [None, SKIPPING, ALL])
def test_blocks_are_counted(small_flux: Flux, accelerate: Accelerate) -> None:
    ran: list[object] = []
    blocks = [*small_flux.double_blocks, *small_flux.single_blocks]
    handles = [block.register_forward_hook(lambda *given: ran.append(given[0])) for block in blocks]
    reports: list[WorkReport] = []
    try:
        run(small_flux, accelerate, negative=OTHER, cfg=2.0, report=reports.append)
    finally:
        for handle in handles:
            handle.remove()
    assert reports[0].blocks == len(ran)
    assert accelerate is None or len(ran) < 16 * len(blocks)


def test_a_skipped_step_is_its_first_block_and_what_was_added_before(small_flux: Flux) -> None:
    """By hand: a run of two steps whose second is skipped and holds."""
    seen: list[Tensor] = []
    blocks = 0

    def count(layer: object, given: object, out: object) -> None:
        nonlocal blocks
        blocks += 1

    handles = [
        small_flux.double_blocks[0].register_forward_hook(lambda a, b, out: seen.append(out[0])),
        small_flux.final_layer.register_forward_hook(lambda a, given, out: seen.append(given[0])),
        *(block.register_forward_hook(count) for block in small_flux.single_blocks),
    ]
    context = stitch((1, 16, 6, 8), [Reference(draw(7, 1, 16, 6, 8))])
    hold = StepReuse(1.0, 0, 0, 1, order=0)
    try:
        sample(
            small_flux, context, WORDS, torch.tensor([1.0, 0.5, 0.0]),
            noise=make_noise(1, (1, 16, 6, 8)), accelerate=hold,
        )  # fmt: skip
    finally:
        for handle in handles:
            handle.remove()
    first, last, again, forecast = (each[:, :12] for each in seen)
    assert forecast.allclose(again + (last - first), atol=1e-5)
    assert blocks == len(small_flux.single_blocks)


# Runs


@pytest.mark.parametrize("off", [
    None, "off", Acceleration(), StepReuse(0.0), Reuse(1.0), Region(first=1.0), Pruning(1.0),
    # No token is like its original: all of them change.
    Region(0, 11, 0, similarity=1.0, grow=3, most=1.0),
    Acceleration(Reuse(0, 1), StepReuse(0.0), Region(1.0), Pruning(0.1, 1.0)),
])  # fmt: skip
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_what_saves_nothing_is_the_plain_run(
    small_flux: Flux, off: Accelerate, solver: str
) -> None:
    plain = run(small_flux, None, solver=solver)
    assert run(small_flux, off, solver=solver).equal(plain)


@pytest.mark.parametrize("accelerate", EVERY)
def test_runs_leave_nothing_behind(small_flux: Flux, accelerate: Acceleration) -> None:
    """Other sizes, one after the other, stopped in the middle, then a plain run as before."""
    before = run(small_flux, None)
    fast = run(small_flux, accelerate)
    assert fast.isfinite().all()
    assert not fast.equal(before)
    assert run(small_flux, accelerate, shape=(1, 16, 8, 10)).shape == (1, 16, 8, 10)
    for many in (1, 4, 6):
        asked = iter([False] * many + [True])
        with pytest.raises(Cancelled) as stopped:
            run(small_flux, accelerate, should_stop=partial(next, asked))
        going_on = run(small_flux, accelerate, state=stopped.value.state)
        assert going_on.isfinite().all()
    assert run(small_flux, accelerate).equal(fast)
    assert run(small_flux, None).equal(before)


@pytest.mark.parametrize("accelerate", EVERY)
@pytest.mark.parametrize(
    "changes",
    [
        {"solver": "heun"},
        {"negative": OTHER, "cfg": 2.0},
        {"negative": OTHER, "nag": 5.0},
        {"references": 0},
        {"start": 0.3},
        {"noise_mask": torch.ones(1, 1, 6, 8).index_fill(3, torch.arange(4), 0)},
    ],
)
def test_with_everything_else(
    small_flux: Flux, accelerate: Acceleration, changes: dict[str, Any]
) -> None:
    reports: list[WorkReport] = []
    out = run(small_flux, accelerate, report=reports.append, **changes)
    assert out.isfinite().all()
    calls = {"solver": 15, "cfg": 16}
    total = next((calls[name] for name in changes if name in calls), 8)
    (report,) = reports
    assert report.full + report.reused + report.regional + report.skipped == total
    assert report.work <= 1


def test_a_painted_region_is_what_the_mask_says(small_flux: Flux) -> None:
    """Two columns of tokens are painted, and one beside them counts as painted."""
    seen: list[int] = []
    handle = watched(small_flux, seen)
    mask = torch.ones(1, 1, 6, 8).index_fill(3, torch.arange(4), 0)
    latent = draw(9, 1, 16, 6, 8)
    region = Region(0, 11, 1, grow=1, most=0.9)
    try:
        out = run(small_flux, region, references=1, noise_mask=mask, latent=latent)
    finally:
        handle.remove()
    assert seen == [24] + [9] * 6 + [24]
    # What is kept is kept. Measured: 9.5e-7.
    assert (out - latent)[..., :4].abs().max() < 1e-5
    assert counts(small_flux, region, references=1, noise_mask=mask) == (2, 0, 6, 0)


def test_unchanged_tokens_go_to_their_estimate(small_flux: Flux) -> None:
    """Without a token that changes, all but the one that has to be computed end at what the first
    step's estimate said."""
    estimates: list[Tensor] = []
    region = Region(0, 100, 0, similarity=-1.0)
    out = run(small_flux, region, references=1, callback=lambda step, n, x0: estimates.append(x0))
    ended = small_flux.latent_format.process_in(out)
    first = estimates[0]
    # The first token is the first two cells of the first two rows. Measured: 2.4e-6.
    assert (ended - first)[..., 2:].abs().max() < 2e-5
    assert not ended[..., :2, :2].allclose(first[..., :2, :2], atol=1e-3)


def test_references_are_pruned_by_what_is_looked_at(small_flux: Flux) -> None:
    seen: list[int] = []
    handle = watched(small_flux, seen)
    try:
        run(small_flux, Pruning(0.25, 0.1, 3, 1), references=1)
    finally:
        handle.remove()
    assert seen == [24, 15, 15, 24, 15, 15, 24, 24]


def test_work_is_counted() -> None:
    """At FLUX.1's size, by its own numbers: a reuse step is 0.53 of a full one, field's 87.6 of
    165.4 TFLOP; a skipped one 1 of 57 blocks."""

    class Sizes:
        hidden_size, depth, depth_single_blocks = 3072, 19, 38

    layout = TokenCounts(1, 512, 4096, (4096,), (True,))
    saving = AcceleratedRun(Acceleration(Reuse(0, 100, 0)), Sizes)
    side = saving.side()
    call = side.call(1.0, 0, 28, layout)
    assert call.kind == "full"
    call.finish(torch.zeros(1, 4096, 1), torch.zeros(1, 4096, 1))
    assert saving.report == WorkReport(1, blocks=57)
    # Nothing was kept, as no network ran: a full one again.
    assert side.call(0.9, 1, 28, layout).kind == "full"
    assert call.kept is not None
    nothing = torch.zeros(1, 1, 1, 1)
    stored = Stored()
    stored.put(1.0, (nothing, nothing))
    call.kept._references = [stored] * 57
    side.call(0.9, 1, 28, layout).finish(torch.zeros(1, 4096, 1), torch.zeros(1, 4096, 1))
    assert saving.report.reused == 1
    assert saving.report.work == pytest.approx((1 + 87.6 / 165.4) / 2, abs=0.002)
    # A rise begins a new run.
    assert side.call(1.0, 0, 28, layout).kind == "full"


def test_which_step_a_noise_level_is_in() -> None:
    times = [1.0, 0.8, 0.5, 0.0]
    assert [step_at(t, times) for t in (1.0, 0.9, 0.8, 0.6, 0.5000001, 0.2)] == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    "made",
    [
        lambda: StepReuse(-0.1),
        lambda: StepReuse(order=3),
        lambda: StepReuse(basis="fourier"),
        lambda: StepReuse(limit=0),
        lambda: Region(similarity=2),
        lambda: Region(grow=-1),
        lambda: Pruning(0),
        lambda: Acceleration(Region()),  # type: ignore[arg-type]
    ],
)
def test_settings_out_of_range(made: Any) -> None:
    with pytest.raises(InputError):
        made()
