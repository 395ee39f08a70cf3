"""The device named on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    import torch


def usable_device(name: str) -> torch.device:
    """The device, once something was put on it.

    Raises:
        InputError: no such device here.
    """
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} can't be used here ({error})") from error
    return device
