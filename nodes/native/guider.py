"""Kontext: Sampler inside a real ComfyUI: the host's own guider, with any FLUX.1 MODEL.

Only where `comfy` can be imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import torch
from torch import Tensor

from ...kontext_core.errors import InputError, KontextError
from ...kontext_core.finite import not_finite
from ...kontext_core.guidance import Nag
from ...kontext_core.latents import FLUX_LATENT, LatentFormat, token_grid
from ...kontext_core.noise_mask import mask_now
from ...kontext_core.schedule import make_timesteps
from ..conditioning import Entries, beyond_native
from ..latent import noise_for, target_samples
from .conds import NagCond
from .forward import NativeFlux
from .run import REPORT

if TYPE_CHECKING:
    from ...kontext_core.accelerated import WorkReport

# What an entry says about references.
REFERENCE_KEYS = ("reference_latents", "reference_latents_method", "kontext_references")


def is_ours(model: Any) -> bool:
    """Whether a MODEL of the host's holds our transformer."""
    # By name: two copies of the pack under different folder names may meet in one host.
    network = getattr(getattr(model, "model", None), "diffusion_model", None)
    return any(kind.__name__ == NativeFlux.__name__ for kind in type(network).__mro__)


def require_flux(model: Any) -> Any:
    """Return `model` if it is a FLUX.1, ours or the host's own.

    Raises:
        KontextError: it is of another kind.
    """
    inner: Any = getattr(model, "model", None)
    if isinstance(inner, comfy.model_base.Flux):
        config: Any = inner.model_config
        if config.unet_config.get("image_model") == "flux":
            return model
    found = type(model if inner is None else inner).__name__
    raise KontextError(
        f"this MODEL is a {found}, and Kontext: Sampler runs FLUX.1 models only. Load one with "
        "Kontext: Load Model or Load Diffusion Model, or sample this one with KSampler"
    )


def require_ours(model: Any) -> None:
    """Refuse a MODEL that was not loaded by the pack.

    Raises:
        InputError: the host's own, or of another kind.
    """
    if is_ours(model):
        return
    inner = getattr(model, "model", None)
    found = type(model if inner is None else inner).__name__
    raise InputError(
        f"this MODEL is a {found} that ComfyUI itself has loaded, and nothing can be left out of its runs "
        "from here. Load the file with Kontext: Load Model for that, or put ComfyUI's own EasyCache in "
        "this node's place"
    )


def latent_format_of(model: Any) -> LatentFormat:
    """The latent format of a FLUX.1 MODEL, as the core has it."""
    network = model.model.diffusion_model
    return getattr(network, "latent_format", FLUX_LATENT)


def unhonoured(model: Any, positive: Entries, nag: bool) -> list[str]:
    """What our references and guidance ask for and the host's own Flux can't do, one sentence each."""
    if is_ours(model):
        return []
    notes: list[str] = []
    if nag:
        notes.append(
            "nag_scale left out: this MODEL is ComfyUI's own. Load the file with Kontext: Load Model "
            "for it, or put Normalized Attention Guidance before this node where your ComfyUI has it"
        )
    for _, extra in positive:
        chain = getattr(extra.get("kontext_references"), "items", ())
        for number, reference in enumerate(chain, 1):
            asked = beyond_native(reference)
            if asked:
                notes.append(
                    f"image {number}: {', '.join(asked)} left out: this MODEL is ComfyUI's own. "
                    "Load the file with Kontext: Load Model for it"
                )
    return list(dict.fromkeys(notes))


