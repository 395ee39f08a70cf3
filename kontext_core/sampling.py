"""The rectified-flow sampler: follows the velocity from noise to picture. Pure functions.

x_t = (1 - t) * picture + t * noise, velocity v = noise - picture, so picture = x_t - t * v.
Shapes: b batch, c channels, h and w latent cells.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import Cancelled, InputError, KontextError, ShapeError
from .guidance import Conditioning, classifier_free
from .latents import pack, unpack
from .models.flux import Flux, Modulations
from .stitcher import Context

__all__ = ["SOLVERS", "Callback", "euler", "heun", "make_noise", "sample"]

# Timesteps whose modulations are held at a time: 270 MB a text for the published sizes in float32.
WINDOW = 64

Callback = Callable[[int, int, Tensor], None]
Velocity = Callable[[Tensor, float, int], Tensor]
OnStep = Callable[[int, Tensor], None]
Solver = Callable[[Velocity, Tensor, list[float], OnStep], Tensor]


def euler(velocity: Velocity, x: Tensor, timesteps: list[float], on_step: OnStep) -> Tensor:
    """First order: one model call a step."""
    for i, (t, t_next) in enumerate(zip(timesteps[:-1], timesteps[1:], strict=True)):
        v = velocity(x, t, i)
        on_step(i, x - t * v)
        x = x + (t_next - t) * v
    return x


def heun(velocity: Velocity, x: Tensor, timesteps: list[float], on_step: OnStep) -> Tensor:
    """Second order: averages the velocity at both ends; two calls a step, one for the last."""
    for i, (t, t_next) in enumerate(zip(timesteps[:-1], timesteps[1:], strict=True)):
        v = velocity(x, t, i)
        on_step(i, x - t * v)
        if t_next > 0:
            v = (v + velocity(x + (t_next - t) * v, t_next, i)) / 2
        x = x + (t_next - t) * v
    return x


SOLVERS: dict[str, Solver] = {"euler": euler, "heun": heun}


def make_noise(seed: int, shape: tuple[int, ...] | torch.Size) -> Tensor:
    """float32 CPU noise equal to ComfyUI's for this seed and latent shape.

    Raises:
        InputError: a seed outside 0 .. 2^64 - 1.
    """
    if not 0 <= seed < 2**64:
        raise InputError(f"seed is {seed}; expected a whole number from 0 to 2^64 - 1")
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float32)


@torch.no_grad()
def sample(
    model: Flux,
    context: Context,
    conditioning: Conditioning,
    timesteps: Tensor,
    *,
    noise: Tensor,
    latent: Tensor | None = None,
    negative: Conditioning | None = None,
    cfg: float = 1.0,
    solver: str = "euler",
    noise_mask: Tensor | None = None,
    callback: Callback | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Tensor:
    """Run the sampler.

    Args:
        model: the transformer; its latent format must be the context's.
        context: from `stitch`, for a target of `noise`'s shape.
        conditioning: the instruction.
        timesteps: [n + 1] falling, from `schedule.make_timesteps`.
        noise: [b, c, h, w], from `make_noise`.
        latent: RAW latent [b or 1, c, h, w] to start from when timesteps[0] < 1, and to keep
            outside `noise_mask`. None or all zeros is an empty canvas.
        negative: what to steer away from; used when cfg is not 1, at twice the cost.
        cfg: 0..100, 1 is off.
        solver: "euler" or "heun".
        noise_mask: [b or 1, 1, H, W] at any resolution, 1 = paint here, 0 = keep `latent`.
        callback: called once a step as (step from 1, steps, x0), x0 the model-space estimate
            [b, c, h, w] of the finished latent.
        should_stop: asked before every model call.

    Returns:
        RAW latent [b, c, h, w], float32, on the model's device.

    Raises:
        Cancelled: `should_stop` said yes.
        InputError, ShapeError: arguments that don't fit each other.
        KontextError: the model gave NaN or infinity.
    """
    solve = _check(context, timesteps, noise, cfg, negative, solver)
    device, dtype = model.device, model.dtype
    batch, _, height, width = context.target_shape
    target = context.target_tokens
    context = context.to(device, dtype)
    noise = noise.to(device, torch.float32)
    clean = _start(latent, noise, context)
    mask = _mask(noise_mask, noise)
    times = [float(t) for t in timesteps]
    steps = len(times) - 1
    guided = cfg != 1.0 and negative is not None
    texts = [conditioning]
    if guided and negative is not None:
        texts.append(negative)
    sides = [
        (side.expand(batch, device, dtype), _Planned(model, side, times, batch)) for side in texts
    ]

    def velocity(x: Tensor, t: float, step: int) -> Tensor:
        seen = x if mask is None else x * mask + (t * noise + (1 - t) * clean) * (1 - mask)
        part = context.at(step / steps)
        img = torch.cat([pack(seen).to(dtype), part.tokens], dim=1)
        t_batch = torch.full((batch,), t, device=device, dtype=torch.float32)
        outs = []
        for (txt, vec, guidance), planned in sides:
            if should_stop is not None and should_stop():
                raise Cancelled(f"stopped on request at step {step + 1} of {steps}")
            txt_ids = torch.zeros(1, txt.shape[1], 3, device=device)
            more = {"still": planned.still()} if part.still else {}
            out = model(
                img, part.img_ids, txt, txt_ids, t_batch, vec, guidance,
                attn_bias=part.bias, target_tokens=target, modulation=planned.at(t),
                **more,
            )  # fmt: skip
            outs.append(unpack(out.float(), height, width))
        v = classifier_free(outs[0], outs[1], cfg) if guided else outs[0]
        if mask is not None:
            # Steer the kept area to the given latent, whatever the model says about it.
            v = (x - ((seen - t * v) * mask + clean * (1 - mask))) / t
        return v

    def on_step(step: int, x0: Tensor) -> None:
        if callback is not None:
            callback(step + 1, steps, x0)

    x = solve(velocity, times[0] * noise + (1 - times[0]) * clean, times, on_step)
    if not bool(torch.isfinite(x).all()):
        raise KontextError(
            f"the model gave NaN or infinite values in {dtype}; use bfloat16 or float32, and "
            "check the checkpoint"
        )
    return context.latent_format.process_out(x)


class _Planned:
    """One text's modulations, computed for up to `WINDOW` of the run's timesteps at once."""

    def __init__(
        self, model: Flux, conditioning: Conditioning, times: list[float], batch: int
    ) -> None:
        self.model = model
        self.batch = batch
        # Not the batch's rows but the text's own: they are the same for all its pictures.
        self.text = conditioning.expand(len(conditioning.vec), model.device, model.dtype)
        self.index = {t: i for i, t in enumerate(times)}
        self.times = torch.tensor(times, dtype=torch.float32)
        self.window = -1
        self.made: Modulations | None = None
        self.at_zero: Modulations | None = None

    def at(self, t: float) -> Modulations | None:
        """Modulations of the batch at timestep t; None where a solver leaves the planned ones."""
        if t not in self.index:
            return None
        window, step = divmod(self.index[t], WINDOW)
        if self.made is None or window != self.window:
            some = self.times[window * WINDOW : (window + 1) * WINDOW].to(self.model.device)
            _, y, guidance = self.text
            self.made, self.window = self.model.modulations(some, y, guidance), window
        return self.made.at(step, self.batch)

    def still(self) -> Modulations:
        """Modulations of the batch at timestep 0."""
        if self.at_zero is None:
            _, y, guidance = self.text
            zero = torch.zeros(1, device=self.model.device)
            self.at_zero = self.model.modulations(zero, y, guidance)
        return self.at_zero.at(0, self.batch)


def _check(
    context: Context,
    timesteps: Tensor,
    noise: Tensor,
    cfg: float,
    negative: Conditioning | None,
    solver: str,
) -> Solver:
    if solver not in SOLVERS:
        raise InputError(f"unknown solver {solver!r}; expected one of {', '.join(SOLVERS)}")
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
    if not 0 <= cfg <= 100:
        raise InputError(f"cfg is {cfg}; expected 0 to 100, 1 is off")
    if cfg != 1.0 and negative is None:
        raise InputError(f"cfg is {cfg} but there is no negative conditioning; give one, or cfg 1")
    return SOLVERS[solver]


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
    clean = context.latent_format.process_in(latent.to(noise))
    return clean.repeat(len(noise) // len(clean), 1, 1, 1)


def _mask(mask: Tensor | None, noise: Tensor) -> Tensor | None:
    """[b or 1, 1, h, w] at the latent's size, as ComfyUI resizes it (bilinear)."""
    if mask is None:
        return None
    if mask.ndim < 2:
        raise ShapeError(f"noise mask has shape {tuple(mask.shape)}; expected [b, 1, h, w]")
    mask = mask.reshape(-1, 1, *mask.shape[-2:]).to(noise)
    mask = F.interpolate(mask, size=noise.shape[-2:], mode="bilinear")
    if len(noise) % len(mask):
        raise ShapeError(
            f"{len(mask)} noise masks for a batch of {len(noise)}; give 1 or {len(noise)}"
        )
    return mask.repeat(len(noise) // len(mask), 1, 1, 1)
