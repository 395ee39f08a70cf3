"""Line charts without a plotting library: laid out once, drawn as SVG or, with Pillow, as PNG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

from kontext_core.errors import InputError

if TYPE_CHECKING:
    from PIL import Image, ImageFont

__all__ = ["PALETTE", "Chart", "Line", "font"]

# Middle tones: legible on white and on near-black.
PALETTE = (
    "#3b82f6", "#f08c00", "#12a150", "#e0457b", "#8b5cf6", "#0e9aa7", "#a16207", "#7c8594", "#d6453d",
)  # fmt: skip
_LEFT, _RIGHT, _BOTTOM = 54, 14, 40
_INK, _GRID, _PAPER = "#24292f", "#d9dde2", "#ffffff"


@dataclass(frozen=True)
class Line:
    """One curve: points (x, y), and (low, high) at every point for whiskers, if given."""

    name: str
    points: Sequence[tuple[float, float]]
    spread: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Chart:
    """Curves over a common axis.

    Attributes:
        x_ticks: where the x axis is labelled; even steps by themselves if empty.
        x_log: whether the x axis is logarithmic.
        y_range: lowest and highest y; from the points if None.
        percent: y values are shares, shown in per cent.
        dots: mark every point (for few points).
    """

    lines: Sequence[Line]
    x_label: str
    y_label: str
    x_ticks: Sequence[float] = ()
    x_log: bool = False
    y_range: tuple[float, float] | None = None
    percent: bool = False
    dots: bool = True
    size: tuple[int, int] = (550, 300)
    _shapes: list[tuple] = field(default_factory=list, init=False, repr=False, compare=False)

    def svg(self, *, alone: bool = False) -> str:
        """The chart as SVG text in the colour of the text around it.

        Args:
            alone: for a file of its own: brings its colours along, light or dark as the reader's.
        """
        parts = [_svg_shape(shape) for shape in self._layout()]
        width, height = self.size
        style = ""
        if alone:
            style = (
                f"<style>svg{{color:{_INK};background:{_PAPER}}}@media (prefers-color-scheme:dark)"
                "{svg{color:#e6e8eb;background:#14161a}}</style>"
            )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img" '
            f'aria-label="{escape(self.y_label)} against {escape(self.x_label)}" '
            f'font-family="system-ui,sans-serif" font-size="12">{style}{"".join(parts)}</svg>'
        )

    def png(self, scale: int = 2) -> Image.Image:
        """The chart as a picture on white, `scale` times its size."""
        from PIL import Image, ImageDraw

        big = 2 * scale  # drawn larger and shrunk, for smooth lines
        width, height = self.size
        picture = Image.new("RGB", (width * big, height * big), _PAPER)
        pen = ImageDraw.Draw(picture)
        letters = font(12 * big)
        for shape in self._layout():
            _draw_shape(pen, shape, big, letters)
        return picture.resize((width * scale, height * scale), Image.Resampling.LANCZOS)

    def _layout(self) -> list[tuple]:
        """("line", points, colour, width), ("dot", x, y, colour), ("text", x, y, text, anchor)."""
        points = [p for line in self.lines for p in line.points]
        points = [p for p in points if math.isfinite(p[0]) and math.isfinite(p[1])]
        if not points:
            raise InputError("a chart needs at least one point; there is nothing to draw")
        shapes: list[tuple] = []
        width, height = self.size
        top = 24 + 16 * self._legend(shapes)
        floor, right = height - _BOTTOM, width - _RIGHT
        xs = [math.log(x) if self.x_log else x for x, _ in points]
        x0, x1 = min(xs), max(xs)
        y0, y1 = self.y_range or (min(y for _, y in points), max(y for _, y in points))
        y_ticks = even_ticks(y0, y1, 5)
        if self.y_range is None:
            y0, y1 = min(y0, y_ticks[0]), max(y1, y_ticks[-1])

        def at(x: float, y: float) -> tuple[float, float]:
            x = math.log(x) if self.x_log else x
            across = (x - x0) / ((x1 - x0) or 1)
            up = (min(max(y, y0), y1) - y0) / ((y1 - y0) or 1)
            return _LEFT + across * (right - _LEFT), floor - up * (floor - top)

        for y in y_ticks:
            _, py = at(points[0][0], y)
            shapes.append(("line", [(_LEFT, py), (right, py)], "grid", 1))
            label = f"{100 * y:.0f} %" if self.percent else f"{y:g}"
            shapes.append(("text", _LEFT - 6, py + 4, label, "end"))
        low, high = min(p[0] for p in points), max(p[0] for p in points)
        for x in self.x_ticks or [t for t in even_ticks(low, high, 6) if low <= t <= high]:
            px, _ = at(x, y0)
            shapes.append(("line", [(px, floor), (px, floor + 4)], "ink", 1))
            shapes.append(("text", px, floor + 17, f"{x:g}", "middle"))
        shapes.append(("text", (_LEFT + right) / 2, height - 6, self.x_label, "middle"))
        shapes.append(("text", 8, 14, self.y_label, "start"))
        for i, line in enumerate(self.lines):
            colour = PALETTE[i % len(PALETTE)]
            places = [at(x, y) for x, y in line.points if math.isfinite(y)]
            for (x, _), (a, b) in zip(line.points, line.spread, strict=False):
                shapes.append(("line", [at(x, a), at(x, b)], colour, 1))
            if len(places) > 1:
                shapes.append(("line", places, colour, 2))
            if self.dots or len(places) == 1:
                shapes += [("dot", x, y, colour) for x, y in places]
        return shapes

    def _legend(self, shapes: list[tuple]) -> int:
        """Names of the curves under the axis's name; returns how many rows they take."""
        if len(self.lines) == 1 and not self.lines[0].name:
            return 0
        x, row = float(_LEFT), 1
        for i, line in enumerate(self.lines):
            space = 26 + 7 * len(line.name)
            if x + space > self.size[0] - _RIGHT and x > _LEFT:
                x, row = float(_LEFT), row + 1
            y = 14 + 16 * row
            colour = PALETTE[i % len(PALETTE)]
            shapes.append(("line", [(x, y - 4), (x + 14, y - 4)], colour, 3))
            shapes.append(("text", x + 18, y, line.name, "start"))
            x += space
        return row


