"""Layers whose weights stay as they are stored and are decoded while they are used.

`QuantLinear` and `QuantEmbedding` hold ggml blocks; `ScaledLinear` and `ScaledEmbedding` hold numbers
of another dtype than the one computed in (float8, float16, bfloat16), with an optional scale. The
compute dtype is the input's (for embeddings: a given one). Nothing here learns: gradients reach the
input only.

On the CPU a layer is decoded some rows at a time into one buffer that a thread reuses for all layers,
each followed by its part of the matrix product: no layer-sized tensor is made, and with few tokens the
decoded rows are still in the cache. Where gradients are wanted, or on other devices, the whole weight is
decoded into a tensor of its own. With `products` set, inputs and decoded rows are multiplied as 8-bit
numbers (`eight_bit`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError, ShapeError
from . import eight_bit
from .decode import dequantize, uninitialised
from .fp8 import widen
from .types import row_bytes

# Weights decoded at once: 16 MB of float32. Fewer rows than 512 slow the matrix product down.
CHUNK, MIN_ROWS = 1 << 22, 512
_own = threading.local()


class _PackedLinear(nn.Module):
    """A linear layer that decodes its weight while it multiplies.

    Attributes:
        products: None, or the 8-bit numbers to multiply with where that is worth it and nobody asks
            for gradients, see `eight_bit.PRODUCTS`.
    """

    products: str | None = None
    in_features: int
    out_features: int
    weight: nn.Parameter
    bias: nn.Parameter | None

    def decoded(self, weight: Tensor) -> Tensor:
        """What the layer multiplies by, float32 [out_features, in_features].

        Args:
            weight: the stored weight, wherever it is; it need not be the layer's own tensor.
        """
        raise NotImplementedError

    def _decode(self, weight: Tensor, start: int, end: int, out: Tensor) -> Tensor:
        """Write rows start to end of the weight (without an output scale) to `out`; gives `out`."""
        raise NotImplementedError

    def _output_scale(self, x: Tensor) -> Tensor | None:
        """What outputs are multiplied by: one number, [1, out_features], or None for nothing."""
        return None

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in_features] of the compute dtype to [..., out_features]."""
        return self.multiply(x, self.weight, self.bias)

    def multiply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """`forward` with the stored weight and bias from elsewhere, on the device of x."""
        if x.shape[-1] != self.in_features:
            raise ShapeError(f"input is {tuple(x.shape)}; expected [..., {self.in_features}]")
        bias = None if bias is None else bias.to(x.dtype)
        learning = torch.is_grad_enabled() and x.requires_grad
        if self.products and not learning and eight_bit.usable(x, self.products, self.out_features):
            return self._in_eight_bits(x, weight, bias, self.products)
        if x.device.type == "cpu" and not learning:
            return self._in_chunks(x, weight, bias)
        whole = torch.empty(self.out_features, self.in_features, dtype=x.dtype, device=x.device)
        whole = self._decode(weight, 0, self.out_features, whole)
        scale = self._output_scale(x)
        if scale is None:
            return F.linear(x, whole, bias)
        out = (F.linear(x, whole) * scale).to(x.dtype)
        return out if bias is None else out + bias

    def _in_chunks(self, x: Tensor, stored: Tensor, bias: Tensor | None) -> Tensor:
        columns, count = self.in_features, self.out_features
        tokens = x.reshape(-1, columns)
        out = x.new_empty(len(tokens), count)
        scale = self._output_scale(x)
        step = self._rows_at_once()
        buffer = _scratch(step * columns, x.dtype)
        for start in range(0, count, step):
            end = min(start + step, count)
            rows = buffer[: (end - start) * columns].view(end - start, columns)
            weight, part = self._decode(stored, start, end, rows).T, out[:, start:end]
            if scale is not None:
                torch.mm(tokens, weight, out=part)
                part.mul_(scale if scale.ndim == 0 else scale[:, start:end])
                if bias is not None:
                    part.add_(bias[start:end])
            elif bias is not None:
                torch.addmm(bias[start:end], tokens, weight, out=part)
            else:
                torch.mm(tokens, weight, out=part)
        return out.view(*x.shape[:-1], count)

    def _rows_at_once(self) -> int:
        return min(self.out_features, max(MIN_ROWS, CHUNK // self.in_features))

    def _in_eight_bits(
        self, x: Tensor, stored: Tensor, bias: Tensor | None, products: str
    ) -> Tensor:
        count = self.out_features
        tokens, scales = eight_bit.quantize_rows(x.reshape(-1, self.in_features), products)
        out = x.new_empty(len(tokens), count)
        # A GPU has no cache to keep rows in, and wants few and large products.
        step = self._rows_at_once() if x.device.type == "cpu" else count
        for start in range(0, count, step):
            end = min(start + step, count)
            weight, scale = self._eight_bit_rows(stored, start, end, products)
            some = None if bias is None else bias[start:end]
            out[:, start:end] = eight_bit.multiply(tokens, scales, weight, scale, some, x.dtype)
        return out.view(*x.shape[:-1], count)

    def _eight_bit_rows(
        self, stored: Tensor, start: int, end: int, products: str
    ) -> tuple[Tensor, Tensor]:
        """Rows start to end of the weight in 8 bits [rows, in_features], and their scales [rows, 1]."""
        size = (end - start) * self.in_features
        if stored.device.type == "cpu":
            rows = _scratch(size, torch.float32)
        else:
            rows = torch.empty(size, device=stored.device)
        decoded = self._decode(stored, start, end, rows.view(end - start, self.in_features))
        return eight_bit.quantize_rows(decoded, products)


def _scratch(count: int, dtype: torch.dtype) -> Tensor:
    """This thread's space for decoded rows; it grows to the largest chunk asked for (31 MB in FLUX.1)."""
    size = count * dtype.itemsize
    found: Tensor | None = getattr(_own, "scratch", None)
    if found is None or found.numel() < size:
        # A buffer made in inference mode could not be written to outside it.
        with torch.inference_mode(False):
            found = _own.scratch = torch.empty(size, dtype=torch.uint8)
    return found[:size].view(dtype)


class _Stored(nn.Module):
    """Moves between devices, but keeps its weight and scale in their dtype when the network is cast."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _Stored:
        kept = {"weight": self.weight.data, "scale": self.scale}
        device = fn(torch.empty(0, device=self.weight.device)).device
        self.weight = _frozen(torch.empty(0))
        self.scale = None
        super()._apply(fn, recurse)
        self.weight = _frozen(kept["weight"].to(device))
        self.scale = None if kept["scale"] is None else kept["scale"].to(device)
        return self


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def _blocks(weight: Tensor, kind: str, columns: int) -> nn.Parameter:
    expected = row_bytes(kind, columns)
    if weight.dtype != torch.uint8 or weight.ndim != 2 or weight.shape[1] != expected:
        raise ShapeError(
            f"{kind} weight is {weight.dtype} {tuple(weight.shape)}; expected uint8 rows of "
            f"{expected} bytes for {columns} columns"
        )
    return _frozen(weight)


class QuantLinear(_PackedLinear):
    """A linear layer over ggml blocks.

    Args:
        weight: uint8 [out_features, row bytes].
        kind: ggml's name of the type.
        in_features: columns the blocks stand for.
        bias: [out_features] or None.

    Raises:
        ShapeError: blocks that don't make `in_features` columns.
    """

    def __init__(
        self, weight: Tensor, kind: str, in_features: int, bias: Tensor | None = None
    ) -> None:
        super().__init__()
        self.kind = kind
        self.in_features = in_features
        self.out_features = len(weight)
        self.weight = _blocks(weight, kind, in_features)
        self.bias = None if bias is None else _frozen(bias)

    def decoded(self, weight: Tensor) -> Tensor:
        return dequantize(weight, self.kind)

    def _decode(self, weight: Tensor, start: int, end: int, out: Tensor) -> Tensor:
        return dequantize(weight[start:end], self.kind, out=out)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, kind={self.kind}, "
            f"bias={self.bias is not None}"
        )


class ScaledLinear(_Stored, _PackedLinear):
    """A linear layer over numbers kept in their stored dtype.

    Args:
        weight: [out_features, in_features], any floating dtype, or int8.
        bias: [out_features] or None.
        scale: float32, one number or one for each row ([rows] or [rows, 1]); the layer multiplies
            by weight * scale. None means 1.

    Raises:
        ShapeError: a scale of another shape.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None = None, scale: Tensor | None = None
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight = _frozen(weight)
        self.bias = None if bias is None else _frozen(bias)
        if scale is not None and scale.numel() not in (1, self.out_features):
            raise ShapeError(
                f"scale has shape {tuple(scale.shape)}; expected one number or "
                f"{self.out_features}, one for each row"
            )
        self.scale: Tensor | None
        self.register_buffer("scale", None if scale is None else scale.float().reshape(-1, 1))

    def decoded(self, weight: Tensor) -> Tensor:
        return _scaled(weight, self.scale)

    def _decode(self, weight: Tensor, start: int, end: int, out: Tensor) -> Tensor:
        widen(weight[start:end], out)
        if self.scale is not None and out.dtype != torch.bfloat16:
            # Sums of unscaled products could leave float16's range. In float32 this gives what the
            # weights stand for, to the bit.
            scale = self.scale.to(out.device)
            out.mul_(scale if scale.numel() == 1 else scale[start:end])
        return out

    def _output_scale(self, x: Tensor) -> Tensor | None:
        # bfloat16 would round a scaled weight once more, so that the sum is scaled in float32.
        if self.scale is None or x.dtype != torch.bfloat16:
            return None
        # A host may bring the weight to the device for this product only, and leave the rest.
        scale = self.scale.to(x.device)
        return scale.view(()) if scale.numel() == 1 else scale.T

    def _eight_bit_rows(
        self, stored: Tensor, start: int, end: int, products: str
    ) -> tuple[Tensor, Tensor]:
        if stored.dtype != eight_bit.STORED[products]:
            return super()._eight_bit_rows(stored, start, end, products)
        scale = torch.ones(1, 1) if self.scale is None else self.scale
        scale = scale.to(stored.device).expand(self.out_features if scale.numel() == 1 else -1, 1)
        return stored[start:end], scale[start:end].contiguous()

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"stored={self.weight.dtype}, bias={self.bias is not None}, "
            f"scaled={self.scale is not None}"
        )


class QuantEmbedding(nn.Module):
    """A table of vectors as ggml blocks; only the rows asked for are decoded.

    Args:
        weight: uint8 [num_embeddings, row bytes].
        kind: ggml's name of the type.
        embedding_dim: columns the blocks stand for.
        dtype: of the vectors returned.
    """

    def __init__(
        self, weight: Tensor, kind: str, embedding_dim: int, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.kind = kind
        self.num_embeddings = len(weight)
        self.embedding_dim = embedding_dim
        self.dtype = dtype
        self.weight = _blocks(weight, kind, embedding_dim)

    def forward(self, ids: Tensor) -> Tensor:
        """Integer ids [...] to vectors [..., embedding_dim]."""
        rows = F.embedding(ids, self.weight)
        return dequantize(rows, self.kind, dtype=self.dtype)


class ScaledEmbedding(_Stored):
    """A table of vectors kept in their stored dtype; only the rows asked for are cast.

    Args:
        weight: [num_embeddings, embedding_dim], any floating dtype.
        scale: float32, one number or one for each row; None means 1.
        dtype: of the vectors returned.
    """

    def __init__(
        self,
        weight: Tensor,
        scale: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = weight.shape
        self.dtype = dtype
        self.weight = _frozen(weight)
        if scale is not None and scale.numel() not in (1, self.num_embeddings):
            raise ShapeError(
                f"scale has shape {tuple(scale.shape)}; expected one number or "
                f"{self.num_embeddings}, one for each row"
            )
        self.scale: Tensor | None
        self.register_buffer("scale", None if scale is None else scale.float().reshape(-1, 1))

    def forward(self, ids: Tensor) -> Tensor:
        """Integer ids [...] to vectors [..., embedding_dim]."""
        # Through bytes: not every backend can gather float8.
        rows = F.embedding(ids, self.weight.view(torch.uint8)).view(self.weight.dtype)
        if self.scale is None:
            return rows.to(self.dtype)
        scale = self.scale if self.scale.numel() == 1 else F.embedding(ids, self.scale)
        return (rows.float() * scale).to(self.dtype)


def plain_weight(module: nn.Module) -> Tensor:
    """What a linear layer multiplies by, as float32 [out_features, in_features].

    A float32 `nn.Linear` gives its own parameter, not a copy: don't write to the result.

    Raises:
        InputError: not a linear layer.
    """
    with torch.no_grad():
        if isinstance(module, _PackedLinear):
            return module.decoded(module.weight)
        if isinstance(module, nn.Linear):
            return module.weight.detach().float()
    raise InputError(f"{type(module).__name__} is not a linear layer with a weight")


def _scaled(weight: Tensor, scale: Tensor | None) -> Tensor:
    numbers = widen(weight, uninitialised(weight.shape, torch.float32, weight.device))
    return numbers if scale is None else numbers.mul_(scale.to(numbers.device))
