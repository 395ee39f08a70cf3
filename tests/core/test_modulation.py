"""Modulations of a whole run at once, against the plain way: every block's at every step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_models import draw, make_flux
from torch import Tensor, nn

from kontext_core import (
    Conditioning,
    Flux,
    Reference,
    ShapeError,
    make_noise,
    make_timesteps,
    planned,
    solvers,
    stitch,
)
from kontext_core import sample as run
from kontext_core.latents import pack, unpack
from kontext_core.models.attention import attention
from kontext_core.models.layers import Modulation, SplitRows, split_rows
from kontext_core.models.rope import rope_table

TEXTS = Conditioning(draw(50, 2, 4, 40), draw(51, 2, 24))
ONE = Conditioning(TEXTS.txt[:1], TEXTS.vec[:1])
OTHER = Conditioning(draw(52, 1, 4, 40), draw(53, 1, 24), 1.5)
REFERENCE = Reference(draw(1, 1, 16, 4, 4))


def modulation_layers(model: Flux) -> list[nn.Module]:
    """The Linear layers that only see the conditioning vector."""
    found: list[nn.Module] = [m.lin for m in model.modules() if isinstance(m, Modulation)]
    return [*found, model.final_layer.adaLN_modulation[1]]


def plainly(model: Flux, monkeypatch: pytest.MonkeyPatch, **settings: object) -> Tensor:
    """`sample` without anything computed ahead."""
    with monkeypatch.context() as patch:
        patch.setattr(planned.Planned, "at", lambda *_: None)
        return sample(model, **settings)


def sample(
    model: Flux, *, steps: int = 5, batch: int = 1, words: Conditioning = ONE, **settings: object
) -> Tensor:
    shape = (batch, 16, 6, 8)
    context = stitch(shape, [REFERENCE])
    times = make_timesteps(steps, context.target_tokens)
    return run(model, context, words, times, noise=make_noise(3, shape), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("guidance", [2.5, None])
@pytest.mark.parametrize("texts", [1, 2])
def test_forward_with_and_without(guidance: float | None, texts: int, small_flux: Flux) -> None:
    times, batch = torch.tensor([0.9, 0.5, 0.1]), 4
    y = TEXTS.vec[:texts]
    made = small_flux.modulations(times, y, None if guidance is None else y.new_full((texts,), 2.5))
    for step, t in enumerate(times):
        inputs = (
            draw(1, batch, 4, 64), torch.zeros(1, 4, 3), draw(2, batch, 3, 40),
            torch.zeros(1, 3, 3), t.expand(batch), y.repeat(batch // texts, 1),
            None if guidance is None else y.new_full((batch,), guidance),
        )  # fmt: skip
        plain = small_flux(*inputs, target_tokens=3)
        planned = small_flux(*inputs, target_tokens=3, modulation=made.at(step, batch))
        # Measured: 3.4e-6: matrix products of other heights.
        assert (planned - plain).abs().max() < 2e-5
        wrong = small_flux(*inputs, target_tokens=3, modulation=made.at(step - 1, batch))
        assert (wrong - plain).abs().max() > 1e-2


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"solver": "heun"},
        {"cfg": 3.0, "negative": OTHER},
        {"batch": 3},
        {"batch": 4, "words": TEXTS, "cfg": 3.0, "negative": OTHER, "solver": "heun"},
    ],
    ids=["euler", "heun", "cfg", "batch", "all"],
)
def test_sample_with_and_without(
    settings: dict, small_flux: Flux, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = plainly(small_flux, monkeypatch, **settings)
    # Measured: 1.7e-5 on values up to 40 for all together, 8.6e-6 for cfg, else 4.8e-6.
    assert (sample(small_flux, **settings) - plain).abs().max() < 1e-4


def test_in_windows(small_flux: Flux, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sample(small_flux, steps=7, solver="heun")
    monkeypatch.setattr(planned, "WINDOW", 3)
    # Measured: 2.9e-6 on values up to 15.
    assert (sample(small_flux, steps=7, solver="heun") - whole).abs().max() < 1e-4


def test_between_the_planned_timesteps(small_flux: Flux, monkeypatch: pytest.MonkeyPatch) -> None:
    """A solver may ask for a timestep in the middle; it gets the plain way."""

    def midpoint(velocity, x, t, following, step):  # noqa: ANN001, ANN202
        v = velocity(x, t, step)
        middle = (t + following) / 2
        return x + (following - t) * velocity(x + (middle - t) * v, middle, step), x - t * v

    monkeypatch.setitem(solvers.SOLVERS, "midpoint", midpoint)
    plain = plainly(small_flux, monkeypatch, solver="midpoint")
    # Measured: 2.9e-6 on values up to 15.
    assert (sample(small_flux, solver="midpoint") - plain).abs().max() < 1e-4


@pytest.mark.parametrize(("solver", "cfg", "times"), [("euler", 1.0, 1), ("heun", 3.0, 2)])
def test_every_layer_is_read_once_a_text(solver: str, cfg: float, times: int) -> None:
    model = make_flux()
    calls: list[int] = []
    for layer in modulation_layers(model):
        layer.register_forward_hook(lambda _, args, __: calls.append(len(args[0])))
    sample(model, steps=6, solver=solver, cfg=cfg, negative=OTHER)
    layers = len(modulation_layers(model))
    assert layers == 2 * 2 + 2 + 1
    # Seven timesteps: Heun's last call would be at 0, which is left out but planned.
    assert len(calls) == times * layers
    assert set(calls) <= {6, 7}


def test_what_a_layer_adds_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A low-rank branch on a modulation layer is part of that layer's call."""
    model, bare = make_flux(), make_flux()
    for i, layer in enumerate(modulation_layers(model)):
        branch = draw(60 + i, 2, 96) / 10, draw(70 + i, layer.out_features, 2) / 10

        def add(_: nn.Module, args: tuple, out: Tensor, branch: tuple = branch) -> Tensor:
            return out + args[0] @ branch[0].T @ branch[1].T

        layer.register_forward_hook(add)
    planned = sample(model)
    # Measured: 3.4e-6 on values up to 15.
    assert (planned - plainly(model, monkeypatch)).abs().max() < 1e-4
    assert (planned - sample(bare)).abs().max() > 0.1


