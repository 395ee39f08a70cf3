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


@dataclass(frozen=True, eq=False)
class Tile:
    """What a contact sheet shows of one case.

    Attributes:
        words: above the pictures.
        pictures: (name, [3, h, w] in 0..1) from left to right.
        said: below them.
        good: whether `said` is good news; None for neither.
        framed: name of the picture that is framed in the colour of `said`; "" for none.
    """

    words: str
    pictures: Sequence[tuple[str, Tensor]]
    said: str = ""
    good: bool | None = None
    framed: str = ""

    @property
    def colour(self) -> str:
        return _QUIET if self.good is None else _RIGHT if self.good else _WRONG


def tile_of(shown: Shown) -> Tile:
    """References, result and right answer."""
    named = [(f"image {i + 1}", r) for i, r in enumerate(shown.case.references)]
    named += [("result", shown.picture), ("right answer", shown.case.target)]
    good = shown.score.verdict.right
    return Tile(shown.case.sample.prompt, named, verdict_text(shown), good, "result")


def contact_sheet(
    shown: Sequence[Shown], *, columns: int = 2, side: int = 112, title: str = ""
) -> Image.Image:
    """Cases in their order, row by row, each picture about `side` pixels high.

    Failures are framed and named; nothing is left out.
    """
    return tile_sheet([tile_of(one) for one in shown], columns=columns, side=side, title=title)


def tile_sheet(
    tiles: Sequence[Tile], *, columns: int = 2, side: int = 112, title: str = ""
) -> Image.Image:
    """Tiles in their order, row by row, each picture `side` pixels high."""
    from PIL import Image, ImageDraw

    gap, line = 8, 16
    letters, small, large = font(13), font(11), font(17)
    rows_wide = [
        sum(_wide(one, side) + gap for _, one in tile.pictures) for tile in tiles
    ]  # fmt: skip
    block_wide = max(300, *rows_wide, 0) + 2 * gap
    wrapped = [_wrap(tile.words, letters, block_wide - 2 * gap) for tile in tiles]
    verdicts = [_wrap(tile.said, small, block_wide - 2 * gap) for tile in tiles]
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
    for i, tile in enumerate(tiles):
        x = (i % columns) * block_wide + gap
        y = head + sum(rows[: i // columns]) + gap
        for words in wrapped[i]:
            pen.text((x, y), words, fill=_INK, font=letters)
            y += line
        _pictures(sheet, pen, tile, x, y, side, gap, small)
        y += side + line + 2
        for words in verdicts[i]:
            pen.text((x, y), words, fill=tile.colour, font=small)
            y += line
    return sheet


def _wide(tensor: Tensor, side: int) -> int:
    return max(1, round(side * tensor.shape[2] / tensor.shape[1]))


def _pictures(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, tile: Tile, x: int, y: int, side: int, gap: int,
    letters: object,
) -> None:  # fmt: skip
    from PIL import Image

    for name, tensor in tile.pictures:
        wide = _wide(tensor, side)
        pen.text((x, y), name, fill=_QUIET, font=letters)  # type: ignore[arg-type]
        small = picture(tensor).resize((wide, side), Image.Resampling.BICUBIC)
        sheet.paste(small, (x, y + 15))
        if name == tile.framed:
            pen.rectangle(
                (x - 2, y + 13, x + wide + 1, y + 16 + side), outline=tile.colour, width=2
            )
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
