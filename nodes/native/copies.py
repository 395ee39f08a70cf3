"""Copies of a MODEL or VAE for several devices, as ComfyUI makes them since 0.33: by loading once more.

CLIP is left out on purpose: ComfyUI's node for its device goes on asking the first copy. What can't be
loaded again that node passes through unchanged, and says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...kontext_core.errors import InputError
from ..files import stamp


def tell_how(
    patcher: Any, load: Callable[..., Any], role: str, state: str, choice: tuple[str, ...]
) -> None:
    """Tell ComfyUI how to load the same once more; one that does not ask is told nothing.

    Args:
        patcher: of the MODEL or VAE; None or anything else outside of ComfyUI.
        load: what made it of `choice`, the name of its file first.
        role: of that file, as in `files`.
        state: `stamp` of the file when it was loaded.
    """
    if hasattr(patcher, "cached_patcher_init"):
        patcher.cached_patcher_init = (_once_more, (load, role, state, choice))


def _once_more(
    load: Callable[..., Any],
    role: str,
    state: str,
    choice: tuple[str, ...],
    disable_dynamic: bool = False,
) -> Any:
    """The patcher of another MODEL or VAE with the same weights, as ComfyUI calls it.

    `disable_dynamic` is ComfyUI's; ours are never dynamic.

    Raises:
        InputError: the file has changed since, and devices would work with different weights.
    """
    if stamp(role, choice[0]) != state:
        raise InputError(
            f"{choice[0]} has changed or gone since it was loaded, so no copy for another device can "
            "be made of it. Run the workflow again, so that its loader reads the new file"
        )
    made = load(*choice)
    return getattr(made, "patcher", made)
