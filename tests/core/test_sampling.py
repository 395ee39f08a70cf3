"""The run: what goes in and out, starts, masks, guidance, callbacks and stopping."""

from __future__ import annotations

import pytest
import torch
from small_models import draw, make_flux
from torch import Tensor

from kontext_core import (
    Cancelled,
    Conditioning,
    Context,
    Flux,
    InputError,
    KontextError,
    Reference,
    ShapeError,
    make_noise,
    make_timesteps,
    sample,
    stitch,
)
from kontext_core.guidance import classifier_free
from kontext_core.latents import FLUX_LATENT, pack, unpack
from kontext_core.models.block_run import Modulations
from kontext_core.solvers import SOLVERS

SHAPE = (1, 16, 6, 8)
WORDS = Conditioning(draw(50, 1, 4, 40), draw(51, 1, 24))
OTHER = Conditioning(draw(52, 1, 4, 40), draw(53, 1, 24))
TIMES = make_timesteps(4, 12)


class Pointing(Flux):
    """A transformer that always knows the picture: its velocity leads straight to `goal`."""

    def __init__(self, goal: Tensor) -> None:
        super().__init__(make_flux().params)
        self.goal = goal
        self.calls = 0

    def forward(
        self, img: Tensor, img_ids: Tensor, txt: Tensor, txt_ids: Tensor, timesteps: Tensor,
        y: Tensor, guidance: Tensor | None = None, *, attn_bias: Tensor | None = None,
        target_tokens: int | None = None, modulation: Modulations | None = None, **more: object,
    ) -> Tensor:  # fmt: skip
        self.calls += 1
        return (img[:, :target_tokens] - pack(self.goal)) / timesteps[:, None, None]


def start(seed: int = 3) -> tuple[Context, Tensor]:
    return stitch(SHAPE), make_noise(seed, SHAPE)


def test_calls_per_step() -> None:
    for solver, calls in (("euler", 4), ("heun", 7)):
        model = Pointing(torch.zeros(SHAPE))
        context, noise = start()
        sample(model, context, WORDS, TIMES, noise=noise, solver=solver)
        assert model.calls == calls


def test_result_is_raw(small_flux: Flux) -> None:
    """The network works in model space; what comes out is what the autoencoder decodes."""
    goal = draw(1, *SHAPE)
    context, noise = start()
    result = sample(Pointing(goal), context, WORDS, TIMES, noise=noise)
    # Measured: 4.8e-7 on values up to 10.
    assert (result - FLUX_LATENT.process_out(goal)).abs().max() < 1e-5
    assert result.dtype == torch.float32


