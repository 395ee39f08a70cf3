"""web/js/cost.js and canvas.js give the core's figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from web_scripts import Asked, asker

from kontext_core.arrange import LAYOUTS, arrange_sizes
from kontext_core.cost import beyond_trained, estimate, plain_size, tokens_of
from kontext_core.fit import POLICIES, Fit
from kontext_core.framing import FITS, at_resolution, plan_fit, same_shape
from kontext_core.resolutions import KONTEXT_RESOLUTIONS, nearest_resolution

SCRIPT = Path(__file__).resolve().parents[2] / "web/js/cost.js"
SIDES = (16, 17, 31, 64, 96, 300, 800, 1009, 1024, 1568, 3000, 4000)
PICTURES = [(width, height) for width in SIDES for height in SIDES]
# (sizes trained at, hidden size, tokens of text) of FLUX.1 and of one far smaller.
MODELS = [(KONTEXT_RESOLUTIONS, 3072, 256), (((64, 64), (96, 64), (64, 96)), 128, 12)]
REFERENCES: list[list[int]] = [[], [1], [4096], [4096, 16], [2000] * 5, [65536]]
SHARES = [1, 0.95, 0.7, 0.5, 0.35, 0.25]


@pytest.fixture(params=["node", pytest.param("browser", marks=pytest.mark.browser)])
def asked(request: pytest.FixtureRequest, tmp_path: Path) -> Asked:
    """What an expression over the module's exports, `it`, gives."""
    return asker(request, tmp_path, SCRIPT)


def test_sizes_are_the_cores(asked: Asked) -> None:
    for sizes, _, _ in MODELS:
        expression = (
            f"{json.dumps(PICTURES)}.map((one) => [it.nearest(one, {json.dumps(sizes)}), "
            f"it.tokensOf(one), ...{json.dumps(FITS)}.flatMap((fit) => "
            f"{json.dumps(SHARES)}.map((share) => "
            f"it.scaled(it.fitted(one, {json.dumps(sizes)}, fit), share)))])"
        )
        assert asked(expression) == [
            [
                list(nearest_resolution(*one, sizes)),
                tokens_of(*one),
                *(
                    list(at_resolution(plan_fit(*one, sizes, fit), share).size)
                    for fit in FITS
                    for share in SHARES
                ),
            ]
            for one in PICTURES
        ]


def test_cost_is_the_cores(asked: Asked) -> None:
    for sizes, hidden, text in MODELS:
        model = json.dumps({"sizes": sizes, "hidden": hidden, "text": text})
        found = asked(
            f"{json.dumps(PICTURES)}.map((one) => {json.dumps(REFERENCES)}.map("
            f"(tokens) => [it.relative(one, tokens, {model}), it.alone(one, tokens, {model}), "
            f"it.memory(one, tokens, {model})]))"
        )
        plain = plain_size(sizes)
        # Whole numbers below 2^53, divided once: both languages round alike.
        assert found == [
            [
                [cost.relative, cost.alone, cost.memory]
                for tokens in REFERENCES
                for cost in [estimate(one, tokens, text=text, hidden_size=hidden, trained=plain)]
            ]
            for one in PICTURES
        ]


def test_only_far_above_the_trained_area_is_warned_of(asked: Asked) -> None:
    for sizes, _, _ in MODELS:
        found = asked(f"{json.dumps(PICTURES)}.map((one) => it.beyond(one, {json.dumps(sizes)}))")
        trained = [nearest_resolution(*one, sizes) for one in PICTURES]
        expected = [
            beyond_trained(one, size) or 0 for one, size in zip(PICTURES, trained, strict=True)
        ]
        assert found == expected
        assert 0 in expected
        assert max(expected) > 1.5


@pytest.fixture(params=["node", pytest.param("browser", marks=pytest.mark.browser)])
def canvas(request: pytest.FixtureRequest, tmp_path: Path) -> Asked:
    """The same of the other module."""
    return asker(request, tmp_path, SCRIPT.with_name("canvas.js"))


# Sides of rectangles, and of a strip.
CANVASES = [(64, 64), (111, 79), (800, 600), (1009, 1568), (3000, 400)]
PAGES: list[tuple[float | None, tuple[int, int, int, int], str]] = [
    (None, (0, 0, 0, 0), "pad"),
    (None, (3, 0, 256, 7), "pad"),
    (16 / 9, (0, 0, 0, 0), "pad"),
    (16 / 9, (0, 0, 0, 0), "crop"),
    (0.5, (0, 5, 0, 5), "crop"),
]


def test_canvases_are_the_cores(canvas: Asked) -> None:
    asked, expected = [], []
    for picture in CANVASES:
        for aspect, margins, shape in PAGES:
            for policy in POLICIES:
                if policy == "custom":
                    continue
                fit = Fit(policy, shape, 0.37, aspect=aspect, margins=margins)
                framing = fit.plan(picture, KONTEXT_RESOLUTIONS)
                page = json.dumps({"margins": margins, "crop": shape == "crop"})
                if aspect is not None:
                    page = page.replace("{", f'{{"aspect": {aspect!r}, ', 1)
                sizes = json.dumps(
                    {"megapixels": 0.37, "custom": [0, 0], "trained": framing.trained}
                )
                asked.append(
                    f"it.canvas({json.dumps(policy)}, it.page({json.dumps(picture)}, {page}), {sizes})"
                )
                expected.append(list(framing.size))
    assert canvas(f"[{', '.join(asked)}]") == expected


def test_shapes_are_compared_as_the_core_does(canvas: Asked) -> None:
    pairs = [(a, b) for a in PICTURES[::3] for b in PICTURES[::7]]
    found = canvas(f"{json.dumps(pairs)}.map(([a, b]) => it.sameShape(a, b))")
    assert found == [same_shape(a, b, 8) for a, b in pairs]
    assert True in found


def test_arranged_canvases_are_the_cores(canvas: Asked) -> None:
    asked, expected = [], []
    for size in ((0, 0), (300, 0), (0, 77), (500, 500)):
        for layout in LAYOUTS:
            for columns, gap in ((0, 0), (2, 5)):
                places = [(0.0, 0.0, 0.5, 0.5)] * len(CANVASES)
                plan = arrange_sizes(
                    CANVASES, layout, gap=gap, columns=columns, size=size, places=places
                )
                how = json.dumps({"gap": gap, "columns": columns, "size": size})
                asked.append(f"it.arranged({json.dumps(CANVASES)}, {json.dumps(layout)}, {how})")
                expected.append(list(plan.size))
    assert canvas(f"[{', '.join(asked)}]") == expected
