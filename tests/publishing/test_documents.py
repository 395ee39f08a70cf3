"""Documents name only what exists: paths, links, tests, commands, options and names in the code."""

from __future__ import annotations

from pathlib import Path

import pytest
from named import ROOT, gone

DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "kontext_lab/recipes/README.md",
    ROOT / "kontext_core/assets/tiny/README.md",
]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_document_names_only_what_exists(path: Path) -> None:
    assert gone(path.read_text(encoding="utf-8"), path.parent) == []


@pytest.mark.parametrize(
    "text",
    [
        "`kontext_core/gone.py`",
        "`models/gone.py`",
        "`gone.py`",
        "`kontext_core/gone/`",
        "`nodes/<node>.gone.py`",
        "[a link](docs/gone.md)",
        "`tests/core/test_tree.py::test_gone`",
        "`tests/core/test_gone.py::test_gone`",
        "`stitcher.gone`",
        "`Host.gone_in_host`",
        "`kontext_core.gone`",
        "`gone_everywhere`",
        "`gone_everywhere(x)`",
        # `_place` is defined, but in another file.
        "| ids | `kontext_core/stitcher.py`, `place` and `_place` |",
        "| batch | `standalone/batch/`: `columns` and `gone` |",
        "`make gone`",
        "`python -m kontext_core gone`",
        "`python -m kontext_lab train gone`",
        "`python -m gone`",
        "`--gone`",
        "`Kontext: Gone`",
        "```sh\npython -m standalone run workflows/api/gone.json\n```",
        "```sh\nmake gone\n```",
        "```python\nfrom kontext_core import gone\n```",
        "```\n  gone.py -> stitcher.py\n```",
        "```\n  gone/ -> nodes/\n```",
        "    python -m kontext_lab train gone\n",
    ],
)
def test_what_is_gone_is_found(text: str) -> None:
    found = gone(f"Before.\n\n{text}\n\nAfter.\n")
    assert len(found) == 1, found


def test_what_is_there_is_not_called_gone() -> None:
    text = (
        "| ids | `kontext_core/stitcher.py`, `place` and `_ids` | `models/rope.py` `rope_table` |\n\n"
        "`Host.check_interrupt`, `Flux.run_blocks`, `edit`, `Kontext: Sampler.steps`, `rope.py`"
    )
    assert gone(text) == []
