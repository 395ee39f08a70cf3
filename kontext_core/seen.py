"""Which of a reference's tokens its mask leaves to be seen."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .errors import InputError, ShapeError
from .finite import check_finite


def kept_tokens(mask: Tensor | None, rows: int, columns: int, number: int) -> Tensor | None:
    """Which tokens a mask [height, width] leaves: bool [rows * columns] on the CPU, or None for
    all. `number` is the reference's, for the message.

    Raises:
        InputError: it leaves none.
    """
    if mask is None:
        return None
    area = F.adaptive_max_pool2d(mask[None, None].float().cpu(), (rows, columns))
    kept = (area >= 0.5).flatten()
    if not kept.any():
        raise InputError(
            f"the mask of reference {number} leaves none of its {rows * columns} tokens; paint "
            "the part to keep, or take the reference away"
        )
    return None if bool(kept.all()) else kept


def check_mask(mask: Tensor | None, name: str) -> None:
    """Refuse what is no mask of a reference; `name` is the reference's, for the message.

    Raises:
        ShapeError: no tensor [height, width]; KontextError: NaN or infinite values in it.
    """
    if mask is None:
        return
    if not isinstance(mask, Tensor):
        raise ShapeError(
            f"{name}: mask is a {type(mask).__name__}; expected a tensor [height, width], as "
            "load_mask gives"
        )
    if mask.ndim != 2:
        raise ShapeError(f"{name}: mask has shape {tuple(mask.shape)}; expected [height, width]")
    check_finite(mask, f"{name}: mask", "paint it anew: 1 is seen, 0 is left out")
