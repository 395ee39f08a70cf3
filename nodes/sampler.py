"""Kontext: Sampler: the core's sampler on sockets, with Kontext's defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..kontext_core.errors import Cancelled, InputError
from ..kontext_core.guidance import Nag, as_nag
from ..kontext_core.noise_mask import MASK_MODES
from ..kontext_core.schedule import SCHEDULES, given_timesteps
from .conditioning import check_text, read
from .host import get_host
from .inputs import SAME_SEED, guidance_input, seed_input, steps_input
from .latent import noise_for, target_samples
from .native import sockets
from .native.carried import ACCELERATION, FEW_STEPS, carried
from .notes import output, told_by
from .preview import reporter
from .schema import make

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from ..kontext_core.accelerated import WorkReport
    from .native import KontextModel

SOLVERS = ("euler", "heun")


def run_sampler(
    model: Any,
    positive: list[list[Any]],
    latent_image: dict[str, Any],
    *,
    seed: int,
    steps: int,
    guidance: float = 2.5,
    negative: list[list[Any]] | None = None,
    cfg: float = 1.0,
    solver: str = "euler",
    schedule: str = "kontext",
    denoise: float = 1.0,
    nag: Nag | None = None,
    stop_at: int | None = None,
    mask_mode: str = MASK_MODES[0],
    sigmas: Tensor | None = None,
    notes: list[str] | None = None,
) -> Tensor:
    """Raw latent [b, 16, h, w], float32 on the CPU, from what comes on sockets.

    Inside a real ComfyUI its own guider runs it, with any FLUX.1 MODEL and all it knows of
    conditioning; elsewhere the core's sampler, with a MODEL of ours.

    Args:
        stop_at: look at the run after so many steps: what it would become is estimated from there.
        sigmas: None, or [n + 1] noise levels in place of steps, schedule and denoise.
        notes: what the run has to say is added to these.

    Raises:
        KontextError: a MODEL of another kind, or settings and inputs that don't fit; the host's own
            exception when it interrupts.
    """
    settings: dict[str, Any] = {
        "seed": seed,
        "steps": steps,
        "guidance": guidance,
        "negative": negative,
        "cfg": cfg,
        "solver": solver,
        "schedule": schedule,
        "denoise": denoise,
        "nag": nag,
        "stop_at": stop_at,
        "mask_mode": mask_mode,
        "sigmas": None if sigmas is None else _whole(sigmas),
    }
    asked = {"cfg": cfg != 1.0, "nag_scale": nag is not None}
    for name in (name for name, wanted in asked.items() if wanted and not negative):
        raise InputError(
            f"{name} is not 1, but nothing is connected to negative; connect a CLIP Text Encode "
            f"(an empty text will do), or set {name} to 1"
        )
    model = check_model(model)
    params = getattr(network_of(model), "params", None)
    check_text(positive, params, "positive")
    if any(asked.values()):
        check_text(negative, params, "negative")
    from ..kontext_core.lora.few_steps import run_notes

    wanted = carried(model, ACCELERATION)
    said = [] if notes is None else notes
    count = steps if sigmas is None else len(sigmas) - 1
    said += run_notes(carried(model, FEW_STEPS), count, wanted is not None)

    def report(made: WorkReport) -> None:
        if wanted is not None:
            said.append(f"{wanted.preset}: {made}")

    settings["report"] = report
    run = sockets().sampler() or _own
    return run(model, positive, latent_image, **settings)


def _whole(sigmas: Tensor) -> Tensor:
    """Noise levels of a whole run, checked.

    Raises:
        InputError: they don't end at 0, or are no noise levels of a FLUX.1.
    """
    if sigmas.numel() and float(sigmas.flatten()[-1]) != 0:
        raise InputError(
            f"sigmas end at {float(sigmas.flatten()[-1]):g}; expected 0, for this sampler paints to the "
            "end. Add a 0 to the list, or run a part with ComfyUI's SamplerCustomAdvanced"
        )
    return given_timesteps(sigmas)


def check_model(model: Any) -> Any:
    """Return `model` if the running host's sampler can run it.

    Raises:
        KontextError: a MODEL of another kind.
    """
    return sockets().require_model(model)


def network_of(model: Any) -> Any:
    """The transformer in a MODEL from `check_model`, wherever it is; never to be run."""
    return sockets().network(model)


def idle_notes(
    latent_image: dict[str, Any], negative: Any, steered: bool, denoise: float
) -> list[str]:
    """Inputs that had no effect, or none that anybody wants, one sentence each. `steered`: something
    uses the negative."""
    notes = []
    if negative is not None and not steered:
        notes.append(
            "negative has no effect at cfg 1 and nag_scale 1; set nag_scale to 5, or cfg above 1, "
            "which takes twice the time"
        )
    if denoise < 1.0 and not bool(latent_image["samples"].any()):
        notes.append(
            f"denoise is {denoise:g}, but latent_image is empty: it starts from grey and stays "
            "pale. Set denoise to 1, or connect an encoded picture to latent_image or to the latent "
            "of Kontext: Stitch"
        )
    mask = latent_image.get("noise_mask")
    if mask is not None and not bool(mask.any()):
        notes.append(
            "the latent's noise mask is all black: nothing was painted. Paint what may change, or "
            "take the mask away"
        )
    return notes


def _own(
    model: KontextModel,
    positive: list[list[Any]],
    latent_image: dict[str, Any],
    *,
    seed: int,
    steps: int,
    guidance: float,
    negative: list[list[Any]] | None,
    cfg: float,
    solver: str,
    schedule: str,
    denoise: float,
    nag: Nag | None,
    stop_at: int | None,
    mask_mode: str,
    sigmas: Tensor | None,
    report: Callable[[WorkReport], None],
) -> Tensor:
    """By the core's sampler."""
    from ..kontext_core.sampling import sample_steps
    from ..kontext_core.schedule import make_timesteps
    from ..kontext_core.stitcher import stitch

    latent_format = model.latent_format
    samples = target_samples(latent_image, latent_format)
    text = read(positive, guidance, "positive")
    unwanted = None
    if cfg != 1.0 or nag is not None:
        unwanted = read(negative, guidance, "negative").conditioning
    context = stitch(
        tuple(samples.shape), text.references, method=text.method, latent_format=latent_format
    )
    wanted = carried(model, ACCELERATION)
    timesteps = sigmas
    if timesteps is None:
        timesteps = make_timesteps(steps, context.target_tokens, schedule=schedule, denoise=denoise)
    steps = len(timesteps) - 1
    noise = noise_for(seed, samples, latent_image.get("batch_index"))
    callback, should_stop = reporter(stop_at or steps, latent_format)
    looks: list[Tensor] = []

    def told(step: int, total: int, x0: Tensor) -> None:
        looks[:] = [x0]
        callback(step, stop_at or total, x0)

    try:
        done = sample_steps(
            model.load(),
            context,
            text.conditioning,
            timesteps,
            noise=noise,
            latent=samples,
            negative=unwanted,
            cfg=cfg,
            nag=nag,
            solver=solver,
            noise_mask=latent_image.get("noise_mask"),
            mask_mode=mask_mode,
            callback=told,
            should_stop=should_stop,
            stop_at=stop_at,
            accelerate=None if wanted is None else wanted.settings,
            report=report,
        )
    except Cancelled:
        # In the host's own words, so that it is shown as an interrupt and not as a failure.
        get_host().check_interrupt()
        raise
    return latent_format.process_out(done.x if stop_at is None else looks[0]).cpu()