def test_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_flux().to(torch.bfloat16)
    made = model.modulations(torch.tensor([0.5]), ONE.vec, torch.tensor([2.5]))
    assert made.at(0, 1).final.dtype == torch.bfloat16
    # Without guidance, whose embedding is that of a rounded value in bfloat16.
    words = Conditioning(ONE.txt, ONE.vec, None)
    exact = sample(make_flux(), words=words)
    planned = sample(model, words=words)
    plain = plainly(model, monkeypatch, words=words)
    # Measured: 0.6 % from float32, and 0 from each other.
    assert (planned - exact).norm() / exact.norm() < 0.05
    assert (planned - plain).norm() / exact.norm() < 0.05


def test_pooled_text_of_another_model(small_flux: Flux) -> None:
    with pytest.raises(
        ShapeError, match=r"pooled text y has shape \(1, 23\); expected \[texts, 24"
    ):
        small_flux.modulations(torch.tensor([0.5]), draw(1, 1, 23))


def test_rows_of_two_timesteps_hold_for_their_tokens(small_flux: Flux) -> None:
    """Each part of a sequence is modulated as if the whole had its rows; equal rows change nothing."""
    double, single = small_flux.double_blocks[0], small_flux.single_blocks[0]
    first, rest = double.modulate(draw(1, 1, 96))[0], double.modulate(draw(2, 1, 96))[0]
    x = draw(3, 2, 7, 96)
    for one, other, split in zip(
        split_rows(first), split_rows(rest), split_rows(SplitRows(first, rest, 3)), strict=True
    ):
        for name, given in (("apply", (x,)), ("onto", (x, draw(6, 2, 7, 96)))):
            both = getattr(one, name)(*given)[:, :3], getattr(other, name)(*given)[:, 3:]
            assert getattr(split, name)(*given).equal(torch.cat(both, 1))
    rows, table = single.modulate(draw(4, 2, 96)), rope_table(draw(5, 1, 7, 3), (8, 12, 12), 10_000)
    assert single(x, SplitRows(rows, rows, 4), table).equal(single(x, rows, table))


