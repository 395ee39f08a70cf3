"""Writes workflows/TITLE.jpg: pictures that go in, an arrow, what comes out, and a line of words.

    python tools/thumbnails.py [NAME ...]

Results are real: of the template itself, run on the embedded host. Templates that need files of
many gigabytes, or nodes of ComfyUI's own, have a drawn card without a picture instead.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from graphs import TITLES
from PIL import Image, ImageDraw, ImageFont, ImageOps

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = ROOT / "workflows"
PAPER, INK = (32, 34, 38), (236, 238, 240)
WIDTH, HEIGHT = 768, 432
# Template: what goes in, words.
PICTURES: dict[str, tuple[tuple[str, ...], str]] = {
    "text_to_image": ((), "a picture from words alone"),
    "one_reference_edit": (("kontext_shapes",), "one picture, one sentence"),
    "two_references": (
        ("kontext_star", "kontext_sunset"), "thing of one, background of the other",
    ),
    "one_node_edit": (("kontext_shapes",), "everything in one node"),
    "chain_of_two_turns": (("kontext_shapes",), "two turns, no loss between"),
    "inpaint_with_mask": (("kontext_shapes", "kontext_mask"), "only where the mask is white"),
    "masked_edit": (("kontext_shapes", "kontext_mask"), "repaints only what is white"),
    "crop_and_stitch": (("kontext_shapes", "kontext_mask"), "a small region in full detail"),
    "extend_picture": (("kontext_shapes",), "more beside it, the rest as it was"),
    "accelerated_edit": (("kontext_shapes",), "the same in less time"),
    "batch": (("kontext_shapes",), "many edits with one Run"),
    "box_cue": (("kontext_shapes",), "a box points at what goes"),
    "style_of_a_picture": (("kontext_neon",), "draws in the style of a picture"),
    "replace_letters": (("kontext_letter",), "one letter becomes another"),
    "new_scenes": (("kontext_star",), "one thing, several scenes"),
    "choose_among_candidates": (("kontext_star",), "early looks, the best go on"),
    "session_of_turns": (("kontext_shapes",), "turn by turn, kept in one file"),
    "several_in_one_node": (("kontext_star", "kontext_sunset"), "several pictures in one node"),
    "one_canvas": (("kontext_star", "kontext_shapes"), "one picture out of several, edited"),
    "ten_turns": (("kontext_shapes",), "ten lines, ten turns"),
    "train_lora": (("kontext_star",), "teaches it a shape it has never drawn"),
    "pictures_by_name": (("kontext_star", "kontext_sunset"), "pictures by name, not by number"),
}  # fmt: skip
# Template: what stands in its boxes, words. The last box is the result.
CARDS: dict[str, tuple[tuple[str, ...], str]] = {
    "gguf_edit": (("GGUF files", "picture", "edit"), "FLUX.1 Kontext from GGUF files"),
    "fp8_with_lora": (("fp8 file", "LoRA", "edit"), "fp8 file and LoRA, 8 steps"),
    "ksampler_with_our_loaders": (
        ("our loaders", "KSampler", "edit"), "our loaders, ComfyUI's KSampler",
    ),
    "stitch_with_native_flux": (
        ("FLUX.1", "Stitch", "edit"), "our Stitch, ComfyUI's own FLUX.1",
    ),
    "large_picture": (("picture", "1568 x 1568"), "a large picture, decoded in tiles"),
    "quantize": (("23.8 GB", "6.9 GB"), "BF16 to Q4_K_M"),
}  # fmt: skip


def results_of(template: str, folder: Path) -> list[Image.Image]:
    """The pictures that a template saves on the embedded host."""
    command = [sys.executable, "-m", "standalone", "run", f"workflows/api/{template}.json"]
    command += ["--quiet", "--input", str(WORKFLOWS / "input"), "--output", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True)
    # What a training paints meanwhile is no result.
    found = sorted(path for path in folder.rglob("*.png") if "kontext_training" not in path.parts)
    return [Image.open(path).convert("RGB") for path in found]


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
        # Of another shape it is as small as it takes, in the middle.
        shown = ImageOps.contain(picture, (side, side), Image.Resampling.LANCZOS)
        card.paste(shown, (x + (side - shown.width) // 2, top + (side - shown.height) // 2))
        if 0 < number < len(before):
            sign(draw, "+", x - gap / 2, top + side / 2)
        elif before and number == len(before):
            sign(draw, "→", x - gap / 2, top + side / 2)
    caption(draw, text)
    return card


def draw_card(boxes: tuple[str, ...], text: str) -> Image.Image:
    """Boxes with words: a plus between what goes in, an arrow before what comes out."""
    card = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(card)
    gap, tall = 60, 120
    wide = (WIDTH - 80 - gap * (len(boxes) - 1)) // len(boxes)
    top = (HEIGHT - 50 - tall) // 2
    for number, words in enumerate(boxes):
        x = 40 + number * (wide + gap)
        result = number == len(boxes) - 1
        draw.rounded_rectangle(
            (x, top, x + wide, top + tall), 14, outline=INK, width=3, fill=INK if result else None
        )
        font = ImageFont.load_default(32)
        place = (x + wide / 2, top + tall / 2)
        draw.text(place, words, font=font, fill=PAPER if result else INK, anchor="mm")
        if number:
            sign(draw, "→" if result else "+", x - gap / 2, top + tall / 2)
    caption(draw, text)
    return card


def caption(draw: ImageDraw.ImageDraw, text: str) -> None:
    """The line of words at the bottom."""
    place = (WIDTH / 2, HEIGHT - 48)
    draw.text(place, text, font=ImageFont.load_default(30), fill=INK, anchor="mm")


def main(names: list[str]) -> int:
    for name in names or (*PICTURES, *CARDS):
        if name in CARDS:
            card = draw_card(*CARDS[name])
        else:
            inputs, text = PICTURES[name]
            with tempfile.TemporaryDirectory() as folder:
                after = results_of(name, Path(folder))
            before = [Image.open(WORKFLOWS / f"input/{one}.png").convert("RGB") for one in inputs]
            card = draw_thumbnail(before, after, text)
        card.save(WORKFLOWS / f"{TITLES[name]}.jpg", quality=88, optimize=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
