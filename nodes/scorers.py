"""Who chooses among candidates: by hand, or a criterion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..kontext_core.errors import InputError
from ..kontext_core.images import check_image
from ..kontext_core.resolutions import KONTEXT_RESOLUTIONS
from ..kontext_core.scoring.best import CRITERIA, Candidate
from .finish import place, true_framing
from .native.vae import require_vae

if TYPE_CHECKING:
    from torch import Tensor

BY_HAND = "by hand"
SCORERS = (BY_HAND, *CRITERIA)


def candidates_of(
    latents: Sequence[Tensor],
    seeds: Sequence[int],
    latent_image: dict[str, Any],
    vae: Any,
    original: Tensor | None,
    mask: Tensor | None,
) -> list[Candidate]:
    """Early looks as pictures, in the original's size where there is one.

    Raises:
        InputError: no VAE is connected, or an original of another shape.
    """
    if vae is None:
        raise InputError(
            "a scorer looks at pictures; connect Kontext: Load VAE to vae, or choose by hand"
        )
    images: list[Tensor] = []
    if original is not None:
        images = [check_image(original[..., :3], "original")[:1]]
    found = []
    for latent, seed in zip(latents, seeds, strict=True):
        picture = require_vae(vae).decode(latent)
        if images:
            sizes = getattr(vae, "resolutions", KONTEXT_RESOLUTIONS)
            picture, _ = place(
                picture, images[0], true_framing(latent_image, picture), "refuse", sizes
            )
        found.append(Candidate(picture.float().cpu(), seed, "", images, mask))
    return found
