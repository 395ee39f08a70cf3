"""web/js/cost.js gives the core's figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from web_scripts import Asked, asker

from kontext_core.cost import beyond_trained, estimate, plain_size, tokens_of
from kontext_core.framing import FITS, at_resolution, plan_fit
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
