"""NaN and infinite values: refused where they come in, and traced back where they came up."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .errors import InputError, KontextError


def check_finite(value: Tensor, name: str, advice: str) -> None:
    """Refuse a tensor with NaN or infinite values.

    Raises:
        InputError: with `advice`, which says what to do next.
    """
    if not bool(torch.isfinite(value).all()):
        raise InputError(f"{name} contains NaN or infinite values; {advice}")


def not_finite(model: nn.Module, dtype: torch.dtype, when: str = "") -> KontextError:
    """The error of a run in which such values came up, with the first cause that can be found: the
    weights, else numbers too large for the dtype. LoRAs were looked at when they were read.

    Args:
        model: a `Flux`, or any network with its layers, on which LoRAs may be set.
        dtype: computed in.
        when: they came up, such as "at step 3 of 28".
    """
    told = f"NaN or infinite values came up {when}".rstrip()
    where = next(_bad_weights(model), None)
    if where is not None:
        return KontextError(
            f"{told}: {where}. The checkpoint is damaged: download or convert it again"
        )
    more = ""
    if any(strength for _, strength in _loras(model)):
        more = "; or lower the strength of the LoRAs"
    return KontextError(
        f"{told}: the model gave NaN or infinite values in {dtype}, though its weights and LoRAs "
        f"are sound; compute in bfloat16 or float32{more}"
    )


def _loras(model: nn.Module) -> list:
    # LoRAs are a package that most runs never need.
    from .lora.apply import loras_on

    return loras_on(model)


def _bad_weights(model: nn.Module) -> Iterator[str]:
    from .lora.build import weight_of

    for name, module in model.named_modules():
        found: dict[str, Tensor] = dict(module.named_parameters(recurse=False))
        if hasattr(module, "in_features"):
            try:
                found["weight"] = weight_of(module)
            except InputError:
                # A host's layer that does not tell its weight speaks neither for nor against it.
                continue
        for kind, value in found.items():
            if isinstance(value, Tensor) and value.is_floating_point():
                if not bool(torch.isfinite(value.float()).all()):
                    yield f"the model's own {name}.{kind} has such values"
