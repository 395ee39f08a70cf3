"""One picture of a run: what went in, the words, what came out."""

from __future__ import annotations

import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from kontext_core.images import to_pil
from kontext_core.partial import whole_file
from kontext_core.reading import read_picture

from .comfy_api.nodes import ComfyNode
from .errors import WorkflowError
from .folders import Folders
from .prompt import Prompt, inputs_of

SIDE = 384
MARGIN = 32
GAP = 56
CAPTION_SIZE, WORDS_SIZE = 20, 26
PAPER, INK, FAINT = (250, 250, 248), (32, 33, 36), (120, 122, 126)


def write_sheet(
    target: Path,
    prompt: Prompt,
    nodes: dict[str, type[ComfyNode]],
    folders: Folders,
    results: list[Path],
) -> None:
    """Draws the sheet of a finished run and writes it, whole or not at all.

    Raises:
        WorkflowError: the run wrote no picture, or the sheet can't be written.
    """
    if not results:
        raise WorkflowError("there is nothing for the sheet: the run wrote no picture")
    inputs = [(f"image {number}", path) for number, path in enumerate(_inputs(prompt, folders), 1)]
    pictures = [(caption, _open(path)) for caption, path in inputs]
    sheet = draw_sheet(pictures, _words(prompt, nodes), ("result", _open(results[-1])))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(target) as file:
            sheet.save(file, "PNG")
    except OSError as error:
        raise WorkflowError(
            f"can't write the sheet {target} ({error}); free some space or choose another --sheet"
        ) from error


def _open(path: Path) -> Image.Image:
    return to_pil(read_picture(path).colours[0])


def _inputs(prompt: Prompt, folders: Folders) -> list[Path]:
    """The picture files that the prompt loads, in its order."""
    names = [
        node["inputs"].get("image")
        for node in prompt.values()
        if node["class_type"] == "LoadImage" and isinstance(node["inputs"].get("image"), str)
    ]
    found = [folders.find(name) for name in names]
    return [path for path in found if path is not None]


def _words(prompt: Prompt, nodes: dict[str, type[ComfyNode]]) -> str:
    """The instruction: all texts of several lines, but for negative ones."""
    texts = []
    for node in prompt.values():
        if "negative" in str((node.get("_meta") or {}).get("title", "")).lower():
            continue
        for name, spec in inputs_of(nodes[node["class_type"]]).items():
            value = node["inputs"].get(name)
            if spec.options.get("multiline") and isinstance(value, str) and value.strip():
                texts.append(value.strip())
    return "\n".join(texts)


def _fitted(picture: Image.Image) -> Image.Image:
    """The picture on a square of SIDE pixels, as large as it can be."""
    scale = SIDE / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    # Very small pictures would be nothing but blur: show their pixels as they are.
    method = Image.Resampling.NEAREST if scale >= 8 else Image.Resampling.LANCZOS
    square = Image.new("RGB", (SIDE, SIDE), PAPER)
    large = picture.resize(size, method)
    square.paste(large, ((SIDE - large.width) // 2, (SIDE - large.height) // 2))
    return square


def draw_sheet(
    inputs: list[tuple[str, Image.Image]], words: str, result: tuple[str, Image.Image]
) -> Image.Image:
    """Inputs in a row, an arrow, the result; captions below, the words on top."""
    panels = [*inputs, result]
    width = 2 * MARGIN + len(panels) * SIDE + (len(panels) - 1) * GAP
    words_font = ImageFont.load_default(size=WORDS_SIZE)
    caption_font = ImageFont.load_default(size=CAPTION_SIZE)
    # The default font is about half as wide as it is high.
    columns = max(16, int((width - 2 * MARGIN) / (WORDS_SIZE * 0.52)))
    lines = [piece for line in words.splitlines() for piece in textwrap.wrap(line, columns)]
    line_height = round(WORDS_SIZE * 1.4)
    top = MARGIN + (len(lines) * line_height + MARGIN // 2 if lines else 0)
    height = top + SIDE + 12 + round(CAPTION_SIZE * 1.5) + MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        y = MARGIN + number * line_height
        pen.text((width / 2, y), line, font=words_font, fill=INK, anchor="ma")
    for number, (caption, picture) in enumerate(panels):
        x = MARGIN + number * (SIDE + GAP)
        sheet.paste(_fitted(picture), (x, top))
        text = f"{caption}  ·  {picture.width} x {picture.height}"
        pen.text((x + SIDE / 2, top + SIDE + 12), text, font=caption_font, fill=FAINT, anchor="ma")
        if number:
            _join(pen, x - GAP / 2, top + SIDE / 2, arrow=number == len(panels) - 1)
    return sheet


def _join(pen: ImageDraw.ImageDraw, x: float, y: float, arrow: bool) -> None:
    """The sign between two panels: a plus between inputs, an arrow before the result."""
    reach = 14
    pen.line((x - reach, y, x + reach, y), fill=FAINT, width=4)
    if arrow:
        pen.polygon([(x + reach + 6, y), (x + 4, y - 10), (x + 4, y + 10)], fill=FAINT)
    else:
        pen.line((x, y - reach, x, y + reach), fill=FAINT, width=4)
