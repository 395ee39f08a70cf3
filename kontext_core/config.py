"""Sizes of the models, as frozen dataclasses whose defaults are the published FLUX.1 Kontext [dev].

Field names follow the published code (black-forest-labs/flux, src/flux/util.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

from .errors import CheckpointError
from .resolutions import KONTEXT_RESOLUTIONS
from .small_files import read_small_text

T = TypeVar("T")


class Shaped(Protocol):
    """Anything with a shape: a tensor, or a weight that has not been read yet."""

    @property
    def shape(self) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class FluxParams:
    """Sizes of the transformer. `in_channels` counts token channels (16 latent x 2x2 patch)."""

    in_channels: int = 64
    out_channels: int = 64
    vec_in_dim: int = 768
    context_in_dim: int = 4096
    hidden_size: int = 3072
    mlp_ratio: float = 4.0
    num_heads: int = 24
    depth: int = 19
    depth_single_blocks: int = 38
    axes_dim: tuple[int, int, int] = (16, 56, 56)
    theta: int = 10_000
    qkv_bias: bool = True
    guidance_embed: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes_dim", tuple(self.axes_dim))
        if self.hidden_size % self.num_heads:
            raise CheckpointError(
                f"hidden_size {self.hidden_size} does not divide into num_heads {self.num_heads}; "
                "choose a multiple"
            )
        head_dim = self.hidden_size // self.num_heads
        if sum(self.axes_dim) != head_dim or any(d % 2 for d in self.axes_dim):
            raise CheckpointError(
                f"axes_dim {self.axes_dim} must be three even numbers adding up to the head size "
                f"{head_dim} (hidden_size / num_heads)"
            )


@dataclass(frozen=True)
class AutoEncoderParams:
    """Sizes of the autoencoder. The picture shrinks by 2 per level after the first.

    `decoder_side`: a decoder trained on small pictures only, which fails on larger ones, decodes
    them in independent tiles of this many pixels a side; 0 sets no limit.
    """

    in_channels: int = 3
    ch: int = 128
    out_ch: int = 3
    ch_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    z_channels: int = 16
    norm_groups: int = 32
    decoder_side: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "ch_mult", tuple(self.ch_mult))

    @property
    def downscale(self) -> int:
        """Pixels per latent cell along one side."""
        return 2 ** (len(self.ch_mult) - 1)


@dataclass(frozen=True)
class TextEncoderParams:
    """Sizes of the embedded text encoder (`models/text.py`).

    `min_length`: prompts are padded to this many tokens; there is no attention mask, as in Flux,
    so the padding is part of what the model was trained on. `max_length`: longer texts are cut.
    """

    vocab_size: int = 512
    width: int = 128
    depth: int = 2
    num_heads: int = 4
    out_dim: int = 128
    vec_dim: int = 128
    min_length: int = 24
    max_length: int = 128


def params_from(kind: type[T], values: dict[str, Any], source: str) -> T:
    """Build a params dataclass from plain JSON values.

    Raises:
        CheckpointError: a field is unknown to this version, named together with `source`.
    """
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        raise CheckpointError(
            f"{source}: unknown {kind.__name__} field(s) {', '.join(unknown)}; "
            f"expected some of {', '.join(sorted(known))}. Update the pack or fix the file."
        )
    try:
        return kind(**values)
    except CheckpointError:
        raise
    except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise CheckpointError(
            f"{source}: a value is of another type than expected ({error}). Fix the file or "
            "download it again"
        ) from error


def read_config(path: Path) -> dict[str, Any]:
    """Read a model folder's `config.json`.

    Raises:
        CheckpointError: unreadable or not a JSON object.
    """
    try:
        data = json.loads(read_small_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: can't read the model's config ({error})") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(data).__name__}")
    return data


def resolutions_from(config: dict[str, Any], path: Path) -> tuple[tuple[int, int], ...]:
    """(width, height) of the sizes a model was trained at; the published ones where none are named.

    Raises:
        CheckpointError: not a list of pairs of whole numbers.
    """
    sizes = config.get("resolutions", KONTEXT_RESOLUTIONS)
    try:
        return tuple((int(width), int(height)) for width, height in sizes)
    except (TypeError, ValueError, OverflowError):
        raise CheckpointError(
            f"{path}: resolutions is {str(sizes)[:60]!r}; expected a list of [width, height]"
        ) from None
