"""CONDITIONING at the edge: what our Stitch writes into it, and what our Sampler reads out of it.

An entry is `[features, {"pooled_output", "guidance", "reference_latents",
"reference_latents_method", "kontext_references"}]`. References travel twice: as plain latents,
which ComfyUI's own Flux understands, and as one `ReferenceChain` with everything else we know.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..kontext_core.errors import InputError, ShapeError
from ..kontext_core.stitcher import METHODS, Reference

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..kontext_core.guidance import Conditioning

log = logging.getLogger(__name__)

# CONDITIONING: [tensor, options] each.
Entries = list[list[Any]]

# Names ComfyUI's multi-reference node writes for methods we call otherwise.
METHOD_NAMES = {"uxo/uno": "uxo", **{name: name for name in METHODS}}
# What an entry may ask for that this sampler does not do; ignoring it would look like a result.
UNSUPPORTED = {
    "area": "areas",
    "mask": "conditioning masks",
    "control": "ControlNet",
    "hooks": "hooks",
    "concat_latent_image": "inpainting models",
}

# Widths of features and pooled feature, and whose they are.
TEXT_ENCODERS = {
    (4096, 768): "FLUX.1's T5-XXL and CLIP-L",
    (128, 128): "the embedded text encoder",
    (768, 768): "Stable Diffusion 1's CLIP",
    (1024, 1024): "Stable Diffusion 2's CLIP",
    (2048, 1280): "SDXL's CLIP",
    (1280, 1280): "the SDXL refiner's CLIP",
    (4096, 2048): "Stable Diffusion 3's CLIP",
}


@dataclass(frozen=True, eq=False)
class ReferenceChain:
    """References in the order in which the instruction numbers them. Never changes; compares by
    value, so that a host can see whether two conditionings carry the same.

    `thumbnails` are data URLs of the pictures, None for a reference that came as a latent: only for
    the drawing of the layout, and no part of what is compared.
    """

    items: tuple[Reference, ...] = ()
    thumbnails: tuple[str | None, ...] = ()

    def add(self, reference: Reference, thumbnail: str | None = None) -> ReferenceChain:
        """The chain with one more at its end."""
        missing = [None] * (len(self.items) - len(self.thumbnails))
        return ReferenceChain((*self.items, reference), (*self.thumbnails, *missing, thumbnail))

    def to(self, device: torch.device | str) -> ReferenceChain:
        """The chain with its latents on a device."""
        moved = tuple(replace(r, latent=r.latent.to(device)) for r in self.items)
        return ReferenceChain(moved, self.thumbnails)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ReferenceChain) or len(self.items) != len(other.items):
            return False
        return all(_same(a, b) for a, b in zip(self.items, other.items, strict=True))

    def __hash__(self) -> int:
        return hash(tuple(_numbers(r) for r in self.items))


def _numbers(reference: Reference) -> tuple[Any, ...]:
    shape = tuple(reference.latent.shape)
    return (shape, reference.strength, reference.start, reference.end, reference.position)


def _same(a: Reference, b: Reference) -> bool:
    return a is b or (
        _numbers(a) == _numbers(b) and _equal(a.latent, b.latent) and _equal(a.mask, b.mask)
    )


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return a is b or (a.shape == b.shape and bool((a.to(b.device) == b).all()))


@dataclass(frozen=True, eq=False)
class Instruction:
    """What the sampler takes from one CONDITIONING."""

    conditioning: Conditioning
    references: tuple[Reference, ...]
    method: str


def attach(conditioning: Entries, references: Sequence[Reference], method: str) -> Entries:
    """CONDITIONING with these references in place of any it had; the given one is not changed."""
    # ComfyUI's own Flux has no strength: one of strength 0 can at least be left away there.
    latents = [r.latent for r in references if r.strength > 0]
    values = {
        "reference_latents": latents,
        "reference_latents_method": method,
        "kontext_references": ReferenceChain(tuple(references)),
    }
    return [[features, {**extra, **values}] for features, extra in conditioning]


def beyond_native(reference: Reference) -> list[str]:
    """What of a reference ComfyUI's own Flux does not know, in words: latent and method are all
    that reaches it, and that a strength of 0 leaves a reference out."""
    asked = []
    if reference.strength not in (0, 1):
        asked.append(f"strength {reference.strength:g}")
    if reference.start > 0 or reference.end < 1:
        asked.append(f"start {reference.start:g} and end {reference.end:g}")
    if reference.mask is not None:
        asked.append("the mask")
    if reference.position is not None:
        asked.append("its own place")
    return asked


def check_text(conditioning: Any, params: Any, name: str) -> None:
    """Refuse what another kind of CLIP has made, before anything is computed with it.

    Args:
        conditioning: as it comes from a socket; what has no widths is left to others to judge.
        params: of the transformer, ours or the host's; None says nothing.
        name: of the input, for messages.

    Raises:
        ShapeError: features or pooled feature of other widths than the transformer takes.
    """
    wanted = (getattr(params, "context_in_dim", None), getattr(params, "vec_in_dim", None))
    if None in wanted:
        return
    for entry in conditioning if isinstance(conditioning, list) else ():
        features, pooled = entry[0], entry[1].get("pooled_output")
        found = tuple(
            expected if shape is None else shape[-1]
            for shape, expected in zip(
                (getattr(features, "shape", None), getattr(pooled, "shape", None)),
                wanted,
                strict=True,
            )
        )
        if found != wanted:
            raise ShapeError(
                f"{name} was made by {_whose(found)}, this MODEL takes that of {_whose(wanted)}. "
                "CLIP and MODEL must belong together: for FLUX.1 load T5-XXL and CLIP-L with "
                "Kontext: Load Text Encoders, or with DualCLIPLoader and type flux; for the "
                "embedded model take the embedded text encoder"
            )


def _whose(widths: tuple[Any, ...]) -> str:
    known = TEXT_ENCODERS.get(widths, "another text encoder")
    return f"{known} (features of {widths[0]} numbers, pooled {widths[1]})"


def read(conditioning: Any, guidance: float, name: str) -> Instruction:
    """One instruction with its references.

    Args:
        conditioning: as it comes from a socket.
        guidance: used unless the conditioning brings its own (FluxGuidance, CLIPTextEncodeFlux).
        name: of the input, for messages.

    Raises:
        InputError: not exactly one entry, or something in it that this sampler can't do.
    """
    from ..kontext_core.guidance import Conditioning

    if not isinstance(conditioning, list) or len(conditioning) != 1:
        count = len(conditioning) if isinstance(conditioning, list) else "no list of"
        raise InputError(
            f"{name} holds {count} instructions; Kontext: Sampler takes one. Write them as one "
            "text instead of combining conditionings"
        )
    features, extra = conditioning[0]
    asked = [what for key, what in UNSUPPORTED.items() if extra.get(key) is not None]
    if (extra.get("start_percent", 0.0), extra.get("end_percent", 1.0)) != (0.0, 1.0):
        asked.append("timestep ranges")
    if asked:
        raise InputError(
            f"{name} asks for {' and '.join(asked)}, which Kontext: Sampler does not do; take the "
            "node that adds it away"
        )
    pooled = extra.get("pooled_output")
    if pooled is None:
        raise InputError(
            f"{name} has no pooled output; make it with CLIP Text Encode and the CLIP from "
            "Kontext: Load Text Encoders"
        )
    own = extra.get("guidance", guidance) if "guidance" in extra else guidance
    if own != guidance:
        log.info("%s: guidance %s comes with the conditioning, not from the widget", name, own)
    method = extra.get("reference_latents_method") or "offset"
    if method not in METHOD_NAMES:
        raise InputError(
            f"{name} asks for the placement {method!r}; expected one of {', '.join(METHODS)}"
        )
    value = None if own is None else float(own)
    return Instruction(
        Conditioning(features, pooled, value), references_of(extra), METHOD_NAMES[method]
    )


def references_of(extra: dict[str, Any]) -> tuple[Reference, ...]:
    """References of one conditioning's values: our chain, then latents that the host's own
    ReferenceLatent node added after it."""
    # `items` instead of isinstance: another copy of the pack may have made the chain.
    chain = getattr(extra.get("kontext_references"), "items", ())
    known = {id(reference.latent) for reference in chain}
    added = [latent for latent in extra.get("reference_latents") or () if id(latent) not in known]
    return (*chain, *(Reference(latent) for latent in added))
