"""Parts of a LoRA branch that are not a plain low-rank product: Kronecker, Hadamard, full, DoRA, OFT.

Each gives, for inputs x [n, columns], what its delta adds to its rows [n, rows] at strength 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .factors import rotate

# Rows of a Hadamard product made at once: a few MB.
CHUNK = 1024


class Term:
    """One change of one layer.

    Args:
        rows: row ranges of the layer, in the order of the result.
        which: index of the LoRA.
        tensors: by name, as read from the file or computed; moved by `place`.
        gain: [rows] factor on the result (DoRA on rows), or None.
        columns: [columns] factor on the input (DoRA on columns), or None.
    """

    needs_base = False

    def __init__(
        self,
        rows: Sequence[tuple[int, int]],
        which: int,
        *,
        gain: Tensor | None = None,
        columns: Tensor | None = None,
        **tensors: Tensor,
    ) -> None:
        self.rows = tuple(rows)
        self.which = which
        self._stored = dict(tensors)
        if gain is not None:
            self._stored["gain"] = gain
        if columns is not None:
            self._stored["columns"] = columns
        self.t: dict[str, Tensor] = {}

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        """Bring the tensors where the input is."""
        self.t = {name: tensor.to(device, dtype) for name, tensor in self._stored.items()}

    def __call__(self, x: Tensor, base: Tensor | None, module: nn.Module) -> Tensor:
        """x [n, columns]; base [n, all rows] the layer's output without bias, if `needs_base`."""
        if "columns" in self.t:
            x = x * self.t["columns"]
        value = self.value(x, base, module)
        return value * self.t["gain"] if "gain" in self.t else value

    def value(self, x: Tensor, base: Tensor | None, module: nn.Module) -> Tensor:
        """The change of the output, [n, rows] or what broadcasts to it."""
        raise NotImplementedError

    def _rows_of(self, base: Tensor | None) -> Tensor:
        if base is None:
            raise ValueError("this term needs the layer's own output")
        return torch.cat([base[:, start:stop] for start, stop in self.rows], dim=1)


class Full(Term):
    """A whole matrix, `delta` [rows, columns]."""

    def value(self, x: Tensor, base: Tensor | None, module: nn.Module) -> Tensor:
        return F.linear(x, self.t["delta"])


class Bias(Term):
    """A change of the bias, `delta` [rows]."""

    def value(self, x: Tensor, base: Tensor | None, module: nn.Module) -> Tensor:
        return self.t["delta"]


class Kronecker(Term):
    """scale * (first x second), never multiplied out.

    first, second: chains of matrices, applied left to right, whose product is the factor:
    one matrix [a, b], or down [rank, b] and up [a, rank].
    """

    def __init__(
        self,
        rows: Sequence[tuple[int, int]],
        which: int,
        first: Sequence[Tensor],
        second: Sequence[Tensor],
        scale: float,
        **more: Any,
    ) -> None:
        chains = {f"first{i}": m for i, m in enumerate(first)}
        chains |= {f"second{i}": m for i, m in enumerate(second)}
        super().__init__(rows, which, **more, **chains)
        self.scale = scale
        self.a, self.b = first[-1].shape[0], first[0].shape[1]
        self.c, self.d = second[-1].shape[0], second[0].shape[1]
        self.first = [f"first{i}" for i in range(len(first))]
        self.second = [f"second{i}" for i in range(len(second))]
        cost_first = sum(m.numel() for m in first)
        cost_second = sum(m.numel() for m in second)
        # Multiplications for each token: the first factor meets d (or c) vectors, and so on.
        self.second_first = (
            self.b * cost_second + self.c * cost_first <= self.d * cost_first + self.a * cost_second
        )

    def value(self, x: Tensor, base: Tensor | None, module: nn.Module) -> Tensor:
        n = len(x)
        x = x.reshape(n, self.b, self.d)
        if self.second_first:
            # [n, b, d] -> [n, b, c] -> [n, c, a] -> [n, a, c]
            x = self._chain(x, self.second)
            x = self._chain(x.transpose(1, 2), self.first).transpose(1, 2)
        else:
            # [n, d, b] -> [n, d, a] -> [n, a, d] -> [n, a, c]
            x = self._chain(x.transpose(1, 2), self.first)
            x = self._chain(x.transpose(1, 2), self.second)
        return x.reshape(n, self.a * self.c) * self.scale

    def _chain(self, x: Tensor, names: Sequence[str]) -> Tensor:
        for name in names:
            x = F.linear(x, self.t[name])
        return x


class Hadamard(Term):
    """scale * (a1 b1) * (a2 b2), made anew in chunks of rows for each call.

    For ranks whose product is too large for a low-rank form; no whole delta is ever held.
    """

    def __init__(
        self, rows: Sequence[tuple[int, int]], which: int, scale: float, **tensors: Any
    ) -> None:
        super().__init__(rows, which, **tensors)
        self.scale = scale

    def value(self, x: Tensor, base: Tensor | None, module: nn.Module) -> Tensor:
        t = self.t
        pieces = []
        for at in range(0, len(t["a1"]), CHUNK):
            delta = t["a1"][at : at + CHUNK] @ t["b1"]
            delta *= t["a2"][at : at + CHUNK] @ t["b2"]
            pieces.append(F.linear(x, delta))
        return torch.cat(pieces, dim=1) * self.scale


class RowScale(Term):
    """`delta` [rows] times the weight's rows: DoRA's change of lengths, read off the output."""

    needs_base = True

    def value(self, x: Tensor, base: Tensor | None, module: nn.Module) -> Tensor:
        return self._rows_of(base) * self.t["delta"]


class ColumnScale(Term):
    """`delta` [columns] times the weight's columns (DoRA on inputs): costs the layer once more."""

    def value(self, x: Tensor, base: Tensor | None, module: nn.Module) -> Tensor:
        # forward, not a call: a call would come back here.
        y = module.forward(x * self.t["delta"])
        bias = getattr(module, "bias", None)
        return self._rows_of(y if bias is None else y - bias.to(y.device, y.dtype))


class Rotation(Term):
    """OFT: (R - 1) W as a turn of the output in blocks; `blocks` [count, size, size]."""

    needs_base = True

    def value(self, x: Tensor, base: Tensor | None, module: nn.Module) -> Tensor:
        own = self._rows_of(base)
        turned = rotate(own, self.t["blocks"])
        if "rescale" in self.t:
            turned = turned * self.t["rescale"]
        return turned - own
