"""docs/formats.md names a test for every line it promises; help pages have their pictures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/formats.md").read_text(encoding="utf-8")
HELP = sorted((ROOT / "web/docs").glob("*.md"))
# That they are there: tests/publishing/test_documents.py.
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)))


def test_every_line_of_a_table_with_tests_names_one() -> None:
    with_tests = False
    for line in PAGE.splitlines():
        if not line.startswith("|"):
            with_tests = False
        elif line.rstrip().endswith("| test |"):
            with_tests = True
        elif with_tests and not line.startswith("|---"):
            assert "`tests/" in line.rpartition(" | ")[2], line
    assert len(NAMED) > 40


@pytest.mark.parametrize("page", HELP, ids=lambda path: path.stem)
def test_a_help_page_shows_a_picture_of_a_small_graph(page: Path) -> None:
    """tools/help_pictures.py takes them; the editor shows what lies beside its pages."""
    graph = page.read_text(encoding="utf-8").partition("## Typical graph")[2]
    [(alternative, address)] = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", graph)
    assert alternative
    assert address == f"images/{page.stem}.png"
    picture = page.parent / address
    # Measured: 8 to 20 KB.
    assert picture.stat().st_size < 60_000
    with Image.open(picture) as opened:
        assert opened.format == "PNG"
        assert 300 <= opened.width <= 1200
        assert 150 <= opened.height <= 1000


def test_no_picture_of_a_help_page_is_left_over() -> None:
    pictures = {path.stem for path in (ROOT / "web/docs/images").iterdir()}
    assert pictures == {path.stem for path in HELP}


def test_people_find_the_nodes_by_their_own_words(pack: Any) -> None:
    """Search aliases hold what a person would type who does not know the nodes' names."""
    found = {alias for node in pack.nodes.values() for alias in node.GET_SCHEMA().search_aliases}
    wanted = {"kontext", "flux edit", "reference image", "multi image", "stitch", "gguf", "lora"}
    wanted |= {"two images", "combine images", "inpaint", "edit image"}
    assert wanted <= found
    for node_id, node in pack.nodes.items():
        assert len(node.GET_SCHEMA().search_aliases) >= 3, node_id
