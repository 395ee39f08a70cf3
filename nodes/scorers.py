"""Who chooses among candidates: by hand, a criterion, or a judge at an address that this machine allows."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..kontext_core.errors import InputError
from ..kontext_core.images import check_image
from ..kontext_core.resolutions import KONTEXT_RESOLUTIONS
from ..kontext_core.scoring.best import CRITERIA, Candidate, CandidateScorer
from ..kontext_core.scoring.endpoint import Endpoint
from ..kontext_core.scoring.judging import judged_by
from .finish import place, true_framing
from .native.vae import require_vae

if TYPE_CHECKING:
    from torch import Tensor

BY_HAND, JUDGE = "by hand", "judge"
SCORERS = (BY_HAND, *CRITERIA, JUDGE)
# Hosts beyond this machine that pictures may be sent to, separated by commas. In the environment, since a
# workflow made by somebody else must not send pictures wherever it likes.
HOSTS = "KONTEXT_JUDGE_HOSTS"


def scorer_of(name: str, url: str, model: str) -> CandidateScorer:
    """The function behind a choice of SCORERS but "by hand".

    Raises:
        InputError: an unknown choice, a judge without address or name, or at a host that is not allowed.
    """
    if name in CRITERIA:
        return CRITERIA[name]
    if name != JUDGE:
        raise InputError(f"unknown scorer {name!r}; use one of {', '.join(SCORERS)}")
    if not url.strip():
        raise InputError(
            "the scorer is judge, but judge_url is empty; give the address of an OpenAI-compatible server, "
            "such as http://127.0.0.1:8000/v1"
        )
    try:
        host = urlsplit(url.strip()).hostname or ""
    except ValueError as error:
        raise InputError(f"judge_url {url!r} is no address ({error})") from error
    listed = {word.strip().lower() for word in os.environ.get(HOSTS, "").split(",")}
    if host not in listed and not _here(host):
        raise InputError(
            f"judge_url leads to {host!r}, and pictures are sent only to this machine and to hosts that the "
            f"environment variable {HOSTS} lists; add it there if it is yours"
        )
    # Beyond what is listed nobody gets the password.
    return judged_by(Endpoint(url.strip(), model.strip(), password=host in listed))


def _here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def candidates_of(
    latents: Sequence[Tensor],
    seeds: Sequence[int],
    latent_image: dict[str, Any],
    vae: Any,
    original: Tensor | None,
    mask: Tensor | None,
    prompt: str,
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
        found.append(Candidate(picture.float().cpu(), seed, prompt, images, mask))
    return found