def guided(
    model: Any,
    positive: Entries,
    latent_image: dict[str, Any],
    *,
    seed: int,
    steps: int,
    guidance: float,
    negative: Entries | None,
    cfg: float,
    solver: str,
    schedule: str,
    denoise: float,
    callback: Callable[[int, int, Tensor], None],
    nag: Nag | None = None,
    stop_at: int | None = None,
    mask_mode: str = "soft",
    sigmas: Tensor | None = None,
    report: Callable[[WorkReport], None] | None = None,
) -> Tensor:
    """Raw latent [b, 16, h, w], float32, as KSampler gives it for the same settings.

    Args:
        model: from `require_flux`.
        nag: None, or guidance by the first negative entry, which one of ours obeys.
        callback: called as (step from 1, steps, model-space estimate).
        stop_at: give the estimate of the result after so many steps instead.
        sigmas: None, or [n + 1] noise levels in place of steps, schedule and denoise.
        report: called with what was computed, where the MODEL asks for less.

    The others are the sampler's inputs; `guidance` holds for entries that bring none of their own,
    the references of the first positive entry for all negative ones.

    Raises:
        InputError, ShapeError: no instruction; inputs that don't fit each other.
        KontextError: the model gave NaN or infinity.
    """
    if not positive:
        raise InputError(
            "positive holds no instruction; connect a CLIP Text Encode, through Kontext: Stitch when "
            "there are references"
        )
    # NaN passes the host's comparison with the widget's limits.
    if not 0 <= guidance <= 100:
        raise InputError(f"guidance is {guidance}; expected 0 to 100, Kontext's is 2.5")
    samples = target_samples(latent_image, latent_format_of(model))
    if sigmas is None:
        sigmas = _sigmas(model, samples, steps, schedule, denoise)
    steps = len(sigmas) - 1
    if stop_at is not None:
        # Straight on from there to its end, where the estimate lies.
        sigmas = torch.cat([sigmas[:stop_at], sigmas.new_zeros(1)])
    positive = _filled(positive, {"guidance": guidance})
    # At cfg 1 the host leaves it out.
    negative = positive if negative is None else negative
    if nag is not None and is_ours(model):
        positive = _filled(positive, {"kontext_nag": NagCond(nag, negative[0][0])})
    if mask_mode != "soft":
        model = _with_mask_mode(model, mask_mode)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, _beside(_filled(negative, {"guidance": guidance}), positive))
    guider.set_cfg(cfg)
    if stop_at is not None:
        # References come and go by their share of the whole run.
        guider.model_options = comfy.model_patcher.create_model_options_clone(guider.model_options)
        guider.model_options["transformer_options"]["kontext_steps"] = steps

    def told(step: int, x0: Tensor, x: Tensor, total: int) -> None:
        callback(step + 1, total, x0)

    latent = guider.sample(
        noise_for(seed, samples, latent_image.get("batch_index")),
        samples,
        comfy.samplers.sampler_object(solver),
        sigmas,
        denoise_mask=latent_image.get("noise_mask"),
        callback=told,
        # The node has a progress bar of its own.
        disable_pbar=True,
        seed=seed,
    )
    made = getattr(guider, REPORT, None)
    if report is not None and made is not None:
        report(made)
    if not bool(torch.isfinite(latent).all()):
        # 0.3.64 has no get_dtype_inference.
        dtype = model.model.manual_cast_dtype or model.model.get_dtype()
        raise not_finite(model.model.diffusion_model, dtype)
    return latent.float().to(comfy.model_management.intermediate_device())


def _with_mask_mode(model: Any, mode: str) -> Any:
    """The MODEL, reading the latent's noise mask so; its own function for that is left out."""

    def now(sigma: Tensor, denoise_mask: Tensor, extra_options: dict[str, Any]) -> Tensor:
        levels = extra_options["sigmas"]
        return mask_now(denoise_mask, mode, float(sigma[0]), float(levels[0]), float(levels[-1]))

    model = model.clone()
    model.set_model_denoise_mask_function(now)
    return model


def _sigmas(model: Any, samples: Tensor, steps: int, schedule: str, denoise: float) -> Tensor:
    """Noise levels of a run, falling; the host's "simple" heeds what ModelSamplingFlux set."""
    rows, columns = token_grid(*samples.shape[-2:])
    ours = make_timesteps(steps, rows * columns, schedule=schedule, denoise=denoise)
    if schedule != "simple":
        return ours
    total = max(steps, int(steps / denoise))
    sampling = model.get_model_object("model_sampling")
    return comfy.samplers.calculate_sigmas(sampling, "simple", total)[-(steps + 1) :]


def _filled(conditioning: Entries, values: dict[str, Any]) -> Entries:
    """Conditioning whose entries have these values where they bring none of their own."""
    return [[features, {**values, **extra}] for features, extra in conditioning]


def _beside(negative: Entries, positive: Entries) -> Entries:
    """Negative entries with the references of the first positive one in place of their own, so
    that both look at the same pictures."""
    shared = {key: positive[0][1][key] for key in REFERENCE_KEYS if key in positive[0][1]}
    return [
        [features, {k: v for k, v in extra.items() if k not in REFERENCE_KEYS} | shared]
        for features, extra in negative
    ]
