"""Weights in brackets are read as ComfyUI reads them; expected values were taken from ComfyUI."""

from __future__ import annotations

import pytest

from kontext_core.text.prompt import weighted_parts

CASES: list[tuple[str, list[tuple[str, float]]]] = [
    ("", []),
    ("a red cat", [("a red cat", 1.0)]),
    ("a (red) cat", [("a ", 1.0), ("red", 1.1), (" cat", 1.0)]),
    ("a (red:1.3) cat", [("a ", 1.0), ("red", 1.3), (" cat", 1.0)]),
    ("((very)) bright", [("very", 1.1 * 1.1), (" bright", 1.0)]),
    # A number stands for itself, and brackets inside multiply it.
    ("((a:1.2):1.5)", [("a", 1.2)]),
    ("(a (b) c:1.3)", [("a ", 1.3), ("b", 1.3 * 1.1), (" c", 1.3)]),
    ("(a:-1)(b:0)", [("a", -1.0), ("b", 0.0)]),
    ("(a: 1e1 )", [("a", 10.0)]),
    ("(a:b:0.5)", [("a:b", 0.5)]),
    # No number, or nothing before it.
    ("(a:)", [("a:", 1.1)]),
    ("(:1.2)", [(":1.2", 1.1)]),
    ("()", []),
    # Escaped.
    (r"\(plain\) (x\):1.2)", [("(plain) ", 1.0), ("x)", 1.2)]),
    (r"\\(y\\)", [("\\(y\\)", 1.0)]),
    # Brackets that do not pair up.
    ("(unclosed", [("(unclosed", 1.0)]),
    ("(a (b)", [("a ", 1.1), ("(b", 1.1)]),
    ("a) b (c)", [("a) b (c)", 1.0)]),
    ("a)((b)", [("a)(", 1.0), ("b", 1.1)]),
]


@pytest.mark.parametrize(("text", "expected"), CASES, ids=[text for text, _ in CASES])
def test_weights(text: str, expected: list[tuple[str, float]]) -> None:
    assert weighted_parts(text) == expected


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "infinity"])
def test_words_that_python_takes_for_numbers(number: str) -> None:
    """ComfyUI takes these as weights and gives black pictures; here they are words."""
    assert weighted_parts(f"(a:{number})") == [(f"a:{number}", 1.1)]


@pytest.mark.parametrize("text", ["(" * 100_000, ")" * 100_000, "(" * 5000 + "a" + ")" * 5000])
def test_deep_brackets_end(text: str) -> None:
    """No recursion limit, and nothing is lost but brackets."""
    parts = weighted_parts(text)
    assert "".join(piece for piece, _ in parts).count("a") == text.count("a")
