"""Prompt weights in brackets, read as ComfyUI reads them.

`(text)` weighs 1.1 times what surrounds it, brackets in brackets multiply, and `(text:1.3)` weighs
exactly 1.3 whatever surrounds it. `\\(` and `\\)` are plain brackets. Brackets that do not pair up
are plain text, with ComfyUI's own reading of odd cases: a closing bracket too many makes every
following bracket plain until it is balanced again.
"""

from __future__ import annotations

import math
import re

EMPHASIS = 1.1
# An escaped bracket stands for these noncharacters, which no text has, while brackets are read.
ESCAPED = {"(": "\ufdd0", ")": "\ufdd1"}
# Deeper brackets are plain text: 1.1 ** 32 is 21 already.
DEEPEST = 32


def weighted_parts(text: str) -> list[tuple[str, float]]:
    """Split a prompt into pieces of one weight each, in order, brackets and weights removed.

    Args:
        text: any text.

    Returns:
        (piece, weight) pairs; an empty text gives none. Weights may be zero or negative.
    """
    hidden = re.sub(r"\\([()])", lambda match: ESCAPED[match[1]], text)
    shown = {ord(mark): bracket for bracket, mark in ESCAPED.items()}
    return [(piece.translate(shown), weight) for piece, weight in _parts(hidden, 1.0, 0)]


def _parts(text: str, weight: float, depth: int) -> list[tuple[str, float]]:
    out: list[tuple[str, float]] = []
    for piece in _split(text):
        if depth == DEEPEST or len(piece) < 2 or piece[0] != "(" or piece[-1] != ")":
            out.append((piece, weight))
            continue
        inner, colon, number = piece[1:-1].rpartition(":")
        explicit = _number(number) if colon and inner else None
        if explicit is None:
            out += _parts(piece[1:-1], weight * EMPHASIS, depth + 1)
        else:
            out += _parts(inner, explicit, depth + 1)
    return out


def _split(text: str) -> list[str]:
    """Outermost bracketed pieces and what lies between them; nothing empty."""
    cuts = [0]
    depth = 0
    for place, letter in enumerate(text):
        if letter == "(":
            if depth == 0:
                cuts.append(place)
            depth += 1
        elif letter == ")":
            depth -= 1
            if depth == 0:
                cuts.append(place + 1)
    cuts.append(len(text))
    return [text[a:b] for a, b in zip(cuts, cuts[1:], strict=False) if a < b]


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    # "nan" and "inf" are words here: as weights they would spoil every feature.
    return value if math.isfinite(value) else None
