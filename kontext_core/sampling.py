"""The rectified-flow sampler: follows the velocity from noise to picture. Pure functions.

x_t = (1 - t) * picture + t * noise, velocity v = noise - picture, so picture = x_t - t * v.
Shapes: b batch, c channels, h and w latent cells.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from .accelerate import Accelerate, Acceleration, as_acceleration
from .accelerated import AcceleratedRun, Original, TokenCounts, WorkReport
from .checks import check_choice, check_number, check_whole
from .errors import Cancelled, InputError, ShapeError
from .finite import check_finite, not_finite
from .guidance import Conditioning, Nag, as_nag, classifier_free
from .latents import pack, unpack
from .models.flux import Flux
from .noise_mask import MASK_MODES, mask_now, mask_on_latent
from .planned import Planned
from .region import mask_on_tokens, original_of
from .solvers import SOLVERS, Solver
from .stitcher import Context

Callback = Callable[[int, int, Tensor, Tensor], None]
OldCallback = Callable[[int, int, Tensor], None]


@dataclass(frozen=True, eq=False)
class SamplerState:
    """A run between two of its steps, all that is needed to go on with it.

    Attributes:
        x: [b, c, h, w] float32 latent in model space, as noisy as timesteps[step].
        step: steps that are done, 0..steps.
        steps: of the whole run.
    """

    x: Tensor
    step: int
    steps: int


def make_noise(seed: int, shape: tuple[int, ...] | torch.Size) -> Tensor:
    """float32 CPU noise equal to ComfyUI's for this seed and latent shape.

    Raises:
        InputError: a seed outside 0 .. 2^64 - 1.
    """
    seed = check_whole(seed, "seed", 0, 2**64 - 1)
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float32)


def sample(
    model: Flux,
    context: Context,
    conditioning: Conditioning,
    timesteps: Tensor,
    *,
    noise: Tensor,
    state: SamplerState | None = None,
    latent: Tensor | None = None,
    negative: Conditioning | None = None,
    cfg: float = 1.0,
    nag: float | Nag | None = None,
    solver: str = "euler",
    accelerate: Accelerate = None,
    noise_mask: Tensor | None = None,
    mask_mode: str = "soft",
    callback: Callback | OldCallback | None = None,
    should_stop: Callable[[], bool] | None = None,
    report: Callable[[WorkReport], None] | None = None,
) -> Tensor:
    """Run the sampler to its end.

    Args:
        model: the transformer; its latent format must be the context's.
        context: from `stitch`, for a target of `noise`'s shape.
        conditioning: the instruction.
        timesteps: [n + 1] falling, from `schedule.make_timesteps`; always those of the whole run,
            of which `start` and `end` of a reference are shares.
        noise: [b, c, h, w], from `make_noise`.
        state: where an earlier part of the same run ended, to go on from: that of `sample_steps`,
            of a `Cancelled`, or made of what a callback was shown. The other arguments are to be
            those of the earlier part; then the result is the whole run's, in float32 to the bit.
        latent: RAW latent [b or 1, c, h, w] to start from when timesteps[0] < 1, and to keep
            outside `noise_mask`. None or all zeros is an empty canvas.
        negative: what to steer away from; used when cfg is not 1, at twice the cost, or
            by `nag`.
        cfg: 0..100, 1 is off.
        nag: None or 1 is off; a scale, or a `Nag`: steers away from `negative` within the attention,
            at near the cost of a run without it.
        solver: "euler" or "heun".
        accelerate: "off", "safe", "balanced", "fast" (with "+8bit" behind it or without), an
            `Acceleration`, or one of its parts: how work is saved, see `accelerate.py`. A run that goes
            on from a state begins with a full step.
        noise_mask: [b or 1, 1, H, W] at any resolution, 1 = paint here, 0 = keep `latent`: in
            latents. Decoded pixels near it change all the same; `composite` keeps those.
        mask_mode: how grey is read, "soft" or "differential", see `noise_mask`.
        callback: called after every step as (step from 1, steps, x0, x): x0 the model-space
            estimate [b, c, h, w] of the finished latent, x the latent as it is now, both float32;
            `SamplerState(x, step, steps)` continues from there. One that takes three arguments is
            not given x.
        should_stop: asked before every model call.
        report: called at the end, or when the run is stopped, with what was computed.

    Returns:
        RAW latent [b, c, h, w], float32, on the model's device.

    Raises:
        Cancelled: `should_stop` said yes; its `state` holds the steps that were finished.
        InputError, ShapeError: arguments that don't fit each other.
        KontextError: NaN or infinite values came up; says where they come from.
    """
    done = sample_steps(
        model, context, conditioning, timesteps, noise=noise, state=state, latent=latent,
        negative=negative, cfg=cfg, nag=nag, solver=solver, accelerate=accelerate,
        noise_mask=noise_mask, mask_mode=mask_mode, callback=callback, should_stop=should_stop,
        report=report,
    )  # fmt: skip
    return context.latent_format.process_out(done.x)


@torch.no_grad()
def sample_steps(
    model: Flux,
    context: Context,
    conditioning: Conditioning,
    timesteps: Tensor,
    *,
    noise: Tensor,
    state: SamplerState | None = None,
    stop_at: int | None = None,
    latent: Tensor | None = None,
    negative: Conditioning | None = None,
    cfg: float = 1.0,
    nag: float | Nag | None = None,
    solver: str = "euler",
    accelerate: Accelerate = None,
    noise_mask: Tensor | None = None,
    mask_mode: str = "soft",
    callback: Callback | OldCallback | None = None,
    should_stop: Callable[[], bool] | None = None,
    report: Callable[[WorkReport], None] | None = None,
) -> SamplerState:
    """Run some of a run's steps, from `state` or the start.

    Args:
        stop_at: stop when so many of the run's n steps are done, 0..n; None runs them all.

    The other arguments and the errors are those of `sample`.

    Returns:
        The state to continue from, with `sample` or this.
    """
    solve = _check(model, context, timesteps, noise, conditioning, negative, cfg, solver)
    steered = as_nag(nag, negative is not None)
    acceleration = as_acceleration(accelerate)
    times = [float(t) for t in timesteps]
    steps = len(times) - 1
    first, last = _part(state, stop_at, steps, noise)
    device, dtype = model.device, model.dtype
    batch, _, height, width = context.target_shape
    target = context.target_tokens
    context = context.to(device, dtype)
    noise = noise.to(device, torch.float32)
    clean = _start(latent, noise, context)
    check_choice(mask_mode, "mask_mode", MASK_MODES)
    painted = mask_on_latent(noise_mask, noise)
    guided = cfg != 1.0 and negative is not None
    sides = [Planned(model, conditioning, times, batch, negative, steered)]
    if guided and negative is not None:
        sides.append(Planned(model, negative, times, batch))
    show = _shower(callback)
    saving = AcceleratedRun(acceleration, model.params, _original(acceleration, context, painted))

    def velocity(x: Tensor, t: float, step: int) -> Tensor:
        mask = painted
        if mask is not None:
            mask = mask_now(mask, mask_mode, t, times[0], times[-1])
        seen = x if mask is None else x * mask + (t * noise + (1 - t) * clean) * (1 - mask)
        part = context.at(step / steps)
        img = torch.cat([pack(seen).to(dtype), part.tokens], dim=1)
        t_batch = torch.full((batch,), t, device=device, dtype=torch.float32)
        outs = []
        for number, planned in enumerate(sides):
            if should_stop is not None and should_stop():
                raise _Stop
            txt, vec, guidance = planned.whole
            layout = TokenCounts(batch, txt.shape[1], target, part.counts, part.present)
            call = saving.side(number).call(t, step, steps, layout)
            out = model(
                img, part.img_ids, txt, planned.txt_ids, t_batch, vec, guidance,
                attn_bias=part.bias, target_tokens=target, modulation=planned.at(t),
                still=planned.still() if part.still else None, prepared=planned.prepared(part, img),
                kept=call.kept, watch=call.watch, **planned.nag,
            )  # fmt: skip
            out = call.finish(img[:, :target], out)
            outs.append(unpack(out.float(), height, width))
        v = classifier_free(outs[0], outs[1], cfg) if guided else outs[0]
        if mask is not None:
            # Steer the kept area to the given latent, whatever the model says about it.
            v = (x - ((seen - t * v) * mask + clean * (1 - mask))) / t
        return v

    x = times[0] * noise + (1 - times[0]) * clean
    if state is not None:
        x = state.x.to(device, torch.float32)
    for step in range(first, last):
        try:
            following, x0 = solve(velocity, x, times[step], times[step + 1], step)
        except _Stop:
            if report is not None:
                report(saving.report)
            raise Cancelled(
                f"stopped on request at step {step + 1} of {steps}", SamplerState(x, step, steps)
            ) from None
        if not bool(torch.isfinite(following).all()):
            raise not_finite(model, dtype, f"at step {step + 1} of {steps}")
        x = following
        if show is not None:
            show(step + 1, steps, x0, x)
    if report is not None:
        report(saving.report)
    return SamplerState(x, last, steps)


class _Stop(Exception):
    """`should_stop` said yes, somewhere within a step."""


def _shower(callback: Callback | OldCallback | None) -> Callback | None:
    """The callback as one that takes x; one of three arguments is not given it."""
    if callback is None:
        return None
    try:
        inspect.signature(callback).bind_partial(1, 1, None, None)
    except TypeError:
        plain = cast(OldCallback, callback)
        return lambda step, steps, x0, x: plain(step, steps, x0)
    except ValueError:
        # Some functions written in C tell no signature; they get all there is.
        pass
    return cast(Callback, callback)


def _original(
    acceleration: Acceleration | None, context: Context, painted: Tensor | None
) -> Original | None:
    """What tells which part of the target changes, where that is asked for."""
    if acceleration is None or acceleration.region is None:
        return None
    found = original_of(context)
    return Original(
        (context.layout[0].rows, context.layout[0].columns),
        None if found is None else found[1],
        None if painted is None else mask_on_tokens(painted, acceleration.region),
    )


def _check(
    model: Flux,
    context: Context,
    timesteps: Tensor,
    noise: Tensor,
    conditioning: Conditioning,
    negative: Conditioning | None,
    cfg: float,
    solver: str,
) -> Solver:
    check_choice(solver, "solver", tuple(SOLVERS))
    ours, theirs = model.latent_format, context.latent_format
    if ours.space != theirs.space:
        raise InputError(
            f"the context was stitched for latents of {theirs.named()}, the model's are of "
            f"{ours.named()}; give stitch latent_format=model.latent_format"
        )
    if tuple(noise.shape) != context.target_shape:
        raise ShapeError(
            f"noise has shape {tuple(noise.shape)}; the context was stitched for a target of "
            f"{context.target_shape}"
        )
    if timesteps.ndim != 1 or len(timesteps) < 2 or bool((timesteps.diff() >= 0).any()):
        raise InputError(
            f"timesteps are {timesteps.tolist()}; expected at least two falling values, as "
            "schedule.make_timesteps gives"
        )
    check_finite(noise, "noise", "make it with make_noise")
    for name, side in (("conditioning", conditioning), ("negative conditioning", negative)):
        if side is not None:
            check_finite(side.txt, name, "encode the text in float32 or bfloat16")
            check_finite(side.vec, name, "encode the text in float32 or bfloat16")
    check_number(cfg, "cfg", 0, 100, "1 is off")
    if cfg != 1.0 and negative is None:
        raise InputError(f"cfg is {cfg} but there is no negative conditioning; give one, or cfg 1")
    return SOLVERS[solver]


def _part(
    state: SamplerState | None, stop_at: int | None, steps: int, noise: Tensor
) -> tuple[int, int]:
    """The first step to run, and the one before which to stop."""
    first = 0
    if state is not None:
        if not isinstance(state, SamplerState):
            raise InputError(
                f"state is a {type(state).__name__}; expected a SamplerState, from sample_steps or "
                "the state of a Cancelled"
            )
        if state.steps != steps:
            raise InputError(
                f"state is of a run of {state.steps} steps, timesteps are of {steps}; give the "
                "timesteps of the whole run"
            )
        if state.x.shape != noise.shape:
            raise ShapeError(
                f"state holds a latent of shape {tuple(state.x.shape)}, noise is "
                f"{tuple(noise.shape)}; both belong to the same run"
            )
        check_finite(state.x, "state", "it can't be continued; start the run anew")
        first = check_whole(state.step, "step of the state", 0, steps)
    last = steps if stop_at is None else check_whole(stop_at, "stop_at", 0, steps)
    if last < first:
        raise InputError(f"stop_at is {last}, but {first} steps are done already; give more")
    return first, last


def _start(latent: Tensor | None, noise: Tensor, context: Context) -> Tensor:
    """The clean end of the path in model space, [b, c, h, w]."""
    if latent is None or not bool(torch.count_nonzero(latent)):
        # An empty latent stays zero in model space too, as in ComfyUI.
        return torch.zeros_like(noise)
    context.latent_format.check(latent)
    if latent.shape[-2:] != noise.shape[-2:] or len(noise) % len(latent):
        raise ShapeError(
            f"start latent has shape {tuple(latent.shape)}; expected that of the target "
            f"{tuple(noise.shape)}"
        )
    check_finite(latent, "start latent", "check the picture or the autoencoder that made it")
    clean = context.latent_format.process_in(latent.to(noise))
    return clean.repeat(len(noise) // len(clean), 1, 1, 1)
