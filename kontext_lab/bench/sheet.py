"""Contact sheets: references, instruction, result and right answer side by side, as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

from torch import Tensor

from ..world.tasks import TASKS
from .chart import font

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

    from .held_out import Case, Score

_PAPER, _INK, _QUIET, _RIGHT, _WRONG = "#ffffff", "#24292f", "#6b7280", "#12803c", "#c02b3c"


@dataclass(frozen=True, eq=False)
class Shown:
    """A case with the answer that it got, [3, h, w] in 0..1."""

    case: Case
    picture: Tensor
    score: Score


def picture(tensor: Tensor) -> Image.Image:
    """[3, h, w] in 0..1 as a Pillow picture, rounded to 8 bits."""
    from PIL import Image

    pixels = (tensor.movedim(0, -1).clamp(0, 1) * 255).round().byte().contiguous()
    return Image.fromarray(pixels.numpy())


def verdict_text(shown: Shown) -> str:
    """ "right", or "wrong: " and the attributes."""
    failed = [name.replace("_", " ") for name in shown.score.verdict.failed]
    return "right" if shown.score.verdict.right else "wrong: " + ", ".join(failed)


def contact_sheet(
    shown: Sequence[Shown], *, columns: int = 2, side: int = 112, title: str = ""
) -> Image.Image:
    """Cases in their order, row by row, each picture about `side` pixels high.

    Failures are framed and named; nothing is left out.
    """
    from PIL import Image, ImageDraw

    gap, line = 8, 16
    letters, small, large = font(13), font(11), font(17)
    most = max((len(one.case.references) for one in shown), default=0)
    widest = max((one.picture.shape[2] / one.picture.shape[1] for one in shown), default=1)
    pictures_wide = (most + 2) * (round(side * widest) + gap)
    block_wide = max(pictures_wide, 300) + 2 * gap
    wrapped = [_wrap(one.case.sample.prompt, letters, block_wide - 2 * gap) for one in shown]
    verdicts = [_wrap(verdict_text(one), small, block_wide - 2 * gap) for one in shown]
    heights = [
        line * (1 + len(words) + len(said)) + side + 2 * gap
        for words, said in zip(wrapped, verdicts, strict=True)
    ]
    rows = [max(heights[i : i + columns]) for i in range(0, len(heights), columns)]
    head = 34 if title else 0
    sheet = Image.new("RGB", (columns * block_wide, head + sum(rows) + gap), _PAPER)
    pen = ImageDraw.Draw(sheet)
    if title:
        pen.text((gap, 8), title, fill=_INK, font=large)
    for i, one in enumerate(shown):
        x = (i % columns) * block_wide + gap
        y = head + sum(rows[: i // columns]) + gap
        for words in wrapped[i]:
            pen.text((x, y), words, fill=_INK, font=letters)
            y += line
        _pictures(sheet, pen, one, x, y, side, gap, small)
        y += side + line + 2
        colour = _RIGHT if one.score.verdict.right else _WRONG
        for words in verdicts[i]:
            pen.text((x, y), words, fill=colour, font=small)
            y += line
    return sheet


def _pictures(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, one: Shown, x: int, y: int, side: int, gap: int,
    letters: object,
) -> None:  # fmt: skip
    from PIL import Image

    named = [(f"image {i + 1}", r) for i, r in enumerate(one.case.references)]
    named += [("result", one.picture), ("right answer", one.case.target)]
    for name, tensor in named:
        small = picture(tensor)
        wide = round(side * small.width / small.height)
        pen.text((x, y), name, fill=_QUIET, font=letters)  # type: ignore[arg-type]
        sheet.paste(small.resize((wide, side), Image.Resampling.BICUBIC), (x, y + 15))
        if name == "result":
            colour = _RIGHT if one.score.verdict.right else _WRONG
            pen.rectangle((x - 2, y + 13, x + wide + 1, y + 16 + side), outline=colour, width=2)
        x += wide + gap


def _wrap(text: str, letters: object, width: int) -> list[str]:
    """The text in lines of at most `width` pixels; a longer word gets a line of its own."""
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and letters.getlength(longer) > width:  # type: ignore[attr-defined]
            lines.append(line)
            longer = word
        line = longer
    return [*lines, line]


def of_category(shown: Mapping[str, Sequence[Shown]], category: str, count: int = 8) -> list[Shown]:
    """The first `count` cases of a category: the first of each of its tasks, the second of each, ..."""
    lists = [cases for task, cases in shown.items() if TASKS[task].category == category]
    turns = zip_longest(*lists)
    return [one for turn in turns for one in turn if one is not None][:count]


def strip(pictures: Sequence[Tensor], side: int = 96, gap: int = 4) -> Image.Image:
    """Pictures [3, h, w] in one row."""
    from PIL import Image

    small = [picture(one) for one in pictures]
    scaled = [
        one.resize((round(side * one.width / one.height), side), Image.Resampling.BICUBIC)
        for one in small
    ]
    row = Image.new("RGB", (sum(one.width + gap for one in scaled) - gap, side), _PAPER)
    x = 0
    for one in scaled:
        row.paste(one, (x, 0))
        x += one.width + gap
    return row