def test_euler_by_hand(small_flux: Flux) -> None:
    context, noise = start()
    x = noise
    for t, following in zip(TIMES[:-1], TIMES[1:], strict=True):
        img_ids, txt_ids = context.img_ids, torch.zeros(1, 4, 3)
        tokens = small_flux(
            pack(x), img_ids, WORDS.txt, txt_ids, t[None], WORDS.vec, torch.tensor([2.5])
        )
        v = tokens.view(1, 3, 4, 16, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(SHAPE)
        x = x + (following - t) * v
    result = sample(small_flux, context, WORDS, TIMES, noise=noise)
    # Measured: 2.9e-6 on values up to 15.
    assert (result - FLUX_LATENT.process_out(x)).abs().max() < 1e-5


def test_batch_equals_one_by_one(small_flux: Flux) -> None:
    shape = (2, *SHAPE[1:])
    noise = make_noise(4, shape)
    words = Conditioning(torch.cat([WORDS.txt, OTHER.txt]), torch.cat([WORDS.vec, OTHER.vec]))
    refs = draw(1, 2, 16, 4, 4)
    both = sample(small_flux, stitch(shape, [Reference(refs)]), words, TIMES, noise=noise)
    for i, single in enumerate((WORDS, OTHER)):
        context = stitch(SHAPE, [Reference(refs[i : i + 1])])
        alone = sample(small_flux, context, single, TIMES, noise=noise[i : i + 1])
        # Measured: 3.3e-6; a batch of two takes other matrix kernels.
        assert (both[i] - alone[0]).abs().max() < 1e-4


def test_guidance_value_reaches_the_model(small_flux: Flux) -> None:
    context, noise = start()
    results = [
        sample(small_flux, context, Conditioning(WORDS.txt, WORDS.vec, g), TIMES, noise=noise)
        for g in (None, 0.0, 2.5, 4.0)
    ]
    for i, first in enumerate(results):
        for second in results[i + 1 :]:
            assert (first - second).abs().max() > 1e-2


def test_classifier_free_formula() -> None:
    positive, negative = torch.tensor([2.0, 1.0]), torch.tensor([1.0, 3.0])
    assert classifier_free(positive, negative, 3.0).tolist() == [4.0, -3.0]
    assert classifier_free(positive, negative, 1.0).equal(positive)
    assert classifier_free(positive, negative, 0.0).equal(negative)


def test_classifier_free_run(small_flux: Flux) -> None:
    context, noise = start()
    plain = sample(small_flux, context, WORDS, TIMES, noise=noise)
    unused = sample(small_flux, context, WORDS, TIMES, noise=noise, negative=OTHER, cfg=1.0)
    assert unused.equal(plain)
    same = sample(small_flux, context, WORDS, TIMES, noise=noise, negative=WORDS, cfg=5.0)
    assert same.equal(plain)
    one_step = torch.tensor([1.0, 0.0])

    def velocity(words: Conditioning, **settings: object) -> Tensor:
        out = sample(small_flux, context, words, one_step, noise=noise, **settings)
        return noise - FLUX_LATENT.process_in(out)

    expected = velocity(OTHER) + 3 * (velocity(WORDS) - velocity(OTHER))
    guided = velocity(WORDS, negative=OTHER, cfg=3.0)
    # Measured: 1.9e-6 on values up to 10.
    assert (guided - expected).abs().max() < 2e-5


def test_start_from_a_picture() -> None:
    """Begins at t * noise + (1 - t) * picture in model space."""
    times = make_timesteps(2, 12, denoise=0.5)
    raw = draw(2, *SHAPE) * 3
    context, noise = start()
    seen: list[Tensor] = []

    class Watching(Pointing):
        def forward(self, img: Tensor, *args, **kwargs) -> Tensor:
            seen.append(img)
            return super().forward(img, *args, **kwargs)

    result = sample(Watching(torch.zeros(SHAPE)), context, WORDS, times, noise=noise, latent=raw)
    expected = times[0] * noise + (1 - times[0]) * FLUX_LATENT.process_in(raw)
    assert seen[0].equal(pack(expected))
    # Measured: 1.6e-7.
    assert (result - 0.1159).abs().max() < 1e-5


def test_an_empty_latent_is_no_start() -> None:
    times = make_timesteps(2, 12, denoise=0.5)
    context, noise = start()
    goal = Pointing(draw(1, *SHAPE))
    empty = sample(goal, context, WORDS, times, noise=noise, latent=torch.zeros(SHAPE))
    assert empty.equal(sample(goal, context, WORDS, times, noise=noise))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("denoise", [1.0, 0.6])
def test_noise_mask_keeps_the_rest(solver: str, denoise: float, small_flux: Flux) -> None:
    times = make_timesteps(3, 12, denoise=denoise)
    raw = draw(2, *SHAPE) * 3
    mask = torch.zeros(1, 1, 48, 64)
    mask[..., 32:] = 1
    context, noise = start()
    result = sample(
        small_flux, context, WORDS, times, noise=noise, latent=raw, noise_mask=mask, solver=solver
    )
    # Measured: 9.5e-7 on values up to 12.
    assert (result[..., :4] - raw[..., :4]).abs().max() < 1e-5
    assert (result[..., 4:] - raw[..., 4:]).abs().mean() > 0.5


def test_the_model_sees_the_kept_part_as_noisy_as_the_rest() -> None:
    raw = draw(2, *SHAPE) * 3
    mask = torch.zeros(6, 8)
    mask[:, 4:] = 1
    context, noise = start()
    seen: list[tuple[float, Tensor]] = []

    class Watching(Pointing):
        def forward(self, img: Tensor, *args, **kwargs) -> Tensor:
            seen.append((float(args[3][0]), unpack(img, 6, 8)))
            return super().forward(img, *args, **kwargs)

    model = Watching(draw(1, *SHAPE))
    sample(model, context, WORDS, TIMES, noise=noise, latent=raw, noise_mask=mask)
    clean = FLUX_LATENT.process_in(raw)
    assert [t for t, _ in seen] == TIMES[:-1].tolist()
    for t, latent in seen:
        # Measured: 0.
        assert (latent - (t * noise + (1 - t) * clean))[..., :4].abs().max() < 1e-6


def test_noise_mask_of_ones_changes_nothing(small_flux: Flux) -> None:
    context, noise = start()
    raw = draw(2, *SHAPE)
    plain = sample(small_flux, context, WORDS, TIMES, noise=noise, latent=raw)
    masked = sample(
        small_flux, context, WORDS, TIMES, noise=noise, latent=raw, noise_mask=torch.ones(48, 64)
    )
    # Measured: 2.4e-6 on values up to 15: x - (x - t * v) over t is not v to the bit.
    assert (plain - masked).abs().max() < 1e-4


@pytest.mark.parametrize("solver", SOLVERS)
def test_callback_counts_steps_and_shows_the_picture_to_come(solver: str) -> None:
    goal = draw(1, *SHAPE)
    seen: list[tuple[int, int]] = []

    def watch(step: int, total: int, x0: Tensor) -> None:
        seen.append((step, total))
        # Measured: 2.4e-7.
        assert (x0 - goal).abs().max() < 1e-5

    context, noise = start()
    sample(Pointing(goal), context, WORDS, TIMES, noise=noise, solver=solver, callback=watch)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(("solver", "cfg", "passes"), [("euler", 1.0, 1), ("heun", 3.0, 4)])
def test_stops_before_the_next_model_call(solver: str, cfg: float, passes: int) -> None:
    """Asked to stop while step 2 of 4 reports, no further call is made."""
    model = Pointing(torch.zeros(SHAPE))
    stop = False
    calls_at_stop = 0

    def watch(step: int, total: int, x0: Tensor) -> None:
        nonlocal stop, calls_at_stop
        if step == 2:
            stop, calls_at_stop = True, model.calls

    context, noise = start()
    with pytest.raises(Cancelled, match="stopped on request at step [23] of 4"):
        sample(
            model, context, WORDS, TIMES, noise=noise, solver=solver, cfg=cfg, negative=OTHER,
            callback=watch, should_stop=lambda: stop,
        )  # fmt: skip
    assert model.calls == calls_at_stop > 0


def test_stops_before_anything() -> None:
    model = Pointing(torch.zeros(SHAPE))
    context, noise = start()
    with pytest.raises(Cancelled):
        sample(model, context, WORDS, TIMES, noise=noise, should_stop=lambda: True)
    assert model.calls == 0


def test_a_model_that_gives_nan() -> None:
    context, noise = start()
    with pytest.raises(KontextError, match="NaN or infinite values in torch.float32") as caught:
        sample(Pointing(torch.full(SHAPE, float("nan"))), context, WORDS, TIMES, noise=noise)
    assert not isinstance(caught.value, InputError)


def test_no_gradient_is_kept(small_flux: Flux) -> None:
    context, noise = start()
    model = make_flux().requires_grad_(True)
    assert not sample(model, context, WORDS, TIMES, noise=noise).requires_grad


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"solver": "dpm"}, InputError, "unknown solver 'dpm'; expected one of euler, heun"),
        ({"noise": draw(1, 1, 16, 6, 6)}, ShapeError, "noise has shape"),
        ({"timesteps": torch.tensor([1.0])}, InputError, "at least two falling"),
        ({"timesteps": torch.tensor([0.5, 0.5])}, InputError, "at least two falling"),
        ({"cfg": -1.0}, InputError, "cfg is -1"),
        ({"cfg": float("nan")}, InputError, "cfg is nan"),
        ({"cfg": 2.0}, InputError, "no negative conditioning"),
        ({"latent": draw(1, 1, 16, 4, 4)}, ShapeError, "start latent has shape"),
        ({"latent": draw(1, 1, 4, 6, 8)}, ShapeError, "expected .batch, 16"),
        ({"noise_mask": torch.ones(3, 1, 6, 8)}, ShapeError, "3 noise masks for a batch of 1"),
        ({"noise_mask": torch.ones(8)}, ShapeError, "noise mask has shape"),
        (
            {"conditioning": Conditioning(draw(1, 2, 4, 40), draw(2, 2, 24))},
            ShapeError,
            "2 instructions for a batch of 1",
        ),
        (
            {"conditioning": Conditioning(draw(1, 1, 4, 39), draw(2, 1, 24))},
            ShapeError,
            "txt has shape",
        ),
        (
            {"conditioning": Conditioning(draw(1, 1, 4, 40), draw(2, 1, 23))},
            ShapeError,
            "pooled text y has shape",
        ),
    ],
)
def test_unusable_arguments(
    changes: dict, kind: type[Exception], message: str, small_flux: Flux
) -> None:
    context, noise = start()
    values = {"conditioning": WORDS, "timesteps": TIMES, "noise": noise, **changes}
    with pytest.raises(kind, match=message):
        sample(small_flux, context, **values)


def test_unusable_conditioning() -> None:
    with pytest.raises(ShapeError, match="conditioning has shapes"):
        Conditioning(draw(1, 4, 40), draw(2, 1, 24))
    with pytest.raises(InputError, match="guidance is 101"):
        Conditioning(draw(1, 1, 4, 40), draw(2, 1, 24), 101)