def even_ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round values that span low..high, the first and last at or beyond its ends."""
    if high <= low:
        return [low]
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font; older Pillows have it in one small size only."""
    from PIL import ImageFont

    try:
        return ImageFont.load_default(size=size)
    except (TypeError, ImportError):
        return ImageFont.load_default()


def _svg_shape(shape: tuple) -> str:
    kind, *rest = shape
    if kind == "line":
        points, colour, width = rest
        paint = {"ink": "currentColor", "grid": "currentColor"}.get(colour, colour)
        faint = ' opacity="0.18"' if colour == "grid" else ""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        return (
            f'<polyline points="{path}" fill="none" stroke="{paint}" stroke-width="{width}" '
            f'stroke-linejoin="round"{faint}/>'
        )
    if kind == "dot":
        x, y, colour = rest
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'
    x, y, text, anchor = rest
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="currentColor">'
        f"{escape(text)}</text>"
    )


def _draw_shape(pen: object, shape: tuple, scale: int, letters: object) -> None:
    kind, *rest = shape
    if kind == "line":
        points, colour, width = rest
        paint = {"ink": _INK, "grid": _GRID}.get(colour, colour)
        path = [(x * scale, y * scale) for x, y in points]
        pen.line(path, fill=paint, width=width * scale, joint="curve")  # type: ignore[attr-defined]
    elif kind == "dot":
        x, y, colour = rest
        box = [(v - r) * scale for v, r in ((x, 3), (y, 3), (x, -3), (y, -3))]
        pen.ellipse(box, fill=colour)  # type: ignore[attr-defined]
    else:
        x, y, text, anchor = rest
        where = {"start": "l", "middle": "m", "end": "r"}[anchor]
        try:
            pen.text(  # type: ignore[attr-defined]
                (x * scale, y * scale), text, fill=_INK, font=letters, anchor=where + "s"
            )
        except ValueError:  # a bitmap font knows no anchors
            pen.text((x * scale, (y - 11) * scale), text, fill=_INK, font=letters)  # type: ignore[attr-defined]
