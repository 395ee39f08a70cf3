"""Draws docs/images/banner.png, the 21:9 picture at the head of the registry's page: the icon's two
pictures that become one, and the name.

    .venv/bin/python tools/banner.py
"""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

TARGET = Path(__file__).resolve().parents[1] / "docs/images/banner.png"
SIZE = (1680, 720)
# Drawn larger and brought down, which smooths the edges.
SCALE = 2
NIGHT, FRAME, SKY, FIRE, STAR = "#1f2430", "#3b4256", "#3d6f8e", "#e4572e", "#ffc857"
LINE, WORDS = "#8b93a7", "#f2f3f7"


def star(x: float, y: float, radius: float) -> list[tuple[float, float]]:
    """Ten corners around (x, y), the first one up."""
    corners = []
    for i in range(10):
        reach = radius if i % 2 == 0 else 0.42 * radius
        angle = math.pi * (i / 5 - 0.5)
        corners.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
    return corners


def card(draw: ImageDraw.ImageDraw, x: int, y: int, side: int, *, hill: bool, shines: bool) -> None:
    """One of the icon's pictures, its upper left corner at (x, y)."""
    round_corner = side // 7
    back = SKY if hill else FRAME
    draw.rounded_rectangle((x, y, x + side, y + side), round_corner, fill=back)
    if hill:
        draw.chord((x, y + 0.55 * side, x + side, y + 1.45 * side), 180, 360, fill=FIRE)
        draw.rectangle((x, y + side, x + side, y + 1.5 * side), fill=NIGHT)
    if shines:
        draw.polygon(star(x + side / 2, y + side * (0.34 if hill else 0.52), 0.3 * side), fill=STAR)


def main() -> None:
    image = Image.new("RGB", (SIZE[0] * SCALE, SIZE[1] * SCALE), NIGHT)
    draw = ImageDraw.Draw(image)
    side = 420
    left, middle, right = 200, 720, 960
    draw.line((left + side, 450, middle, 450, middle, 990, left + side, 990), LINE, 20)
    draw.line((middle, 720, right, 720), LINE, 20)
    # The hills are cut off at their cards' lower edges: those that lie above come last.
    card(draw, left, 780, side, hill=True, shines=False)
    card(draw, left, 240, side, hill=False, shines=True)
    card(draw, right, 510, side, hill=True, shines=True)
    large, small = ImageFont.load_default(230), ImageFont.load_default(84)
    draw.text((1500, 660), "Kontext Studio", WORDS, large, anchor="ls")
    draw.text((1510, 830), "FLUX.1 Kontext editing, several references,", LINE, small, anchor="ls")
    draw.text((1510, 950), "each exactly where you say", LINE, small, anchor="ls")
    image.resize(SIZE, Image.Resampling.LANCZOS).save(TARGET, optimize=True)


if __name__ == "__main__":
    main()
