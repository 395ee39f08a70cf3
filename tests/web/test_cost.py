"""web/js/cost.js gives the core's figures."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from kontext_core.cost import beyond_trained, estimate, plain_size, tokens_of
from kontext_core.framing import FITS, plan_fit
from kontext_core.resolutions import KONTEXT_RESOLUTIONS, nearest_resolution

SCRIPT = Path(__file__).resolve().parents[2] / "web/js/cost.js"
SIDES = (16, 17, 31, 64, 96, 300, 800, 1009, 1024, 1568, 3000, 4000)
PICTURES = [(width, height) for width in SIDES for height in SIDES]
# (sizes trained at, hidden size, tokens of text) of FLUX.1 and of one far smaller.
MODELS = [(KONTEXT_RESOLUTIONS, 3072, 256), (((64, 64), (96, 64), (64, 96)), 128, 12)]
REFERENCES: list[list[int]] = [[], [1], [4096], [4096, 16], [2000] * 5, [65536]]

Asked = Callable[[str], Any]


def by_node(folder: Path, expression: str) -> Any:
    program = shutil.which("node")
    if program is None:
        pytest.skip("no Node.js to run the script with")
    copy = folder / "cost.mjs"
    shutil.copy(SCRIPT, copy)
    code = f"import * as cost from {json.dumps(copy.as_uri())}; console.log(JSON.stringify({expression}))"
    command = [program, "--input-type=module", "-e", code]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def by_browser(browser: Browser, expression: str) -> Any:
    page = browser.new_page()
    load = """async (text) => {
        window.cost = await import(URL.createObjectURL(new Blob([text], {type: 'text/javascript'})));
    }"""
    page.evaluate(load, SCRIPT.read_text(encoding="utf-8"))
    found = json.loads(page.evaluate(f"() => JSON.stringify({expression})"))
    page.close()
    return found


@pytest.fixture(params=["node", pytest.param("browser", marks=pytest.mark.browser)])
def asked(request: pytest.FixtureRequest, tmp_path: Path) -> Asked:
    """What an expression over the module's exports, `cost`, gives."""
    if request.param == "node":
        return lambda expression: by_node(tmp_path, expression)
    return partial(by_browser, request.getfixturevalue("browser"))


def test_sizes_are_the_cores(asked: Asked) -> None:
    for sizes, _, _ in MODELS:
        expression = (
            f"{json.dumps(PICTURES)}.map((one) => [cost.nearest(one, {json.dumps(sizes)}), "
            f"cost.tokensOf(one), ...{json.dumps(FITS)}.map("
            f"(fit) => cost.fitted(one, {json.dumps(sizes)}, fit))])"
        )
        assert asked(expression) == [
            [
                list(nearest_resolution(*one, sizes)),
                tokens_of(*one),
                *(list(plan_fit(*one, sizes, fit).size) for fit in FITS),
            ]
            for one in PICTURES
        ]


def test_cost_is_the_cores(asked: Asked) -> None:
    for sizes, hidden, text in MODELS:
        model = json.dumps({"sizes": sizes, "hidden": hidden, "text": text})
        found = asked(
            f"{json.dumps(PICTURES)}.map((one) => {json.dumps(REFERENCES)}.map("
            f"(tokens) => cost.relative(one, tokens, {model})))"
        )
        plain = plain_size(sizes)
        # Whole numbers below 2^53, divided once: both languages round alike.
        assert found == [
            [
                estimate(one, tokens, text=text, hidden_size=hidden, trained=plain).relative
                for tokens in REFERENCES
            ]
            for one in PICTURES
        ]


def test_only_far_above_the_trained_area_is_warned_of(asked: Asked) -> None:
    for sizes, _, _ in MODELS:
        found = asked(f"{json.dumps(PICTURES)}.map((one) => cost.beyond(one, {json.dumps(sizes)}))")
        trained = [nearest_resolution(*one, sizes) for one in PICTURES]
        expected = [
            beyond_trained(one, size) or 0 for one, size in zip(PICTURES, trained, strict=True)
        ]
        assert found == expected
        assert 0 in expected
        assert max(expected) > 1.5
