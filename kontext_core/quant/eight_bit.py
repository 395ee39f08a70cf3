"""Products of two 8-bit matrices, each row with a scale of its own, in place of bfloat16 ones.

Inputs are rounded row by row (a row is a token), weights row by row (a row is an output), so that the
scales leave the sum: y[i, j] = a[i] * b[j] * sum over k of x8[i, k] * w8[j, k]. int8 with the largest
magnitude at 127 is LLM.int8()'s vector-wise product (arXiv 2208.07339, section 2.2) without its second
matrix for outliers; float8 e4m3 with the largest at 448 is what FP8 training calls row-wise scaling.
Shapes: m tokens, k inputs, n outputs.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..errors import InputError

PRODUCTS = ("int8", "fp8")
LARGEST = {"int8": 127.0, "fp8": torch.finfo(torch.float8_e4m3fn).max}
STORED = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
# With fewer tokens reading the weight takes longer than multiplying, and CUDA's int8 product refuses.
ROWS = 32
# Numbers rounded at once on a CPU: large temporaries cost more in new pages than in arithmetic.
CHUNK = 1 << 18
# What CUDA's products ask of both sides of a weight.
MULTIPLE = {"int8": 8, "fp8": 16}


def best_products(device: torch.device | str) -> str | None:
    """What a device multiplies faster than 16-bit numbers: "fp8", "int8", or None for neither."""
    device = torch.device(device)
    if device.type == "cuda":
        return "fp8" if available("fp8", device) else "int8"
    known = getattr(torch.cpu, "_is_vnni_supported", None)
    return "int8" if device.type == "cpu" and known is not None and known() else None


def available(products: str, device: torch.device | str) -> bool:
    """Whether a device has these products. On a CPU int8 always works, fast where it has VNNI."""
    device = torch.device(device)
    if products == "int8":
        return device.type in ("cpu", "cuda")
    return device.type == "cuda" and _has_fp8(device.index or 0)


@lru_cache
def _has_fp8(index: int) -> bool:
    """Whether a GPU has float8 products (compute capability 8.9 and later) and PyTorch row scales."""
    if torch.cuda.get_device_capability(index) < (8, 9):
        return False
    with torch.inference_mode(False), torch.no_grad():
        ones = torch.ones(32, 32, device=f"cuda:{index}")
        try:
            multiply(*quantize_rows(ones, "fp8"), *quantize_rows(ones, "fp8"), None, ones.dtype)
        except RuntimeError:
            # Older builds of PyTorch have float8 products with one scale only.
            return False
    return True


def check_products(products: str, device: torch.device | str) -> None:
    """Refuse what a device does not have.

    Raises:
        InputError: unknown products, or not on this device.
    """
    if products not in PRODUCTS:
        raise InputError(f"products are {products!r}; expected one of {', '.join(PRODUCTS)}")
    if not available(products, device):
        raise InputError(
            f"{device} has no {products} products; take int8, auto, or off. fp8 needs an NVIDIA GPU of "
            "compute capability 8.9 or later (RTX 40, H100)"
        )


def usable(x: Tensor, products: str, outputs: int) -> bool:
    """Whether x [..., k] is worth an 8-bit product with a weight of so many outputs, and allowed."""
    if x.numel() < ROWS * x.shape[-1] or not available(products, x.device):
        return False
    step = MULTIPLE[products] if x.device.type == "cuda" else 1
    return x.shape[-1] % step == outputs % step == 0


def quantize_rows(x: Tensor, products: str) -> tuple[Tensor, Tensor]:
    """x [m, k] as 8-bit numbers [m, k] and float32 scales [m, 1], with x = numbers * scales nearly.

    int8 is off by half a scale at most, a row's largest magnitude over 254.
    """
    if x.device.type != "cpu" or x.numel() <= CHUNK:
        return _quantize(x, products)
    rows = max(1, CHUNK // x.shape[-1])
    numbers, scales = (
        x.new_empty(x.shape, dtype=STORED[products]),
        x.new_empty(len(x), 1, dtype=torch.float32),
    )
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        numbers[part], scales[part] = _quantize(x[part], products)
    return numbers, scales


def _quantize(x: Tensor, products: str) -> tuple[Tensor, Tensor]:
    largest = LARGEST[products]
    # Mixed types in one operation are several times slower on a CPU than widening first.
    x = x.float()
    # A row of zeros stays one.
    scale = x.abs().amax(-1, keepdim=True).div_(largest).clamp_(min=torch.finfo(torch.float32).tiny)
    scaled = x / scale
    if products == "int8":
        scaled = scaled.round_()
    # Division may round one number of a row past the end of the range.
    return scaled.clamp_(-largest, largest).to(STORED[products]), scale


def multiply(
    x: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """(x * x_scale) @ (weight * scale).T + bias by the device's 8-bit products.

    Args:
        x: [m, k], x_scale: float32 [m, 1], from `quantize_rows`.
        weight: [n, k], of the same 8-bit type, scale: float32 [n, 1].
        bias: [n] or None.
        dtype: of the result. Sums are exact in int8; both kinds are scaled in float32.

    Returns:
        [m, n].
    """
    if x.dtype == torch.int8:
        out = torch.ops.aten._int_mm(x, weight.t()).float().mul_(x_scale).mul_(scale.t())
    else:
        # Row scales are only there with results of bfloat16.
        out = torch.ops.aten._scaled_mm(
            x, weight.t(), scale_a=x_scale, scale_b=scale.t(), out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )  # fmt: skip
    if bias is not None:
        out = out + bias
    return out.to(dtype)


def multiply_plain(
    x: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """`multiply` by wider numbers, on any device: its plain twin."""
    out = (x.double() @ weight.double().t()) * x_scale * scale.t()
    return (out if bias is None else out + bias).to(dtype)
