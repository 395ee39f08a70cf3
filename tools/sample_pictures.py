"""Writes workflows/input/*.png: the pictures that templates begin with, drawn as training draws; and
the examples of the template that trains a LoRA.

python tools/sample_pictures.py
"""

from __future__ import annotations

from pathlib import Path

import torch

from kontext_core.writing import save_image
from kontext_lab.recipes.lora_demo import with_crescents, write_examples
from kontext_lab.world.render import render
from kontext_lab.world.scene import Scene, Thing, placed

FOLDER = Path(__file__).resolve().parents[1] / "workflows" / "input"
SIDE = 256
EXAMPLES = 24
SHAPES = Scene(
    (Thing("heart", "red", "medium", "left"), Thing("circle", "yellow", "medium", "right")),
    "green",
    "green",
)
PICTURES = {
    "kontext_shapes": SHAPES,
    "kontext_star": Scene((Thing("star", "yellow", "big", "middle"),), "purple", "purple"),
    "kontext_letter": Scene((Thing("A", "red", "big", "middle"),), "yellow", "yellow"),
    "kontext_neon": Scene(
        (Thing("star", "green", "big", "middle"),), "black", "black", style="neon"
    ),
    "kontext_sunset": Scene((Thing("heart", "white", "medium", "top right"),), "blue", "orange"),
}
ROOM = 1.35  # half the mask's side, in radii of the thing it is about


def mask_around(thing: Thing) -> torch.Tensor:
    """A white square around a thing on black, [3, SIDE, SIDE]."""
    x, y, radius = placed(thing, SIDE, SIDE)
    reach = ROOM * radius
    mask = torch.zeros(3, SIDE, SIDE)
    mask[:, round(y - reach) : round(y + reach), round(x - reach) : round(x + reach)] = 1
    return mask


def main() -> None:
    for name, scene in PICTURES.items():
        save_image(render([scene], SIDE, SIDE)[0].permute(1, 2, 0), FOLDER / f"{name}.png")
    save_image(mask_around(SHAPES.things[1]).permute(1, 2, 0), FOLDER / "kontext_mask.png")
    with with_crescents():
        write_examples(FOLDER / "kontext_crescent", EXAMPLES, seed=1)


if __name__ == "__main__":
    main()
