"""What the host's patches (LoRA, merge, hook) do to a packed weight: a branch where that is exact.

A host's patch is (strength, change, strength of the weight, offset, function). A plain low-rank change
becomes a product beside the layer, so that the packed weight stays as it is; any other is the host's
own formula, on the decoded weight, each time the layer is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...kontext_core.lora.branch import LayerBranch, LowRank


@dataclass(frozen=True, eq=False)
class Change:
    """One set of patches of one layer.

    Attributes:
        weight: float32 [out, in], which it may write to, to the changed weight.
        branch: the same beside the layer, or None where there is no such form.
    """

    weight: Callable[[Tensor], Tensor]
    branch: LayerBranch | None


def change_of(patches: Sequence[Any], key: str, rows: int) -> Change:
    """The change that a host's patches of one weight make.

    Args:
        patches: as the host's ModelPatcher keeps them.
        key: of the weight, for the host.
        rows: of the weight.
    """

    def weight(whole: Tensor) -> Tensor:
        import comfy.lora

        # Some patches are a difference to what the weight was.
        originals = {key: [(whole.clone(), None)]} if any(map(_is_model, patches)) else None
        return comfy.lora.calculate_weight(
            list(patches), whole, key, torch.float32, original_weights=originals
        )

    parts = [_low_rank(patch, rows) for patch in patches]
    found = [part for part in parts if part is not None]
    branch = LayerBranch(found, [], [1.0]) if len(found) == len(parts) else None
    return Change(weight, branch)


def _is_model(patch: Any) -> bool:
    """Whether a patch is a whole other weight, of which the host takes the difference."""
    return isinstance(patch[1], tuple) and len(patch[1]) == 2 and patch[1][0] == "model_as_lora"


def _low_rank(patch: Any, rows: int) -> LowRank | None:
    """A patch as up @ down on rows of the layer, or None where it is something else."""
    strength, change, strength_model, offset, function = patch
    if strength_model != 1.0 or function is not None or getattr(change, "name", None) != "lora":
        return None
    up, down, alpha, *others = change.weights
    if any(other is not None for other in others):
        return None
    start, count = 0, rows
    if offset is not None:
        along, start, count = offset
        if along != 0:
            return None
    up, down = up.flatten(1), down.flatten(1)
    if len(up) != count or up.shape[1] != len(down):
        return None
    scale = float(strength) * (1.0 if alpha is None else float(alpha) / len(down))
    return LowRank((start, start + count), up, down, scale, 0)