def test_blocks_take_their_attention_from_outside(small_flux: Flux) -> None:
    block = small_flux.single_blocks[0]
    x, table = draw(3, 2, 7, 96), rope_table(draw(5, 1, 7, 3), (8, 12, 12), 10_000)
    rows = block.modulate(draw(4, 2, 96))
    seen = []

    def attend(q: Tensor, k: Tensor, v: Tensor, pe: Tensor, bias: Tensor | None) -> Tensor:
        seen.append((q.shape, pe is table, bias))
        return attention(q, k, v, pe, bias)

    assert block(x, rows, table, None, attend).equal(block(x, rows, table))
    assert seen == [((2, 3, 7, 32), True, None)]


def test_references_at_timestep_0_in_every_block(small_flux: Flux) -> None:
    """`still`, against the blocks called one by one; 6 of 10 image tokens are the target's."""
    model, target = small_flux, 6
    img, ids = draw(61, 1, 10, 64), draw(62, 1, 10, 3).round()
    times, zeros = torch.tensor([0.7]), torch.zeros(1, 4, 3)
    y, guidance = ONE.vec, torch.tensor([2.5])
    with torch.no_grad():
        now, zero = (model.embed(t, y, guidance, torch.float32) for t in (times, times * 0))
        pe = rope_table(torch.cat([zeros, ids], 1), model.params.axes_dim, model.params.theta)
        x, txt = model.img_in(img), model.txt_in(ONE.txt)
        for block in model.double_blocks:
            (image, text), (still, _) = block.modulate(now), block.modulate(zero)
            x, txt = block(x, txt, (SplitRows(image, still, target), text), pe)
        x = torch.cat([txt, x], 1)
        for block in model.single_blocks:
            x = block(x, SplitRows(block.modulate(now), block.modulate(zero), 4 + target), pe)
        expected = model.final_layer(x[:, 4 : 4 + target], model.final_layer.modulate(now))
        inputs = (img, ids, ONE.txt, zeros, times, y, guidance)
        at_zero = model.modulations(times * 0, y, guidance).at(0, 1)
        found = model(*inputs, target_tokens=target, still=at_zero)
        plain = model(*inputs, target_tokens=target)
    # Measured: 0 on this machine; rows of one or of several timesteps may be rounded otherwise.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (found - plain).abs().max() > 0.01


def test_the_sampler_reads_references_at_timestep_0(small_flux: Flux) -> None:
    """One Euler step by hand. Without references, or while there are none, it is `index`."""
    shape, times = (1, 16, 6, 8), torch.tensor([1.0, 0.0])
    noise = make_noise(3, shape)

    def painted(*references: Reference, method: str) -> Tensor:
        context = stitch(shape, references, method=method)
        return run(small_flux, context, ONE, times, noise=noise)

    context = stitch(shape, [REFERENCE], method="index_timestep_zero")
    step = context.at(0.0)
    guidance = torch.tensor([ONE.guidance]) if ONE.guidance is not None else None
    with torch.no_grad():
        at_zero = small_flux.modulations(torch.zeros(1), ONE.vec, guidance).at(0, 1)
        velocity = small_flux(
            torch.cat([pack(noise), step.tokens], 1), step.img_ids, ONE.txt, torch.zeros(1, 4, 3),
            times[:1], ONE.vec, guidance, target_tokens=12, still=at_zero,
        )  # fmt: skip
    expected = small_flux.latent_format.process_out(noise - unpack(velocity, 6, 8))
    found = painted(REFERENCE, method="index_timestep_zero")
    # Measured: 0.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (found - painted(REFERENCE, method="index")).abs().max() > 0.01
    late = replace(REFERENCE, start=0.5)
    for references in ((), (late,)):
        twins = [painted(*references, method=m) for m in ("index", "index_timestep_zero")]
        assert torch.equal(*twins)
