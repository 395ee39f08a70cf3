"""LoRAs beside a layer: added to its output, so that the weight stays as it is, packed or not.

A branch is a forward hook. All low-rank parts on a layer share one product with the input; each
group of rows then adds its own product into the output in place. A strength is a factor given to
that product, so changing it rebuilds nothing. What is not a low-rank product has a term of its own
(`terms`). Exact in real numbers: y = (W + sum of strength * delta) x + b, each delta taken on the
original weight, so the order of LoRAs makes no difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .terms import Term


@dataclass(frozen=True, eq=False)
class LowRank:
    """scale * up @ down on consecutive rows of a layer.

    rows: (start, stop). up: [rows, rank]; down: [rank, columns]; which: index of the LoRA.
    """

    rows: tuple[int, int]
    up: Tensor
    down: Tensor
    scale: float
    which: int


@dataclass(frozen=True, eq=False)
class _Group:
    """Parts on the same rows, put side by side."""

    rows: tuple[int, int]
    columns: slice
    up: Tensor
    factors: tuple[tuple[int, float, int], ...]

    def add(self, y: Tensor, hidden: Tensor, strengths: Sequence[float]) -> None:
        """y [n, out] gets this group's share; hidden [n, all ranks] is the product with down."""
        scales = [strengths[which] * scale for which, scale, _ in self.factors]
        if not any(scales):
            return
        part = hidden[:, self.columns]
        alpha = scales[0]
        if any(scale != alpha for scale in scales):
            columns = [s for s, (_, _, rank) in zip(scales, self.factors, strict=True)
                       for _ in range(rank)]  # fmt: skip
            part = part * torch.tensor(columns, dtype=part.dtype, device=part.device)
            alpha = 1.0
        start, stop = self.rows
        y[:, start:stop].addmm_(part, self.up, alpha=alpha)


class LayerBranch:
    """Forward hook of one linear layer.

    Args:
        parts: low-rank parts, in any order.
        terms: everything else.
        strengths: one for each LoRA; shared by all branches of a model and changed in place.
    """

    def __init__(
        self, parts: Sequence[LowRank], terms: Sequence[Term], strengths: list[float]
    ) -> None:
        self.parts = sorted(parts, key=lambda part: part.rows)
        self.terms = list(terms)
        self.strengths = strengths
        self._place: tuple[torch.device, torch.dtype] | None = None
        self._down: Tensor | None = None
        self._groups: list[_Group] = []

    def __call__(
        self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor
    ) -> Tensor | None:
        if not any(self.strengths):
            return None
        x = args[0]
        self._prepare(x)
        y = output.contiguous()
        flat_x, flat_y = x.reshape(-1, x.shape[-1]), y.view(-1, y.shape[-1])
        base = None
        if any(term.needs_base for term in self.terms):
            bias = getattr(module, "bias", None)
            base = flat_y.clone() if bias is None else flat_y - bias.to(flat_y.device, flat_y.dtype)
        if self._down is not None:
            hidden = flat_x @ self._down
            for group in self._groups:
                group.add(flat_y, hidden, self.strengths)
        for term in self.terms:
            strength = self.strengths[term.which]
            if strength:
                _scatter(flat_y, term.rows, term(flat_x, base, module), strength)
        return y

    def release(self) -> None:
        """Let go of the factors on the device; the next forward brings them there again."""
        self._place, self._down, self._groups = None, None, []
        for term in self.terms:
            term.t = {}

    def _prepare(self, x: Tensor) -> None:
        """Bring the factors to the device and dtype of the input, once."""
        place = (x.device, x.dtype)
        if self._place == place:
            return
        # Kept tensors must be usable outside a caller's inference mode too.
        with torch.inference_mode(False), torch.no_grad():
            for term in self.terms:
                term.place(*place)
            self._groups = []
            downs: list[Tensor] = []
            at = 0
            for rows in dict.fromkeys(part.rows for part in self.parts):
                parts = [part for part in self.parts if part.rows == rows]
                ups = [part.up.to(*place) for part in parts]
                ranks = [up.shape[1] for up in ups]
                # [rank, rows]: the layout the product reads along.
                up = torch.cat(ups, dim=1).T.contiguous()
                factors = tuple(
                    (p.which, p.scale, rank) for p, rank in zip(parts, ranks, strict=True)
                )
                self._groups.append(_Group(rows, slice(at, at + sum(ranks)), up, factors))
                downs += [part.down.to(*place) for part in parts]
                at += sum(ranks)
            self._down = torch.cat(downs).T if downs else None
        self._place = place


class NormBranch:
    """Forward hook of a root-mean-square norm whose gain is changed.

    Args:
        changes: (index of the LoRA, change of the gain [channels] at strength 1).
        strengths: as in `LayerBranch`.
    """

    def __init__(self, changes: Sequence[tuple[int, Tensor]], strengths: list[float]) -> None:
        self.changes = list(changes)
        self.strengths = strengths

    def __call__(
        self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor
    ) -> Tensor | None:
        change = self._change()
        if change is None:
            return None
        x = args[0]
        normed = F.rms_norm(x.float(), x.shape[-1:], eps=1e-6)
        return output + normed.to(x.dtype) * change.to(x.device, x.dtype)

    def change_gain(self, gain: Tensor) -> Tensor:
        """The gain [channels] as it acts; see `RMSNorm.gain`."""
        change = self._change()
        return gain if change is None else gain + change.to(gain)

    def _change(self) -> Tensor | None:
        if not any(self.strengths[which] for which, _ in self.changes):
            return None
        changes = [self.strengths[which] * change.float() for which, change in self.changes]
        return torch.stack(changes).sum(0)


def _scatter(y: Tensor, rows: Sequence[tuple[int, int]], value: Tensor, strength: float) -> None:
    at = 0
    for start, stop in rows:
        y[:, start:stop].add_(value[..., at : at + stop - start], alpha=strength)
        at += stop - start
