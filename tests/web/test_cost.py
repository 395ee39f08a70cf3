"""web/js/cost.js gives the core's figures."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from kontext_core.resolutions import KONTEXT_RESOLUTIONS, nearest_resolution

SCRIPT = Path(__file__).resolve().parents[2] / "web/js/cost.js"
PICTURES = [(300, 600), (800, 400), (1024, 1024), (17, 900), (4000, 3000), (64, 64), (1568, 672)]


def asked(tmp_path: Path, expression: str) -> object:
    """What an expression over the module's exports gives, by Node.js."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no Node.js to run the script with")
    copy = tmp_path / "cost.mjs"
    shutil.copy(SCRIPT, copy)
    code = f"import * as cost from {json.dumps(copy.as_uri())}; console.log(JSON.stringify({expression}))"
    done = subprocess.run(
        [node, "--input-type=module", "-e", code], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_sizes_are_the_cores(tmp_path: Path) -> None:
    sizes, pictures = json.dumps(KONTEXT_RESOLUTIONS), json.dumps(PICTURES)
    found = asked(tmp_path, f"{pictures}.map((one) => cost.nearest(one, {sizes}))")
    assert found == [list(nearest_resolution(*one)) for one in PICTURES]


def test_cost_is_that_of_the_sequence(tmp_path: Path) -> None:
    model = json.dumps({"sizes": KONTEXT_RESOLUTIONS, "hidden": 3072, "text": 256})
    # A plain edit is the unit; L (6 d + L) by hand for twice the references.
    plain, double = asked(
        tmp_path,
        f"[cost.relative([1024, 1024], [4096], {model}), "
        f"cost.relative([1024, 1024], [4096, 4096], {model})]",
    )  # type: ignore[misc]
    assert plain == 1
    short, long = 256 + 2 * 4096, 256 + 3 * 4096
    assert double == pytest.approx(long * (18432 + long) / (short * (18432 + short)), rel=1e-12)


def test_only_far_above_the_trained_area_is_warned_of(tmp_path: Path) -> None:
    found = asked(
        tmp_path, "[[64,64],[78,78],[1024,1024]].map((one) => cost.beyond(one, [[64,64]]))"
    )
    assert found == [0, 0, 256]
