"""Line charts of results, drawn by matplotlib as SVG in the colours of the page, or as PNG."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from PIL import Image, ImageFont

from kontext_core.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Middle tones: legible on white and on near-black.
PALETTE = (
    "#3b82f6", "#f08c00", "#12a150", "#e0457b", "#8b5cf6", "#0e9aa7", "#a16207", "#7c8594", "#d6453d",
)  # fmt: skip
_INK = "#24292f"
_DPI = 72


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
        x_ticks: where the x axis is labelled; chosen by matplotlib if empty.
        x_log: whether the x axis is logarithmic.
        y_range: lowest and highest y; from the points if None.
        percent: y values are shares, shown in per cent.
        dots: mark every point (for few points).
        size: width and height in points.
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

    def svg(self, *, alone: bool = False) -> str:
        """The chart as SVG text in the colour of the text around it.

        Args:
            alone: for a file of its own: brings its colours along, light or dark as the reader's.
        """
        import matplotlib

        # Text stays text, and the same chart is the same file.
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "chart"}):
            out = io.StringIO()
            self._figure().savefig(out, format="svg", transparent=True, metadata={"Date": None})
        body = out.getvalue()[out.getvalue().index("<svg") :].replace(_INK, "currentColor")
        label = f"{escape(self.y_label)} against {escape(self.x_label)}"
        style = ""
        if alone:
            style = (
                f"<style>svg{{color:{_INK};background:#fff}}@media (prefers-color-scheme:dark)"
                "{svg{color:#e6e8eb;background:#14161a}}</style>"
            )
        body = re.sub(r"\s*<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
        head, rest = body.split(">", 1)
        return f'{head} role="img" aria-label="{label}">{style}{rest.strip()}'

    def png(self, scale: int = 2) -> Image.Image:
        """The chart as a picture on white, `scale` times its size."""
        out = io.BytesIO()
        self._figure().savefig(out, format="png", dpi=_DPI * scale, facecolor="white")
        return Image.open(out).convert("RGB")

    def _figure(self) -> Figure:
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise InputError(
                "charts are drawn by matplotlib, which is not installed here; install it with "
                "`pip install matplotlib`"
            ) from error
        if not any(
            math.isfinite(x) and math.isfinite(y) for one in self.lines for x, y in one.points
        ):
            raise InputError("a chart needs at least one point; there is nothing to draw")
        width, height = self.size
        figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
        axes = figure.add_subplot()
        for i, line in enumerate(self.lines):
            xs, ys = [x for x, _ in line.points], [y for _, y in line.points]
            colour = PALETTE[i % len(PALETTE)]
            marker = "o" if self.dots or len(xs) == 1 else ""
            axes.plot(xs, ys, color=colour, marker=marker, markersize=5, label=line.name or "_")
            for (x, _), (low, high) in zip(line.points, line.spread, strict=False):
                axes.plot((x, x), (low, high), color=colour, linewidth=0.8)
        if self.x_log:
            axes.set_xscale("log")
        if self.x_ticks:
            axes.set_xticks(self.x_ticks, [f"{x:g}" for x in self.x_ticks])
            axes.set_xticks([], minor=True)
        if self.y_range is not None:
            axes.set_ylim(*self.y_range)
        if self.percent:
            axes.yaxis.set_major_formatter(lambda y, _: f"{100 * y:.0f} %")
        axes.set_xlabel(self.x_label, color=_INK)
        axes.set_title(self.y_label, loc="left", fontsize=10, color=_INK)
        axes.tick_params(colors=_INK)
        axes.grid(axis="y", color=_INK, alpha=0.18)
        for side, spine in axes.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(_INK)
        if any(line.name for line in self.lines):
            figure.legend(
                loc="outside upper right", ncols=5, fontsize=9, frameon=False, labelcolor=_INK
            )
        figure.set_layout_engine("constrained")
        return figure


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font; older Pillows have it in one small size only."""
    try:
        return ImageFont.load_default(size=size)
    except (TypeError, ImportError):
        return ImageFont.load_default()
