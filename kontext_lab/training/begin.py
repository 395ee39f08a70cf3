"""The transformer's starting weights: no opinion in the modulation, some heads that look at places."""

from __future__ import annotations

import torch

from kontext_core.config import FluxParams
from kontext_core.models.flux import Flux


def build_flux(width: int = 128, heads: int = 4, depth: int = 2, singles: int = 4) -> Flux:
    """The transformer with its starting weights."""
    flux = Flux(
        FluxParams(
            vec_in_dim=128, context_in_dim=128, hidden_size=width, num_heads=heads, depth=depth,
            depth_single_blocks=singles,
            axes_dim=(width // heads - 24, 12, 12) if width // heads <= 48 else (16, 24, 24),
        )
    )  # fmt: skip
    for name, parameter in flux.named_parameters():
        # Modulation starts without an opinion: no shift, no scale, half-open gates.
        if "mod" in name and name.endswith("lin.weight"):
            torch.nn.init.zeros_(parameter)
        elif "mod" in name and name.endswith("lin.bias"):
            parts = parameter.data.view(-1, 3, width)
            parts.zero_()
            parts[:, 2] = 0.5
        elif name.startswith("final_layer"):
            torch.nn.init.zeros_(parameter)
    prefer_places(flux)
    return flux


@torch.no_grad()
def prefer_places(flux: Flux, strength: float = 1.5) -> None:
    """Some heads start out looking at the same place of the target, of reference 1 and of 2.

    Copying what an edit leaves alone needs exactly that, and rotary positions make it slow to
    find: neighbours are one radian apart in the fastest pair only. Query and key biases in the
    fastest pair of each axis give a logit proportional to cos(dt - d) + cos(dh) + cos(dw), with
    d the index the head looks at. Training is free to move away from it.
    """
    p = flux.params
    size = p.hidden_size // p.num_heads
    starts = [sum(p.axes_dim[:axis]) for axis in range(3)]
    named = dict(flux.named_parameters())
    biases = [
        p for name, p in named.items() if name.endswith(("img_attn.qkv.bias", "linear1.bias"))
    ]
    for bias in biases:
        for index in range(3):  # head 0 and those after 3 start without a preference
            head = (index + 1) * size
            for axis, start in enumerate(starts):
                turn = torch.tensor(float(-index if axis == 0 else 0))
                bias[head + start] = strength
                bias[p.hidden_size + head + start] = strength * turn.cos()
                bias[p.hidden_size + head + start + 1] = strength * turn.sin()