class KontextSampler(io.ComfyNode):
    """Noise to latent, following the instruction and its references."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            node_id="KontextSampler",
            display_name="Kontext: Sampler",
            description="Paints the target as the instruction says, looking at the references of "
            "Kontext: Stitch. Defaults are FLUX.1 Kontext's; shows a preview at every step.",
            search_aliases=["kontext", "ksampler", "flux edit", "denoise", "sampler"],
            # Has the notes sent again when the node itself is answered from the cache.
            has_intermediate_output=True,
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="From Kontext: Load Model. In ComfyUI any FLUX.1 MODEL will do.",
                ),
                io.Conditioning.Input(
                    "positive",
                    tooltip="The instruction: CLIP Text Encode, through Kontext: Stitch when there "
                    "are references. References of ComfyUI's ReferenceLatent count too.",
                ),
                io.Latent.Input(
                    "latent_image",
                    tooltip="What to paint on: the LATENT of Kontext: Stitch or an empty one. Its "
                    "noise mask is kept to: white is painted, black stays, in the latent. Only the "
                    "mask of Kontext: Finish keeps pixels to the bit.",
                ),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="What to steer away from. Used when cfg or nag_scale is not 1; the "
                    "references of positive hold for both.",
                ),
                seed_input(f"{SAME_SEED} Same noise as KSampler's."),
                steps_input(),
                guidance_input(
                    "How closely to follow the instruction; an input of the model, free of cost. 2.5 "
                    "suits Kontext. A conditioning that brings its own value (FluxGuidance, "
                    "CLIPTextEncodeFlux) overrides it."
                ),
                io.Float.Input(
                    "cfg",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="True classifier-free guidance with the negative. 1 is off; anything "
                    "else needs negative and takes twice the time.",
                ),
                io.Combo.Input(
                    "solver",
                    options=list(SOLVERS),
                    default=SOLVERS[0],
                    tooltip="euler: one model call a step. heun: two, more exact at few steps.",
                ),
                io.Combo.Input(
                    "schedule",
                    options=list(SCHEDULES),
                    default=SCHEDULES[0],
                    tooltip="How noise falls over the steps. kontext: shifted by the size of the "
                    "target, as published. simple: ComfyUI's, to agree with KSampler.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="1 paints from noise. Less starts from the picture in latent_image and "
                    "changes less of it.",
                ),
                io.Float.Input(
                    "nag_scale",
                    optional=True,
                    default=1.0,
                    min=1.0,
                    max=50.0,
                    step=0.1,
                    tooltip="Steers away from the negative within the attention (normalized attention "
                    "guidance), at little more than the time of a run without it. 1 is off, 5 suits.",
                ),
                io.Float.Input(
                    "nag_tau",
                    optional=True,
                    default=Nag.tau,
                    min=1.0,
                    max=10.0,
                    step=0.1,
                    tooltip="How much stronger than without guidance a token may become, in times. Only "
                    "with nag_scale.",
                ),
                io.Float.Input(
                    "nag_alpha",
                    optional=True,
                    default=Nag.alpha,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Share of the guided result; the rest is the unguided one. Only with "
                    "nag_scale.",
                ),
                io.Combo.Input(
                    "mask_mode",
                    options=list(MASK_MODES),
                    default=MASK_MODES[0],
                    optional=True,
                    tooltip="How grey in the latent's noise mask is read. soft: picture and painting "
                    "are mixed at every step. differential: darker places are set free later, so "
                    "that grey says how much may change.",
                ),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip="Noise levels of the run, falling from 1 to 0, as the card of a LoRA for few "
                    "steps may list them. They take the place of steps, schedule and denoise.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    "samples",
                    display_name="LATENT",
                    tooltip="For Kontext: Finish or VAE Decode; or as the latent of the next "
                    "Kontext: Reference.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: list[list[Any]],
        latent_image: dict[str, Any],
        seed: int,
        steps: int,
        guidance: float,
        cfg: float,
        solver: str,
        schedule: str,
        denoise: float,
        negative: list[list[Any]] | None = None,
        nag_scale: float = 1.0,
        nag_tau: float = Nag.tau,
        nag_alpha: float = Nag.alpha,
        mask_mode: str = MASK_MODES[0],
        sigmas: Tensor | None = None,
    ) -> io.NodeOutput:
        said: list[str] = []
        nag = as_nag(Nag(nag_scale, nag_tau, nag_alpha), True)
        latent = run_sampler(
            model,
            positive,
            latent_image,
            seed=seed,
            steps=steps,
            guidance=guidance,
            negative=negative,
            cfg=cfg,
            solver=solver,
            schedule=schedule,
            denoise=denoise,
            nag=nag,
            mask_mode=mask_mode,
            sigmas=sigmas,
            notes=said,
        )
        denoise = denoise if sigmas is None else float(sigmas[0])
        notes = [
            *said,
            *told_by(positive),
            *idle_notes(latent_image, negative, cfg != 1.0 or nag is not None, denoise),
            *sockets().notes(model, positive, nag is not None),
        ]
        return output({**latent_image, "samples": latent}, notes=notes)
