"""The whole way in one call: pictures and an instruction in, a picture out. Needs no host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL.Image import Image as PillowImage
from torch import Tensor, nn

from .accelerate import Accelerate
from .accelerated import WorkReport
from .canvas import plan_canvas
from .checks import check_choice, check_number, check_whole
from .composite import composite
from .errors import InputError, ShapeError
from .finite import not_finite
from .fit import POLICIES, Fit
from .framing import (
    Framing,
    alike,
    at_resolution,
    fit_picture,
    frame_mask,
    on_page,
    on_page_mask,
    plan_fit,
    plan_size,
)
from .guidance import Conditioning, Nag, as_nag
from .images import as_image, load_mask, to_model, to_picture
from .inputs import Images, Loras, as_given, as_list, as_loras, as_named, as_prompts
from .lora.apply import loras_for_now
from .lora.load import Lora, load_lora
from .lora.text import text_loras_for_now
from .models.autoencoder import AutoEncoder
from .models.flux import Flux
from .models.text import TextEncoder
from .resolutions import check_size
from .safety.checks import Checks
from .sampling import Callback, OldCallback, SamplerState, make_noise, sample, sample_steps
from .schedule import given_timesteps, make_timesteps
from .scoring.best import BestOf, Candidate
from .scoring.starts import as_best_of, finish_best
from .stitcher import Position, Reference, stitch
from .weights.load import load_autoencoder, load_model, load_text_encoders

if TYPE_CHECKING:
    from .text.pair import FluxTextEncoders


@dataclass(frozen=True, eq=False)
class Pipeline:
    """The three networks that belong together."""

    model: Flux
    autoencoder: AutoEncoder
    text_encoder: TextEncoder | FluxTextEncoders

    def encode(
        self, image: str | Path | PillowImage | Tensor, *, size: tuple[int, int] | None = None
    ) -> Tensor:
        """A picture as a raw latent [b, c, h, w]; it keeps its shape, and is padded to the size.

        Args:
            image: a path, a Pillow picture, or [b, h, w, 3] floats in 0..1.
            size: (width, height) in pixels, multiples of 16; None is the model's nearest trained one.

        Raises:
            InputError, ShapeError: it is something else, or can't be used.
        """
        picture = as_image(image)
        return self.encode_framed(picture, self._frame(picture, size))

    def encode_framed(self, picture: Tensor, framing: Framing) -> Tensor:
        """A picture [b, h, w, 3] in 0..1 as a raw latent [b, c, h, w], brought onto the grid so."""
        return self.autoencoder.encode(to_model(fit_picture(picture, framing)))

    def _frame(self, picture: Tensor, size: tuple[int, int] | None) -> Framing:
        own, sizes = (picture.shape[2], picture.shape[1]), self.model.resolutions
        if size is None:
            return plan_fit(*own, sizes, "trained size")
        return plan_size(own, check_size(*size), sizes)

    def reference(
        self,
        image: str | Path | PillowImage | Tensor,
        *,
        strength: float = 1.0,
        start: float = 0.0,
        end: float = 1.0,
        mask: str | Path | Tensor | None = None,
        position: Position | None = None,
        name: str | None = None,
        size: tuple[int, int] | None = None,
        resolution: float = 1.0,
    ) -> Reference:
        """A picture as `edit` takes it among its images, with more to say about it.

        Args:
            image, size: as for `encode`.
            mask: of what may be seen of it, of its shape at any size: a picture file, white is seen,
                or [h, w] in 0..1.
            resolution: share of each side's pixels that are seen; 0.5 costs a quarter of the tokens.

        The others are those of `stitcher.Reference`.

        Raises:
            InputError, ShapeError: a picture or mask that can't be used.
        """
        picture = as_image(image)
        framing = self._frame(picture, size)
        fewer = at_resolution(framing, resolution)
        seen = load_mask(mask) if isinstance(mask, str | Path) else mask
        if isinstance(seen, Tensor) and seen.ndim == 2:
            shape = seen.shape[1], seen.shape[0]
            if not alike(framing.picture, shape):
                raise ShapeError(
                    f"the mask is {shape[0]} x {shape[1]}, the picture {framing.picture[0]} x "
                    f"{framing.picture[1]}: of another shape, so it can't say which part is meant; "
                    "crop or pad it to the picture's shape"
                )
            seen = frame_mask(seen, fewer)
        latent = self.encode_framed(picture, fewer)
        return Reference(latent, strength, start, end, seen, position, name, framing, resolution)


def load_pipeline(
    name: str | Path = "tiny",
    *,
    vae: str | Path | None = None,
    t5: str | Path | None = None,
    clip_l: str | Path | None = None,
    max_length: int = 256,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    eight_bit: str = "off",
) -> Pipeline:
    """All three networks.

    Args:
        name: "tiny", a model folder, a diffusers pipeline's folder or an all-in-one checkpoint, which
            have everything; or a file of the transformer alone, together with the others.
        vae, t5, clip_l: files of the other networks, in place of what `name` has.
        max_length: T5's padding, see `load_text_encoders`.
        dtype, device, eight_bit: see `load_model`.

    Raises:
        ModelNotFoundError, CheckpointError, InputError: as `load_model`.
    """
    model = load_model(name, dtype=dtype, device=device, eight_bit=eight_bit)
    autoencoder = load_autoencoder(vae or name, dtype=dtype, device=device)
    text_encoder = load_text_encoders(
        t5 or name, clip_l, max_length=max_length, dtype=dtype, device=device
    )
    return Pipeline(model, autoencoder, text_encoder)


def edit(
    model: str | Path | Pipeline,
    prompt: str | Sequence[str],
    images: Images = (),
    *,
    names: Sequence[str | None] = (),
    seed: int = 0,
    steps: int = 28,
    guidance: float | None = 2.5,
    width: int | None = None,
    height: int | None = None,
    batch: int = 1,
    negative: str | None = None,
    cfg: float = 1.0,
    nag: float | Nag | None = None,
    method: str = "offset",
    denoise: float = 1.0,
    noise_mask: Tensor | None = None,
    mask_mode: str = "soft",
    paste_back: bool = False,
    feather: int = 0,
    match_colours: bool = False,
    solver: str = "euler",
    accelerate: Accelerate = None,
    schedule: str = "kontext",
    timesteps: Sequence[float] | Tensor | None = None,
    loras: Loras = (),
    state: SamplerState | None = None,
    callback: Callback | OldCallback | None = None,
    should_stop: Callable[[], bool] | None = None,
    report: Callable[[WorkReport], None] | None = None,
    fit: str | Fit = POLICIES[0],
    best_of: int | BestOf = 1,
    checks: Checks | None = None,
) -> Tensor:
    """Edit pictures by an instruction, or make one from words alone.

    Args:
        model: a loaded `Pipeline`, or what `load_pipeline` takes as its `name`.
        prompt: the instruction; pictures are "image 1", "image 2", ... in it. Several instructions
            give a result each, from the same noise. They are padded to the longest, so that one
            beside a longer one (than 16 tokens for "tiny", 256 for T5) differs a little from the
            same alone.
        images: each a path, a Pillow picture, [1, h, w, 3] floats in 0..1, a raw latent [1, c, h, w],
            or a `Reference` with strength, share of the run, mask, place and name, such as
            `Pipeline.reference` makes. A picture keeps its shape: it is padded, by repeating its
            outermost pixels, to the model's nearest trained size, or stands on the result's own grid
            where width and height are given and it has their shape (to half a token).
        names: what the instruction calls image 1, image 2, ..., "the logo" for instance, which becomes
            the image's number, see `names.write_numbers`; fewer than pictures, or None for one, leave
            the others without. A `Reference`'s own name is for messages only.
        seed: 0 .. 2^64 - 1; same noise as ComfyUI's for the same latent size.
        steps, denoise, schedule: see `schedule.make_timesteps`. denoise below 1 starts from the
            first picture, which must have the result's shape.
        timesteps: None, or a list in place of those three, as the card of a LoRA for few steps gives,
            see `schedule.given_timesteps`; one that begins below 1 starts from the first picture too.
        guidance: see `guidance.Conditioning`.
        width, height: of the result in pixels, multiples of 16, both or neither. Without them the
            result has exactly the first picture's own size, without its padding; that of a raw latent
            or, without pictures, the squarest trained size. The model paints at a trained size, so
            a larger picture comes back enlarged.
        batch: how many results of each instruction, 1..64 in all, from one noise stream.
        negative, cfg: true classifier-free guidance, off at cfg 1.
        nag: None, or a scale (5 suits) or `Nag`: steers away from `negative` within the attention, at
            near the cost of a run without it.
        method: how references are placed, see `stitch`.
        noise_mask: [h, w] or [1, 1, h, w], of the first picture's shape or the result's, at any size:
            1 is painted, 0 keeps the first picture, as the autoencoder gives it back.
        mask_mode: how its grey is read, see `noise_mask`.
        paste_back: put what `noise_mask` leaves black back from the first picture, bit for bit; the
            result must have its size. `feather` and `match_colours`: see `composite`.
        loras: a path, a loaded LoRA, or (one of them, strength) each, for this one run, as low-rank
            branches in place of any that the model had; afterwards it has those again. Keys that
            match nothing are logged. Without any, the model's own act.
        state: of an earlier call that was stopped, to go on; see `sampling.sample`.
        solver, accelerate, callback, should_stop, report: see `sampling.sample`.
        fit: how the first picture is brought onto the grid, and with that the size of the result: a
            policy's name, or a `fit.Fit` with more to say. Other pictures of its shape stand on the
            same grid.
        best_of: starts from so many seeds, from `seed` on, looks at each early, and finishes the best
            `batch` of them, best first; each is the picture of its seed alone (nearly, with `accelerate`,
            which goes on with a full step). A number takes what changes
            least outside `noise_mask`; a `scoring.best.BestOf` says by what scorer, and after how many steps.
        checks: functions that look at instruction and pictures before, and at results after, and may refuse
            them, see `safety.checks`; None, none.

    Returns:
        [results, height, width, 3] float32 in 0..1 on the CPU: all instructions with the first
        noise, then all with the second. In 8-bit steps where it was resized.

    Raises:
        InputError (ShapeError), ModelNotFoundError, CheckpointError, Cancelled.
        KontextError: NaN or infinite values came up; says where they come from.
        RefusedError: one of the `checks` refused something; says what and why.
        UnscoredError: none of the starts of `best_of` could be scored.
    """
    prompts = as_prompts(prompt)
    batch = check_whole(batch, "batch", 1, 64)
    starts_of = as_best_of(best_of, batch, len(prompts), steps, noise_mask, state)
    if batch * len(prompts) > 64:
        raise InputError(
            f"{len(prompts)} instructions and batch {batch} make {batch * len(prompts)} results; "
            "expected at most 64 at once"
        )
    if (width is None) != (height is None):
        raise InputError(f"width is {width} and height {height}; give both, or neither")
    cfg = check_number(cfg, "cfg", 0, 100, "1 is off")
    steered = as_nag(nag, True)
    if negative is not None and not isinstance(negative, str):
        raise InputError(f"negative is a {type(negative).__name__}; expected a text")
    denoise = check_number(denoise, "denoise", 0, 1, "1 is from noise")
    times = None if timesteps is None else given_timesteps(timesteps)
    if times is not None:
        denoise = float(times[0])
    given = [as_given(image, f"image {number}") for number, image in enumerate(as_list(images), 1)]
    prompts = as_named(prompts, names, len(given))
    below = "denoise is" if times is None else "the first of the timesteps is"
    starting = f"{below} below 1" if denoise < 1 else "there is a noise mask"
    starts = denoise < 1 or noise_mask is not None
    if starts and not given:
        raise InputError(f"{starting}, which starts from a picture, but none was given")
    feather = check_whole(feather, "feather", 0, 4096)
    outside = (
        noise_mask.reshape(1, *noise_mask.shape[-2:]) if isinstance(noise_mask, Tensor) else None
    )
    if paste_back and noise_mask is None:
        raise InputError("paste_back is set, but there is no noise_mask that says what to put back")
    back = noise_mask if paste_back else None
    parts = as_loras(loras)
    fit = fit if isinstance(fit, Fit) else Fit(check_choice(fit, "fit", POLICIES))
    if checks is not None:
        checks.ask_before(prompts, [image for image in given if isinstance(image, Tensor)])
    pipeline = model if isinstance(model, Pipeline) else load_pipeline(model)
    flux, autoencoder = pipeline.model, pipeline.autoencoder
    latent_format = flux.latent_format
    scale = latent_format.downscale

    canvas = plan_canvas(given, width, height, flux, fit)
    size = canvas.size

    with torch.no_grad(), _with_loras(flux, pipeline.text_encoder, parts):
        references = [
            replace(image, latent=image.latent.to(autoencoder.device))
            if isinstance(image, Reference)
            else _reference(pipeline, image, canvas.frame(image, number))
            for number, image in enumerate(given, 1)
        ]
        count = 1 if starts_of else batch * len(prompts)
        shape = (count, latent_format.channels, size[1] // scale, size[0] // scale)
        start = None
        if starts:
            canvas.check_start(given[0], starting)
            start = references[0].latent
            if isinstance(noise_mask, Tensor) and noise_mask.ndim >= 2:
                # Something else than a mask is refused by `sample`.
                noise_mask = canvas.mask(noise_mask, references[0].framing)
        context = stitch(shape, references, method=method, latent_format=latent_format)
        wanted = Conditioning(*pipeline.text_encoder.encode(prompts), guidance)
        unwanted = None
        if cfg != 1.0 or steered is not None:
            unwanted = Conditioning(*pipeline.text_encoder.encode([negative or ""]), guidance)
        settings: dict[str, Any] = {
            "latent": start,
            "negative": unwanted,
            "cfg": cfg,
            "nag": steered,
            "solver": solver,
            "accelerate": accelerate,
            "noise_mask": noise_mask,
            "mask_mode": mask_mode,
            "should_stop": should_stop,
            "report": report,
        }
        if times is None:
            times = make_timesteps(steps, context.target_tokens, schedule=schedule, denoise=denoise)
        if starts_of is None:
            noise = make_noise(seed, (batch, *shape[1:])).repeat_interleave(len(prompts), 0)
            latent = sample(
                flux,
                context,
                wanted,
                times,
                noise=noise,
                state=state,
                callback=callback,
                **settings,
            )
        else:
            part = partial(sample_steps, flux, context, wanted, times, **settings)
            shown = Candidate(
                torch.empty(0),
                seed,
                prompts[0],
                [x for x in given if isinstance(x, Tensor)],
                outside,
            )

            def look(raw: Tensor) -> Tensor:
                return canvas.finish(to_picture(autoencoder.decode(raw)).cpu())

            latent = finish_best(
                part, look, shape, latent_format, starts_of, batch, shown, callback
            )
        decoded = autoencoder.decode(latent)
        if not bool(torch.isfinite(decoded).all()):
            raise not_finite(autoencoder, decoded.dtype, "in decoding the picture")
        result = canvas.finish(to_picture(decoded).cpu())
    if back is not None:
        first = given[0]
        if isinstance(first, Tensor) and canvas.framing is not None:
            first = on_page(first, canvas.framing)
            back = on_page_mask(back, canvas.framing, new=1.0)
        result = _pasted(result, first, back, feather, match_colours)
    if checks is not None:
        checks.ask_after(prompts, result)
    return result


def _pasted(
    result: Tensor, first: Tensor | Reference, mask: Tensor, feather: int, match: bool
) -> Tensor:
    """The result with the first picture's own pixels where the mask is black."""
    if isinstance(first, Reference) or first.shape[1:3] != result.shape[1:3]:
        size = (
            "a latent" if isinstance(first, Reference) else f"{first.shape[2]} x {first.shape[1]}"
        )
        raise InputError(
            f"paste_back needs the first picture in the result's size, {result.shape[2]} x "
            f"{result.shape[1]}, but it is {size}; give the picture itself, without width and height"
        )
    mask = mask.reshape(-1, *mask.shape[-2:])
    return composite(result, first.cpu(), mask, feather, match=match)


def _reference(pipeline: Pipeline, picture: Tensor, framing: Framing) -> Reference:
    return Reference(pipeline.encode_framed(picture, framing), framing=framing)


@contextmanager
def _with_loras(
    flux: Flux, encoders: nn.Module, parts: Sequence[tuple[str | Path | Lora, float]]
) -> Iterator[None]:
    """LoRAs on the model and its text encoders for as long as this lasts."""
    if not parts:
        yield
        return
    loaded = [(p if isinstance(p, Lora) else load_lora(p), strength) for p, strength in parts]
    with loras_for_now(flux, loaded), text_loras_for_now(encoders, loaded):
        yield
