"""Documents name only what exists: files of this tree, and names that some source file has."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "kontext_lab/recipes/README.md")),
    ROOT / "kontext_core/assets/tiny/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
SOURCES = (
    "kontext_core",
    "kontext_lab",
    "nodes",
    "standalone",
    "tests",
    "tools",
    "web",
    "benchmarks",
)
QUOTED = re.compile(r"`([^`\s]+)`")
PATH = re.compile(r"[\w.-]+(/[\w.-]+)*/?")
NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(\(\))?")
# Named because they are not there, or are somebody else's.
ELSEWHERE = {"utils.py", "adapter_config.json"}


@cache
def files() -> frozenset[str]:
    return frozenset(
        path.name for top in SOURCES for path in (ROOT / top).rglob("*") if path.is_file()
    )


@cache
def words() -> frozenset[str]:
    """Every identifier of the sources and of the project's own settings."""
    paths = [
        path for top in SOURCES for path in (ROOT / top).rglob("*")
        if path.suffix in (".py", ".js", ".json", ".css", ".sh")
    ]  # fmt: skip
    paths += [ROOT / name for name in ("pyproject.toml", "Makefile", "__init__.py", ".ci/run")]
    paths += (ROOT / ".github").rglob("*.yml")
    found: set[str] = set()
    for path in paths:
        found |= set(re.findall(r"\w+", path.read_text(encoding="utf-8", errors="replace")))
    return frozenset(found)


def quoted(document: Path) -> list[str]:
    return QUOTED.findall(document.read_text(encoding="utf-8"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_a_document_names_are_there(document: Path) -> None:
    missing = []
    for token in quoted(document):
        if not PATH.fullmatch(token) or token in ELSEWHERE:
            continue
        top = token.split("/")[0]
        if "/" in token and top in SOURCES and not (ROOT / token).exists():
            missing.append(token)
        if "/" not in token and token.endswith((".py", ".js")) and token not in files():
            missing.append(token)
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_that_a_document_uses_are_in_the_sources(document: Path) -> None:
    """Names with an underscore or a capital inside; plain words may mean anything."""
    missing = [
        token
        for token in quoted(document)
        if NAME.fullmatch(token)
        and re.search(r"_|[a-z][A-Z]", token)
        and token.removesuffix("()").rsplit(".", 1)[-1] not in words()
    ]
    assert not missing
