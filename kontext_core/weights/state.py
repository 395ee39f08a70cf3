"""From a recognised file to one network's parameters under our names, still as stored.

Nothing is read here: pieces are views of mapped files. What depends on a layer's form (unpacking,
scaling, casting) is left to the layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..quant.types import BLOCK_TYPES, is_packed
from .detect import Contents, detect
from .entry import shown
from .keys import Destination
from .keys_autoencoder import place_diffusers as place_autoencoder
from .keys_autoencoder import place_tiny_diffusers
from .keys_flux import place_bfl
from .keys_flux import place_diffusers as place_flux
from .keys_text import place_clip, place_clip_openai, place_t5, place_t5_ggml
from .scales import take_scales
from .source import WeightsFile


@dataclass(frozen=True)
class Weight:
    """One parameter as stored.

    Attributes:
        parts: mapped pieces, joined along dim 0; uint8 rows for block kinds. All of one kind.
        kind: as `TensorEntry.kind`.
        shape: logical shape of the whole.
        scale: of scaled fp8 and int8: float32, a single number, [rows] or [rows, 1]; the weight is
            what is stored times this.
    """

    parts: tuple[Tensor, ...]
    kind: str
    shape: tuple[int, ...]
    scale: Tensor | None = None

    def data(self) -> Tensor:
        """The pieces joined: a view where there is one, a copy where there are several."""
        return self.parts[0] if len(self.parts) == 1 else torch.cat(self.parts)


class State(dict[str, Weight]):
    """Parameters by our names, with the file they come from."""

    def __init__(self, path: Path, weights: dict[str, Weight]) -> None:
        super().__init__(weights)
        self.path = path


@dataclass(frozen=True)
class _Piece:
    """One stored tensor on its way to its place."""

    source: str
    place: Destination
    data: Tensor = field(repr=False)
    kind: str
    shape: tuple[int, ...]
    scale: Tensor | None


def read_state(file: WeightsFile, contents: Contents) -> State:
    """Parameters of one network under our names.

    Transformer and autoencoder get BFL's names, T5 and CLIP those of transformers, TAEF1 its plain
    positions. Scales of fp8 weights become part of their `Weight`. Names that no key map knows stay
    as they are, for the network to refuse.

    Raises:
        CheckpointError: pieces of a matrix are missing or don't fit each other, two tensors want
            one place, or weights are quantized in a way that is not read.
    """
    names = dict(_names(file, contents))
    scales = take_scales(file, names)
    levels = 1 + max(
        (
            int(ours.split(".")[2])
            for ours in names
            if ours.startswith("decoder.up_blocks.") and ours.split(".")[2].isdecimal()
        ),
        default=-1,
    )
    pieces: dict[str, list[_Piece]] = {}
    for ours, source in names.items():
        place = _place(contents, ours, levels)
        if place.target:
            for piece in _cut(file.path, _read(file, source, place, scales.get(ours))):
                pieces.setdefault(piece.place.target, []).append(piece)
    return State(
        file.path, {target: _join(file.path, target, found) for target, found in pieces.items()}
    )


def _names(file: WeightsFile, contents: Contents) -> Iterator[tuple[str, str]]:
    """Names behind the prefix with their full ones; other networks of the file are left out."""
    prefix = contents.prefix
    others = [
        other.prefix
        for other in detect(file)
        if other.prefix.startswith(prefix) and other.prefix != prefix
    ]
    for name in file.entries:
        if name.startswith(prefix) and not any(name.startswith(other) for other in others):
            yield name[len(prefix) :], name


def _place(contents: Contents, name: str, levels: int) -> Destination:
    diffusers = contents.layout == "diffusers"
    if contents.role == "transformer":
        return place_flux(name) if diffusers else place_bfl(name)
    if contents.role == "autoencoder":
        return place_autoencoder(name, levels) if diffusers else Destination(name)
    if contents.role == "t5":
        return place_t5_ggml(name) if contents.layout == "ggml" else place_t5(name)
    if contents.role == "clip_l":
        return place_clip_openai(name) if contents.layout == "openai" else place_clip(name)
    if contents.role.startswith("taef1_") and diffusers:
        return place_tiny_diffusers(name, contents.role.removeprefix("taef1_"))
    return Destination(name)


def _read(file: WeightsFile, source: str, place: Destination, scale: Tensor | None) -> _Piece:
    entry = file.entries[source]
    data, kind, shape = file.tensor(source), entry.kind, entry.shape
    if is_packed(kind) and (not shape or shape[-1] % BLOCK_TYPES[kind].block_size):
        # Blocks that run across the rows of the shape before folding: such a tensor is small.
        from ..quant.decode import dequantize

        data, kind = dequantize(data, kind).reshape(shape), "F32"
    if place.change == "matrix to convolution" and len(shape) == 2 and not is_packed(kind):
        shape = (*shape, 1, 1)
        data = data.view(shape)
    return _Piece(source, place, data, kind, shape, scale)


def _cut(path: Path, piece: _Piece) -> Iterator[_Piece]:
    """A stored tensor as its targets get it: whole, or in equal pieces of its rows."""
    targets = (piece.place.target, *piece.place.split)
    if len(targets) == 1:
        yield piece
        return
    rows = piece.shape[0] if piece.shape else 0
    if not rows or rows % len(targets) or piece.data.shape[:1] != piece.shape[:1]:
        raise CheckpointError(
            f"{path}: {shown(piece.source)} has {rows} rows; expected {len(targets)} equal parts. "
            "Download the file again"
        )
    size = rows // len(targets)
    for number, target in enumerate(targets):
        part = slice(number * size, (number + 1) * size)
        scale = piece.scale
        if scale is not None and scale.numel() > 1:
            scale = scale[part]
        shape = (size, *piece.shape[1:])
        yield _Piece(piece.source, Destination(target), piece.data[part], piece.kind, shape, scale)


def _join(path: Path, target: str, pieces: list[_Piece]) -> Weight:
    pieces = sorted(pieces, key=lambda piece: piece.place.piece)
    wanted = pieces[0].place.pieces
    found = [piece.place.piece for piece in pieces]
    if wanted == 1:
        # A second table under another name (T5's embed_tokens) gives way to the first.
        if len({piece.place.piece for piece in pieces}) != len(pieces):
            raise CheckpointError(
                f"{path}: {' and '.join(shown(piece.source) for piece in pieces)} are the same "
                f"parameter {target}; expected one of them. Download the file again"
            )
        pieces = pieces[:1]
    elif found != list(range(wanted)):
        raise CheckpointError(
            f"{path}: {target} needs {wanted} tensors and only "
            f"{', '.join(shown(piece.source) for piece in pieces)} belong to it; download the "
            "file again, or use the single-file form"
        )
    first = pieces[0]
    if len(pieces) > 1 and any(
        not piece.shape or piece.shape[1:] != first.shape[1:] for piece in pieces
    ):
        raise CheckpointError(
            f"{path}: the pieces of {target} don't fit each other: "
            + ", ".join(f"{shown(piece.source)} is {list(piece.shape)}" for piece in pieces)
            + "; expected equal columns. Download the file again"
        )
    if len({piece.kind for piece in pieces}) > 1:
        pieces = [_decoded(piece) for piece in pieces]
        first = pieces[0]
    shape = first.shape
    if len(pieces) > 1:
        shape = (sum(piece.shape[0] for piece in pieces), *first.shape[1:])
    parts, scale = tuple(piece.data for piece in pieces), _joined_scale(pieces)
    if first.place.change == "swap halves" and shape:
        parts, scale = _swapped(path, target, parts[0], scale)
    return Weight(parts, first.kind, shape, scale)


def _decoded(piece: _Piece) -> _Piece:
    """A piece as float32, for matrices whose pieces are of several kinds."""
    if is_packed(piece.kind):
        from ..quant.decode import dequantize

        data = dequantize(piece.data, piece.kind)
    else:
        data = piece.data.float()
        if piece.scale is not None:
            data = data * _as_rows(piece.scale, piece.shape)
    return _Piece(piece.source, piece.place, data, "F32", piece.shape, None)


def _as_rows(scale: Tensor, shape: tuple[int, ...]) -> Tensor:
    return scale.reshape(-1, *[1] * (len(shape) - 1)) if scale.numel() > 1 else scale.reshape(())


def _joined_scale(pieces: list[_Piece]) -> Tensor | None:
    if len(pieces) == 1:
        return pieces[0].scale
    if all(piece.scale is None for piece in pieces):
        return None
    rows = []
    for piece in pieces:
        scale = torch.ones(()) if piece.scale is None else piece.scale
        rows.append(scale.reshape(-1).expand(piece.shape[0]))
    return torch.cat(rows)


def _swapped(
    path: Path, target: str, data: Tensor, scale: Tensor | None
) -> tuple[tuple[Tensor, ...], Tensor | None]:
    rows = data.shape[0]
    if rows % 2:
        raise CheckpointError(
            f"{path}: {target} has {rows} rows; expected an even number, scale and shift. Download "
            "the file again"
        )
    if scale is not None and scale.numel() > 1:
        scale = torch.cat((scale[rows // 2 :], scale[: rows // 2]))
    return (data[rows // 2 :], data[: rows // 2]), scale


def parameters(state: State) -> int:
    """How many numbers the parameters are."""
    return sum(math.prod(weight.shape) for weight in state.values())
