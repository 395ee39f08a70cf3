"""Arguments from outside, their types checked like their ranges."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Sequence
from typing import Any

from .errors import InputError


def check_whole(value: Any, name: str, low: int, high: int, advice: str = "") -> int:
    """`value` as an int, from `low` to `high`; NumPy's whole numbers count, True does not.

    Raises:
        InputError: it is something else; `advice` ends the message.
    """
    if not isinstance(value, bool) and hasattr(type(value), "__index__"):
        whole = operator.index(value)
        if low <= whole <= high:
            return whole
    shown = "2^64 - 1" if high == 2**64 - 1 else str(high)
    raise InputError(
        f"{name} is {value!r}; expected a whole number from {low} to {shown}{_ending(advice)}"
    )


def is_number(value: Any) -> bool:
    """Whether it is a finite number; True is none."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return real and math.isfinite(float(value))


def check_number(value: Any, name: str, low: float, high: float, advice: str = "") -> float:
    """`value` as a float, from `low` to `high`.

    Raises:
        InputError: it is something else; `advice` ends the message.
    """
    if is_number(value) and low <= float(value) <= high:
        return float(value)
    raise InputError(f"{name} is {value!r}; expected {low:g} to {high:g}{_ending(advice)}")


def check_choice(value: Any, name: str, choices: Sequence[str], advice: str = "") -> str:
    """`value` if it is one of `choices`.

    Raises:
        InputError: it is something else; `advice` ends the message.
    """
    if isinstance(value, str) and value in choices:
        return value
    raise InputError(
        f"unknown {name} {value!r}; expected one of {', '.join(choices)}{_ending(advice)}"
    )


def _ending(advice: str) -> str:
    return f", {advice}" if advice else ""
