"""web/js/placing.js puts references where the core does, and snaps a moved one to edges."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from web_scripts import Asked, asker

from kontext_core.overlap import overlaps
from kontext_core.stitcher import METHODS, Reference, place, stitch

SCRIPT = Path(__file__).resolve().parents[2] / "web/js/placing.js"


@pytest.fixture(params=["node", pytest.param("browser", marks=pytest.mark.browser)])
def asked(request: pytest.FixtureRequest, tmp_path: Path) -> Asked:
    """What an expression over the module's exports, `it`, gives."""
    return asker(request, tmp_path, SCRIPT)


def chains(count: int) -> list[dict[str, Any]]:
    """Chains of up to five references of any size, some with places of their own."""
    draw = random.Random(5)
    made = []
    for _ in range(count):
        sizes = [[draw.randint(1, 40), draw.randint(1, 40)] for _ in range(draw.randint(0, 5))]
        own = [
            [draw.choice([0, 1, 2]), draw.randint(-9, 9), draw.choice([0, 2.5, 7])]
            if draw.random() < 0.4
            else None
            for _ in sizes
        ]
        target = [draw.randint(1, 30), draw.randint(1, 30)]
        made.append({"sizes": sizes, "own": own, "target": target, "method": draw.choice(METHODS)})
    return made


def test_places_are_the_cores(asked: Asked) -> None:
    given = chains(300)
    found = asked(
        f"{json.dumps(given)}.map((one) => it.place(one.sizes, one.method, one.target, one.own))"
    )
    assert found == [
        [
            list(position)
            for position in place(
                [(rows, columns) for rows, columns in one["sizes"]],
                one["method"],
                (one["target"][0], one["target"][1]),
                one["own"],
            )
        ]
        for one in given
    ]


def test_overlaps_are_the_cores(asked: Asked) -> None:
    layouts, expected = [], []
    for one in chains(120):
        references = [
            Reference(torch.zeros(1, 16, rows, columns), position=tuple(at) if at else None)
            for (rows, columns), at in zip(one["sizes"], one["own"], strict=True)
        ]
        rows, columns = one["target"]
        layout = stitch((1, 16, rows * 2, columns * 2), references, method=one["method"]).layout
        keys = ("index", "t", "h", "w", "rows", "columns")
        layouts.append([{key: getattr(placed, key) for key in keys} for placed in layout])
        expected.append([[o.first, o.second, o.tokens] for o in overlaps(layout)])
    assert asked(f"{json.dumps(layouts)}.map((one) => it.overlaps(one))") == expected
    assert any(expected)
    assert not all(expected)


def test_a_moved_image_snaps_to_edges_then_to_tokens(asked: Asked) -> None:
    others = "[[0, 10], [20, 4]]"
    # Edges for one of length 3: before, at and after both ends of each.
    assert asked(f"it.edges(3, {others})") == [-3, 0, 7, 10, 17, 20, 21, 24]
    places = [9.4, 10.9, 12.4, 13.6, 16.2, -2.2]
    expected = [10, 10, 12, 14, 17, -3]
    assert asked(f"{places}.map((at) => it.snapped(at, 3, {others}, 1))") == expected
    assert asked("it.snapped(4.6, 3, [], 1)") == 5
