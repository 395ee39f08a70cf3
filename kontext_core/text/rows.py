"""Prompts to rows of weighted tokens, with ComfyUI's padding and splitting or BFL's.

ComfyUI pads T5 to at least 256 tokens and cuts nothing; a prompt of more than 75 CLIP tokens goes
on in a second row. BFL and diffusers pad and cut T5 to 512 and CLIP to 77. There is no attention
mask, so the padding is part of what the transformer sees: the two give different pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .prompt import weighted_parts
from .vocabularies import CLIP_END, CLIP_START, T5_END, T5_PAD, clip_ids, t5_ids

# ComfyUI moves a bracketed piece shorter than this into the next row rather than split it.
SPLIT_FROM = 8


class Token(NamedTuple):
    """One token of a prompt. `part` counts the weighted pieces from 1; 0 is start, end, padding."""

    id: int
    weight: float = 1.0
    part: int = 0


def t5_row(
    text: str,
    *,
    weights: bool = True,
    min_length: int = 256,
    max_length: int | None = None,
    min_padding: int = 0,
) -> list[Token]:
    """A prompt for T5: its tokens, the end token, padding.

    Args:
        text: the prompt.
        weights: read weights in brackets; else the text is taken as it is.
        min_length: padded to this many tokens.
        max_length: cut to this many, end token included; None cuts nothing.
        min_padding: at least so many padding tokens.

    Raises:
        InputError: not a text.
    """
    row = [token for part in _parts(text, weights, t5_ids) for token in part]
    if max_length is not None:
        row = row[: max_length - 1]
    row.append(Token(T5_END))
    return row + [Token(T5_PAD)] * max(min_padding, min_length - len(row))


def empty_t5_row(length: int) -> list[Token]:
    """The empty prompt, of so many tokens."""
    return [Token(T5_END), *[Token(T5_PAD)] * (length - 1)]


def clip_rows(
    text: str, *, weights: bool = True, max_length: int = 77, cut: bool = False
) -> list[list[Token]]:
    """A prompt for CLIP: rows of exactly `max_length` tokens, from start to end token and padding.

    Args:
        text: the prompt.
        weights: as for `t5_row`.
        max_length: of a row: the model's number of positions.
        cut: only the first row, filled to its end (BFL, diffusers).

    Raises:
        InputError: not a text.
    """
    parts = _parts(text, weights, clip_ids)
    room = max_length - 2
    if cut:
        return [_clip_row([token for part in parts for token in part][:room], max_length)]
    rows: list[list[Token]] = [[]]
    for part in parts:
        left = part
        while len(left) > room - len(rows[-1]):
            fits = room - len(rows[-1]) if len(part) >= SPLIT_FROM else 0
            rows[-1] += left[:fits]
            left = left[fits:]
            rows.append([])
        rows[-1] += left
    return [_clip_row(row, max_length) for row in rows]


def _clip_row(tokens: list[Token], length: int) -> list[Token]:
    row = [Token(CLIP_START), *tokens, Token(CLIP_END)]
    return row + [Token(CLIP_END)] * (length - len(row))


def _parts(text: str, weights: bool, ids: Callable[[str], list[int]]) -> list[list[Token]]:
    """Tokens of each weighted piece; every piece is tokenized by itself, as ComfyUI does."""
    if not weights or not isinstance(text, str):
        return [[Token(number, 1.0, 1) for number in ids(text)]]
    return [
        [Token(number, weight, place) for number in ids(piece)]
        for place, (piece, weight) in enumerate(weighted_parts(text), start=1)
    ]
