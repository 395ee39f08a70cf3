"""Rotary position embedding over three axes (t, h, w), as in FLUX (arXiv 2506.15742, section 3).

Shapes: b batch, h heads, n tokens, d head size.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rope_table(ids: Tensor, axes_dim: tuple[int, ...], theta: int) -> Tensor:
    """Cosines and sines for every token.

    Args:
        ids: [b, n, 3] positions (t, h, w) in token units, float32. Half precision would round
            integers above 256, which offset references reach.
        axes_dim: even number of channels each axis gets; their sum is the head size d.
        theta: base of the frequencies.

    Returns:
        [b, 1, n, d/2] complex64: cos + i sin of each channel pair's angle.
    """
    # float64 angles match diffusers and ComfyUI to the bit in float32; MPS has no float64.
    high = torch.float32 if ids.device.type == "mps" else torch.float64
    angles = []
    for axis, dim in enumerate(axes_dim):
        exponent = torch.arange(0, dim, 2, dtype=high, device=ids.device) / dim
        omega = 1.0 / (theta**exponent)
        angles.append(ids[..., axis, None].to(high) * omega)
    angle = torch.cat(angles, dim=-1)
    return torch.complex(angle.cos().float(), angle.sin().float()).unsqueeze(1)


def apply_rope(x: Tensor, table: Tensor) -> Tensor:
    """Turn neighbouring channel pairs (0,1), (2,3), ... of `x` [b, h, n, d] by the table's angles.

    One complex product does what slices, four products and a concatenation would.
    """
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * table).flatten(-2).to(x.dtype)
