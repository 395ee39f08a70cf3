"""docs/formats.md names a test for every line it promises, and those tests exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/formats.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)))


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_a_named_test_is_there(file: str, test: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    assert not test or re.search(rf"^def {test}\(", text, re.MULTILINE), f"{file} has no {test}"


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
