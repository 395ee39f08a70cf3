"""Kontext: Compare: what it gives, what the browser is told, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from standalone import runtime
from standalone.folders import Folders


@pytest.fixture
def temp(tmp_path: Path) -> Path:
    """The temp folder of a host that is there for as long as the test."""
    folders = Folders.below(tmp_path)
    runtime.install(runtime.Runtime(folders))
    return folders.temp


def run(pack: Any, **inputs: Any) -> Any:
    node = pack.nodes["KontextCompare"]
    return node.execute(**inputs)


def test_a_batch_of_candidates(pack: Any, image: Any, temp: Path) -> None:
    before = image(1, 40, 56)
    after = torch.cat([before, 1 - before])
    out = run(pack, before=before, after=after)
    heat, figures = out.args
    assert heat.shape == (2, 40, 56, 3)
    assert heat[0].eq(0).all() and heat[1].gt(0).any()
    first, second = figures.split("\n")
    assert first == "whole: identical" and second.startswith("whole: PSNR")
    pairs = out.ui["kontext_compare"]
    assert [pair["said"] for pair in pairs] == [first, second]
    # The one picture before is written once.
    assert pairs[0]["before"] == pairs[1]["before"]
    for pair in pairs:
        for name in ("before", "after", "difference"):
            file = pair[name]
            assert file["type"] == "temp"
            with Image.open(temp / file["subfolder"] / file["filename"]) as written:
                assert written.size == (56, 40)
    assert pairs[1]["figures"]["whole"]["changed"] > 0.9
    assert pairs[1]["figures"]["inside"] is None


def test_with_a_mask(pack: Any, image: Any, temp: Path) -> None:
    before = image(1, 40, 56)
    after = before.clone()
    after[:, :20] = 1 - after[:, :20]
    mask = torch.zeros(1, 40, 56)
    mask[:, :20] = 1
    out = run(pack, before=before, after=after, mask=mask)
    assert out.args[1].endswith("outside: identical")


def test_other_shapes_are_refused(pack: Any, image: Any) -> None:
    with pytest.raises(pack.error("InputError"), match="another shape"):
        run(pack, before=image(1, 40, 56), after=image(1, 56, 40))
