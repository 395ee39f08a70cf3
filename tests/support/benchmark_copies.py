"""Small stand-ins for published benchmarks, with their own columns and layout."""

from __future__ import annotations

import io
import json
from pathlib import Path

from PIL import Image

CATEGORIES = (
    "Instruction Editing - Local", "Instruction Editing - Global", "Character Reference",
    "Style Reference", "Text Editing",
)  # fmt: skip


def png(colour: str, size: tuple[int, int] = (64, 64)) -> bytes:
    """A plain picture with a lighter corner, as a file."""
    picture = Image.new("RGB", size, colour)
    picture.paste("white", (0, 0, size[0] // 4, size[1] // 4))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def kontextbench(folder: Path, count: int = 5) -> Path:
    """As black-forest-labs/kontext-bench: test/metadata.jsonl and test/images."""
    images = folder / "test/images"
    images.mkdir(parents=True)
    lines = []
    for number in range(count):
        name = f"{number:04d}.png"
        (images / name).write_bytes(png(("red", "green", "blue")[number % 3]))
        lines.append(
            json.dumps(
                {
                    "file_name": f"images/{name}", "key": number, "category": CATEGORIES[number % 5],
                    "instruction": f"make it brighter, {number}",
                }
            )
        )  # fmt: skip
    (folder / "test/metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def imgedit(folder: Path) -> Path:
    """As sysuyy/ImgEdit: basic_edit.json beside singleturn/."""
    (folder / "singleturn/animal").mkdir(parents=True)
    (folder / "singleturn/animal/1.jpg").write_bytes(png("red"))
    rows = {
        "1082": {"id": "animal/1.jpg", "prompt": "Change the cat", "edit_type": "replace"},
        "68": {"id": "animal/1.jpg", "prompt": "Remove the cat", "edit_type": "remove"},
    }
    (folder / "basic_edit.json").write_text(json.dumps(rows))
    return folder


def multibanana(folder: Path) -> Path:
    """As kohsei/MultiBanana-Benchmark: a folder a task."""
    place = folder / "data/3_back"
    place.mkdir(parents=True)
    for number in ("006", "014"):
        # Ten pictures: the tenth comes after the ninth, not after the first.
        for image in range(11 if number == "014" else 3):
            (place / f"{number}_{image}.jpg").write_bytes(png("blue", (64 + image, 64)))
        (place / f"{number}_prompt.txt").write_text("put image 1 before image 2\n")
    (place / "006_generated.jpg").write_bytes(png("red"))
    return folder


def gedit_rows() -> list[dict[str, object]]:
    """Rows of stepfun-ai/GEdit-Bench, pictures as `datasets` stores them."""
    return [
        {
            "key": f"k{number}", "task_type": "color_alter", "instruction": words,
            "instruction_language": language, "Intersection_exist": True,
            "input_image_raw": {"bytes": png("red"), "path": None}, "input_image": None,
        }
        for number, (words, language) in enumerate([("make it blue", "en"), ("变蓝", "cn"), ("greener", "en")])
    ]  # fmt: skip
