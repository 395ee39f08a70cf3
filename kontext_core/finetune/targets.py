"""Which layers of a transformer a LoRA is trained on."""

from __future__ import annotations

import fnmatch

from torch import nn

from ..errors import InputError
from ..models.flux import Flux

_ATTENTION = (
    "double_blocks.*.*_attn.qkv",
    "double_blocks.*.*_attn.proj",
    # In the single blocks, attention and MLP share their two layers.
    "single_blocks.*.linear1",
    "single_blocks.*.linear2",
)
_BLOCKS = (*_ATTENTION, "double_blocks.*.*_mlp.0", "double_blocks.*.*_mlp.2")
TARGETS: dict[str, tuple[str, ...]] = {
    "attention": _ATTENTION,
    "blocks": _BLOCKS,
    "blocks and modulation": (*_BLOCKS, "*_mod.lin", "*.modulation.lin"),
}


def target_layers(network: Flux, targets: str) -> dict[str, nn.Module]:
    """The layers to train on, by name, in the network's order.

    Args:
        targets: a name of `TARGETS`, or patterns with `*` and `?` of the published names, separated by
            commas: `double_blocks.*.img_attn.qkv, single_blocks.3*.linear2`.

    Raises:
        InputError: a pattern that no linear layer has.
    """
    linear = {
        name: module
        for name, module in network.named_modules()
        if hasattr(module, "in_features") and hasattr(module, "out_features")
    }
    patterns = TARGETS.get(targets) or [part.strip() for part in targets.split(",") if part.strip()]
    chosen: set[str] = set()
    for pattern in patterns:
        found = fnmatch.filter(linear, pattern)
        # A name's patterns are for all depths: a model without double blocks has none of theirs.
        if not found and targets not in TARGETS:
            raise InputError(
                f"targets has {pattern!r}, which is no linear layer of this model; expected one of "
                f"{', '.join(TARGETS)}, or patterns such as double_blocks.*.img_attn.qkv"
            )
        chosen.update(found)
    if not chosen:
        raise InputError(
            f"targets is {targets!r}, which names no layer of this model; expected one of "
            f"{', '.join(TARGETS)}, or patterns such as double_blocks.*.img_attn.qkv"
        )
    return {name: module for name, module in linear.items() if name in chosen}
