"""Attention that goes on in smaller parts when the device runs out of memory, and says so once."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

# Parts are halved down to this many queries; with fewer it is the keys that don't fit.
FEWEST = 64
_said = False


def attention_in_parts(
    attention: Callable[[Tensor, Tensor | None], Tensor], q: Tensor, mask: Tensor | None
) -> Tensor:
    """Attention of all queries at once, or where memory does not suffice of some at a time: every
    query is independent of the others, so the numbers are the same.

    Args:
        attention: of some queries [b, h, n, d] and their rows of the mask, [b, n, h * d].
        q: all queries.
        mask: None, or [.., n or 1, keys].

    Raises:
        the host's own error when even a few queries need more than there is.
    """
    count = q.shape[2]
    step = count
    while True:
        try:
            if step >= count:
                return attention(q, mask)
            parts = [
                attention(q[:, :, at : at + step], _rows(mask, at, at + step, count))
                for at in range(0, count, step)
            ]
            return torch.cat(parts, dim=1)
        except RuntimeError as error:
            # What every torch and host derives it from; an interrupt is none.
            if not _out_of_memory(error) or step <= FEWEST:
                raise
        # Outside the handler, whose traceback keeps the tensors of the failed try alive.
        step = max(FEWEST, -(-step // 2))
        _free(step)


def _rows(mask: Tensor | None, start: int, stop: int, count: int) -> Tensor | None:
    if mask is None or mask.shape[-2] != count or count == 1:
        return mask
    return mask[..., start:stop, :]


def _out_of_memory(error: RuntimeError) -> bool:
    import comfy.model_management as management

    # Later hosts know more kinds of it.
    found = getattr(management, "is_oom", None)
    return isinstance(error, management.OOM_EXCEPTION) if found is None else bool(found(error))


def _free(step: int) -> None:
    global _said
    import comfy.model_management as management

    management.soft_empty_cache()
    if not _said:
        _said = True
        logger.warning(
            "out of memory in attention: going on with %d queries at a time, which is slower. A "
            "smaller picture, fewer or smaller references, or starting ComfyUI with --lowvram "
            "leave more room",
            step,
        )
