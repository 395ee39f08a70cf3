"""Turns run by a pipeline: each starts from the latent of the turn that it continues.

No turn decodes and encodes again what the one before painted, and what it leaves alone keeps the pixels
of that turn (`keep`). docs/benchmarks.md has what this is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image as PillowImage
from torch import Tensor

from ..accelerate import recorded
from ..checks import check_choice
from ..errors import InputError
from ..framing import Framing, plan_fit
from ..images import as_image, load_mask
from ..inputs import check_instruction
from ..latents import FLUX_LATENT, LatentFormat
from ..pipeline import Pipeline, edit
from ..sampling import Callback
from ..stitcher import Reference
from .keep import changed_cells, keep_cells, keep_pixels, mask_weights, masked_cells, weights_of
from .store import Session, Turn

# What of the picture before a turn leaves alone.
KEEPS = ("unchanged", "outside mask", "nothing")


def add_start(
    session: Session, pipeline: Pipeline, image: str | Path | PillowImage | Tensor, note: str = ""
) -> Turn:
    """A picture to start from; a session may have several.

    Raises:
        InputError, ShapeError: not one picture.
    """
    picture = one_picture(as_image(image))
    sizes = pipeline.model.resolutions
    framing = plan_fit(picture.shape[2], picture.shape[1], sizes, "trained size")
    with torch.no_grad():
        latent = pipeline.encode_framed(picture, framing)
    return session.add(picture, latent, framing, note=note)


def add_turn(
    session: Session,
    pipeline: Pipeline,
    prompt: str,
    *,
    parent: int,
    seed: int = 0,
    images: tuple[str | Path | PillowImage | Tensor, ...] | list[Any] = (),
    mask: str | Path | Tensor | None = None,
    keep: str = "unchanged",
    note: str = "",
    callback: Callback | None = None,
    should_stop: Callable[[], bool] | None = None,
    **settings: Any,
) -> Turn:
    """Edit the picture of a turn, and add the result to the session.

    Args:
        prompt: the instruction; the turn's picture is "image 1".
        parent: number of the turn to continue. Several turns may continue the same one.
        images: further pictures, "image 2" and so on.
        mask: a file or [h, w], of the picture's shape: 1 may change. With one, `keep` "unchanged"
            leaves alone what is outside it.
        keep: what keeps pixels and latent of the turn before: "unchanged" parts, as the mask says or as
            found from the latents; only what is "outside mask"; "nothing".
        settings: of `edit`: steps, guidance, negative, cfg, method, solver, accelerate, schedule.
        callback, should_stop: see `sampling.sample`.

    Raises:
        InputError, ShapeError: arguments that can't be used, or a setting that is no turn's.
        SessionError: the file can't be read or written; nothing is added.
        Cancelled: `should_stop` said yes; nothing is added.
    """
    check_choice(keep, "keep", KEEPS)
    unknown = sorted(set(settings) - set(SETTINGS))
    if unknown:
        raise InputError(
            f"a turn takes no {', '.join(unknown)}; expected settings among {', '.join(SETTINGS)}"
        )
    kept_settings = {**settings, "keep": keep}
    if "accelerate" in settings:
        # Of plain values, as a file holds them.
        kept_settings["accelerate"] = recorded(settings["accelerate"])
    before = session.turn(parent)
    check_space(before.framing, pipeline.model.resolutions)
    shown = [one_picture(as_image(image)) for image in images]
    area = load_mask(mask) if isinstance(mask, str | Path) else mask
    start = session.latent(parent)
    last: list[Tensor] = []

    def watch(step: int, steps: int, x0: Tensor, x: Tensor) -> None:
        last[:] = [x]
        if callback is not None:
            callback(step, steps, x0, x)

    picture = edit(
        pipeline,
        check_instruction(prompt),
        [Reference(start, framing=before.framing), *shown],
        seed=seed,
        callback=watch,
        should_stop=should_stop,
        **settings,
    )
    latent_format = pipeline.model.latent_format
    result = picture, latent_format.process_out(last[0]).cpu()
    kept = kept_of(
        session.picture(parent), start, result, before.framing, area, keep, latent_format
    )
    return session.add(
        *kept,
        before.framing,
        parent=parent,
        prompt=prompt,
        seed=seed,
        settings=kept_settings,
        mask=area,
        references=shown,
        note=note,
    )


SETTINGS = ("steps", "guidance", "negative", "cfg", "method", "solver", "accelerate", "schedule")


def replay(
    session: Session,
    pipeline: Pipeline,
    number: int,
    *,
    seed: int,
    callback: Callback | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Turn:
    """The same words, settings, mask and pictures on the same parent, from other noise.

    Raises:
        InputError: there is no such turn, or it is a start.
        SessionError, Cancelled: as `add_turn`.
    """
    turn = session.turn(number)
    if turn.parent is None:
        raise InputError(
            f"turn {number} is a start: there is nothing to replay; choose a later one"
        )
    settings = {key: value for key, value in turn.settings.items() if key in SETTINGS}
    return add_turn(
        session,
        pipeline,
        turn.prompt,
        parent=turn.parent,
        seed=seed,
        images=session.references(number),
        mask=session.mask(number),
        keep=turn.settings.get("keep", KEEPS[0]),
        note=turn.note,
        callback=callback,
        should_stop=should_stop,
        **settings,
    )


def kept_of(
    picture: Tensor,
    latent: Tensor,
    result: tuple[Tensor, Tensor],
    framing: Framing,
    mask: Tensor | None,
    keep: str,
    latent_format: LatentFormat = FLUX_LATENT,
) -> tuple[Tensor, Tensor]:
    """A turn's picture and latent, with what it leaves alone taken from the turn before.

    Args:
        picture, latent: of the turn before, [1, h, w, 3] and RAW [1, c, h, w].
        result: picture and latent as painted.
        framing: of both.
        mask: None, or [h, w] of the picture's shape.
        keep: one of `KEEPS`.

    Raises:
        ShapeError: a mask of another shape.
    """
    if keep == "nothing" or (keep == "outside mask" and mask is None):
        return result
    painted, after = result
    if mask is None:
        cells = changed_cells(latent, after, latent_format)
        weights = weights_of(cells, framing)
    else:
        cells = masked_cells(mask, framing, (after.shape[-2], after.shape[-1]))
        weights = mask_weights(mask, framing)
    return keep_pixels(painted, picture, weights), keep_cells(after, latent, cells)


def check_space(framing: Framing, sizes: Sequence[tuple[int, int]]) -> None:
    """Refuse a model that was trained at other sizes than the one a session was begun with: latents of
    the embedded model and of FLUX.1 mean different things.

    Raises:
        InputError: says both.
    """
    if framing.trained not in [tuple(size) for size in sizes]:
        raise InputError(
            f"the session was begun with a model of pictures of {framing.trained[0]} x "
            f"{framing.trained[1]}, this one was trained at other sizes: its latents differ. Give the "
            "model and VAE that the session was begun with, or begin another"
        )


def one_picture(picture: Tensor) -> Tensor:
    """Return it if it is one picture and no batch of several.

    Raises:
        InputError: several.
    """
    if len(picture) != 1:
        raise InputError(f"the picture is a batch of {len(picture)}; a turn takes one at a time")
    return picture
