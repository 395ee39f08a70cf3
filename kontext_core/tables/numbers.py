"""Whole numbers as spreadsheets export them: `5.0` for 5, and `1.23457E+14` for one whose digits are lost."""

from __future__ import annotations

import math
import re

from ..errors import InputError

_WHOLE = re.compile(r"([+-]?[0-9]{1,40})")
# With up to two zeros: three may be a group of thousands.
_POINT = re.compile(r"([+-]?[0-9]{1,40})[.,]0{1,2}")
_ROUNDED = re.compile(r"[+-]?[0-9]+([.,][0-9]*)?[eE]\+?[0-9]+")
# From here on a float, as JSON readers and spreadsheets keep numbers, skips some.
EXACT = 1 << 53


def whole_number(value: object, column: str) -> int | None:
    """The whole number that a cell holds or spells; None where it is something else.

    Raises:
        InputError: a number that was rounded when the table was written, so that it can't be known.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        if value.is_integer() and abs(value) < EXACT:
            return int(value)
        if not abs(value) >= EXACT or math.isinf(value):
            return None
    text = str(value).strip()
    rounded = isinstance(value, float) or _ROUNDED.fullmatch(text)
    if rounded:
        raise InputError(
            f"{column} is {text[:80]!r}: whatever wrote the table has rounded it, and its last digits "
            "are lost. In the spreadsheet format the column as text or as a number without decimals, "
            "enter the number again and export anew"
        )
    if match := _WHOLE.fullmatch(text) or _POINT.fullmatch(text):
        return int(match[1])
    return None
