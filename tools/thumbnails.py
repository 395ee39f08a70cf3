"""Writes workflows/NAME.jpg: pictures that go in, an arrow, what comes out, and a line of words.

    python tools/thumbnails.py [NAME ...]

Results are real: of the template itself, run on the embedded host. Templates that need files of
many gigabytes, or nodes of ComfyUI's own, show what the embedded model makes of a graph like theirs.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = ROOT / "workflows"
PAPER, INK = (32, 34, 38), (236, 238, 240)
WIDTH, HEIGHT = 768, 432
# Template: (template to run, what goes in, words).
PICTURES: dict[str, tuple[str, tuple[str, ...], str]] = {
    "text_to_image": ("text_to_image", (), "a picture from words alone"),
    "one_reference_edit": ("one_reference_edit", ("kontext_shapes",), "one picture, one sentence"),
    "two_references": (
        "two_references",
        ("kontext_star", "kontext_sunset"),
        "thing of one, background of the other",
    ),
    "one_node_edit": ("one_node_edit", ("kontext_shapes",), "everything in one node"),
    "chain_of_two_turns": ("chain_of_two_turns", ("kontext_shapes",), "two turns, no loss between"),
    "inpaint_with_mask": (
        "inpaint_with_mask",
        ("kontext_shapes", "kontext_mask"),
        "only where the mask is white",
    ),
    "gguf_edit": ("one_reference_edit", ("kontext_shapes",), "FLUX.1 Kontext from GGUF files"),
    "fp8_with_lora": ("one_node_edit", ("kontext_shapes",), "fp8 file + LoRA, 8 steps"),
    "ksampler_with_our_loaders": (
        "one_reference_edit",
        ("kontext_shapes",),
        "our loaders, ComfyUI's KSampler",
    ),
    "stitch_with_native_flux": (
        "two_references",
        ("kontext_star", "kontext_sunset"),
        "our Stitch, ComfyUI's own FLUX.1",
    ),
    "large_picture": ("", ("kontext_sunset",), "1568 x 1568, decoded in tiles"),
    "quantize": ("", (), "23.8 GB  →  6.9 GB"),
    "batch": ("batch", ("kontext_shapes",), "many edits with one Run"),
}


def results_of(template: str, folder: Path) -> list[Image.Image]:
    """The pictures that a template saves on the embedded host."""
    command = [sys.executable, "-m", "standalone", "run", f"workflows/api/{template}.json"]
    command += ["--quiet", "--input", str(WORKFLOWS / "input"), "--output", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True)
    return [Image.open(path).convert("RGB") for path in sorted(folder.rglob("*.png"))]


def sign(draw: ImageDraw.ImageDraw, kind: str, x: float, y: float) -> None:
    """A plus or an arrow around a point."""
    if kind == "+":
        draw.rectangle((x - 12, y - 2, x + 12, y + 2), fill=INK)
        draw.rectangle((x - 2, y - 12, x + 2, y + 12), fill=INK)
        return
    draw.rectangle((x - 16, y - 2, x + 4, y + 2), fill=INK)
    draw.polygon([(x + 2, y - 10), (x + 16, y), (x + 2, y + 10)], fill=INK)


def draw_thumbnail(before: list[Image.Image], after: list[Image.Image], text: str) -> Image.Image:
    card = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(card)
    pictures = [*before, *after]
    gap = 60 if len(pictures) < 4 else 36
    side = min(250, (WIDTH - 60 - gap * (len(pictures) - 1)) // max(len(pictures), 1))
    left = (WIDTH - len(pictures) * side - gap * (len(pictures) - 1)) // 2
    top = (HEIGHT - 50 - side) // 2
    for number, picture in enumerate(pictures):
        x = left + number * (side + gap)
        card.paste(picture.resize((side, side), Image.Resampling.LANCZOS), (x, top))
        if 0 < number < len(before):
            sign(draw, "+", x - gap / 2, top + side / 2)
        elif before and number == len(before):
            sign(draw, "→", x - gap / 2, top + side / 2)
    font = ImageFont.load_default(30 if pictures else 64)
    place = (WIDTH / 2, HEIGHT - 48) if pictures else (WIDTH / 2, HEIGHT / 2)
    if not pictures:
        # The default font has no arrow.
        first, _, second = text.partition("  →  ")
        draw.text((place[0] - 180, place[1]), first, font=font, fill=INK, anchor="mm")
        sign(draw, "→", *place)
        draw.text((place[0] + 180, place[1]), second, font=font, fill=INK, anchor="mm")
        small = ImageFont.load_default(30)
        draw.text((place[0], HEIGHT - 48), "BF16 to Q4_K_M", font=small, fill=INK, anchor="mm")
    else:
        draw.text(place, text, font=font, fill=INK, anchor="mm")
    return card


def main(names: list[str]) -> int:
    made: dict[str, list[Image.Image]] = {"": []}
    for name in names or PICTURES:
        template, inputs, text = PICTURES[name]
        if template not in made:
            with tempfile.TemporaryDirectory() as folder:
                made[template] = results_of(template, Path(folder))
        before = [Image.open(WORKFLOWS / f"input/{one}.png").convert("RGB") for one in inputs]
        card = draw_thumbnail(before, made[template], text)
        card.save(WORKFLOWS / f"{name}.jpg", quality=88, optimize=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
