"""Turns entries into the branch of one layer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..quant.linear import plain_weight
from .branch import LayerBranch, LowRank
from .factors import (
    Entry,
    delta,
    dora_gain,
    factor_pairs,
    glora_pairs,
    kron_factors,
    on_rows,
    rotation,
)
from .formats_names import RowRanges
from .terms import Bias, ColumnScale, Full, Hadamard, Kronecker, Rotation, RowScale, Term


def weight_of(module: nn.Module) -> Tensor:
    """Float32 [out, in] a layer multiplies by; a host's layer gives it by a method `plain_weight`."""
    own = getattr(module, "plain_weight", None)
    if callable(own):
        weight = own()
        if isinstance(weight, Tensor):
            return weight.detach().float()
        raise InputError(f"{type(module).__name__}.plain_weight() gave {type(weight).__name__}")
    return plain_weight(module)


def build_branch(
    module: nn.Module,
    size: tuple[int, int],
    entries: Sequence[tuple[int, Entry]],
    strengths: list[float],
) -> LayerBranch:
    """A branch for all of a layer's entries, each with the index of its LoRA.

    Args:
        size: (out_features, in_features).

    Raises:
        InputError: an entry needs the layer's weight, and the layer can't give it.
    """
    parts: list[LowRank] = []
    terms: list[Term] = []
    cache: list[Tensor] = []

    def weight() -> Tensor:
        if not cache:
            cache.append(weight_of(module))
        return cache[0]

    with torch.inference_mode(False), torch.no_grad():
        for which, entry in entries:
            rows = entry.target.rows(*size)
            for piece in _pieces(entry, which, rows, size, weight):
                if isinstance(piece, LowRank):
                    parts.append(piece)
                else:
                    terms.append(piece)
    return LayerBranch(parts, terms, strengths)


def _pieces(
    entry: Entry, which: int, rows: RowRanges, size: tuple[int, int], weight: Callable[[], Tensor]
) -> Iterator[LowRank | Term]:
    if entry.kind == "bias":
        values = entry.tensors["diff_b"].float().reshape(-1) * entry.scale
        yield Bias(rows, which, delta=values)
        return
    if entry.kind == "diff":
        yield Full(rows, which, delta=entry.tensors["diff"].flatten(1))
        return
    own = None
    if entry.needs_weight:
        full = weight()
        own = full if len(rows) == 1 and rows[0] == (0, len(full)) else _rows(full, rows)
    if entry.kind == "set" and own is not None:
        yield Full(rows, which, delta=delta(entry, own))
        return
    gain = columns = None
    if entry.magnitude is not None and own is not None:
        factor = dora_gain(entry, own).cpu()
        if on_rows(entry, len(own)):
            gain = factor.reshape(-1)
            yield RowScale(rows, which, delta=gain - 1)
        else:
            columns = factor.reshape(-1)
            yield ColumnScale(rows, which, delta=columns - 1)
    yield from _change(entry, which, rows, size, own, gain, columns)


def _change(
    entry: Entry,
    which: int,
    rows: RowRanges,
    size: tuple[int, int],
    own: Tensor | None,
    gain: Tensor | None,
    columns: Tensor | None,
) -> Iterator[LowRank | Term]:
    """The entry's product, with DoRA's factors on its rows or columns."""
    scaled: dict[str, Any] = {"gain": gain, "columns": columns}
    if entry.kind == "lokr":
        first, second = _chains(entry)
        yield Kronecker(rows, which, first, second, entry.scale, **scaled)
        return
    if entry.kind == "oft":
        more = (
            {"rescale": entry.tensors["rescale"].reshape(-1)} if "rescale" in entry.tensors else {}
        )
        yield Rotation(rows, which, blocks=rotation(entry), **scaled, **more)
        return
    if entry.kind == "glora" and own is not None:
        pairs = [(up.cpu(), down.cpu()) for up, down in glora_pairs(entry, own)]
    elif entry.kind == "loha":
        (a1, b1), (a2, b2) = factor_pairs(entry)
        count, width = len(a1), b1.shape[1]
        rank = a1.shape[1] * a2.shape[1]
        if rank * (count + width) > count * width:
            yield Hadamard(rows, which, entry.scale, a1=a1, b1=b1, a2=a2, b2=b2, **scaled)
            return
        up = (a1[:, :, None] * a2[:, None, :]).reshape(count, rank)
        pairs = [(up, (b1[:, None, :] * b2[None, :, :]).reshape(rank, width))]
    elif "mid" in entry.tensors:
        pairs = factor_pairs(entry)
    else:
        # As stored: a view on the file that costs nothing until it is brought to the device.
        pairs = [(entry.tensors["up"].flatten(1), entry.tensors["down"].flatten(1))]
    for up, down in pairs:
        if gain is not None:
            up = up.float() * gain[:, None]
        if columns is not None:
            down = down.float() * columns
        yield from _split(rows, up, down, entry.scale, which, size)


def _split(
    rows: RowRanges, up: Tensor, down: Tensor, scale: float, which: int, size: tuple[int, int]
) -> Iterator[LowRank]:
    """One part for each run of rows; q, k, v, mlp apart where a fused file keeps them apart.

    Trainers that split a fused layer write one `up` of three or four times the rank that is zero
    outside its blocks; multiplying those zeros would cost as much as they save.
    """
    out, h = size
    if rows == ((0, out),) and out >= 3 * h and h > 1 and up.shape[1] >= 3:
        seen = up.float() if up.dtype.itemsize == 1 else up
        bounds = [0, h, 2 * h, 3 * h] + ([out] if out > 3 * h else [])
        pairs = list(itertools.pairwise(bounds))
        # The last column of such a file belongs to the last block: one look rules the others out.
        if not bool((seen[:h, -1] != 0).any()):
            used = torch.stack([(seen[a:b] != 0).any(dim=0) for a, b in pairs])
            if bool((used.sum(dim=0) <= 1).all()):
                for (a, b), columns in zip(pairs, used, strict=True):
                    if bool(columns.any()):
                        yield LowRank((a, b), up[a:b, columns], down[columns], scale, which)
                return
    at = 0
    for start, stop in rows:
        yield LowRank((start, stop), up[at : at + stop - start], down, scale, which)
        at += stop - start


def _chains(entry: Entry) -> tuple[list[Tensor], list[Tensor]]:
    """LoKr's factors, each as one matrix or as (down, up) where that is less work."""
    first, second = kron_factors(entry)
    chains = []
    for name, product in (("lokr_w1", first), ("lokr_w2", second)):
        a, b = entry.tensors.get(f"{name}_a"), entry.tensors.get(f"{name}_b")
        core = f"lokr_t{name[-1]}" in entry.tensors
        if a is None or b is None or core or a.numel() + b.numel() >= product.numel():
            chains.append([product])
        else:
            chains.append([b.flatten(1), a.flatten(1)])
    return chains[0], chains[1]


def _rows(weight: Tensor, rows: RowRanges) -> Tensor:
    return torch.cat([weight[start:stop] for start, stop in rows])
