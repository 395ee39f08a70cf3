"""Token ids, splitting and padding, against ids that ComfyUI's own FLUX.1 tokenizer gave.

`host_tokens.json` was written by ComfyUI 0.33.0 (0.3.64 gives the same), both with transformers
5.23.0 and tokenizers 0.23.3. Padding at the end of a row is left out of it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import CLIPTokenizerFast  # type: ignore[attr-defined]

from kontext_core import InputError
from kontext_core.text import vocabularies
from kontext_core.text.rows import Token, clip_rows, empty_t5_row, t5_row
from kontext_core.text.vocabularies import clip_ids, t5_ids

HOST: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("host_tokens.json").read_text(encoding="utf-8")
)
ODD_TEXTS = ["\ud800", "a\udfff b", "\x00\x1b[31m", "🦊👩‍👩‍👧", "İ ß ﬃ", "a" * 5000, "\ufdd0"]


def expected_row(row: dict[str, Any], pad: int) -> list[Token]:
    weights = dict(map(tuple, row["weights"]))
    ids = zip(row["ids"], row["parts"], strict=True)
    tokens = [Token(number, weights.get(i, 1.0), part) for i, (number, part) in enumerate(ids)]
    return tokens + [Token(pad)] * (row["length"] - len(tokens))


@pytest.mark.parametrize("case", HOST, ids=lambda case: ascii(case["text"])[:40])
def test_rows_are_comfyuis(case: dict[str, Any]) -> None:
    assert clip_rows(case["text"]) == [expected_row(row, 49407) for row in case["l"]]
    assert [t5_row(case["text"])] == [expected_row(row, 0) for row in case["t5xxl"]]


def test_known_ids() -> None:
    assert t5_ids("a cat") == [3, 9, 1712]
    assert t5_ids("naïve café 東京") == [3, 29, 9, 2, 162, 11949, 3, 2]
    assert clip_ids("A cat don't 12") == [320, 2368, 847, 713, 272, 273]
    # Control tokens written out in a text are control tokens, as in ComfyUI.
    assert t5_ids("</s> <pad>") == [1, 0]
    assert clip_ids("<|endoftext|> a") == [49407, 320]


def test_vocabularies_are_whole() -> None:
    t5, clip = vocabularies.t5_tokenizer(), vocabularies.clip_tokenizer()
    assert t5.get_vocab_size() == 32100
    assert [t5.token_to_id(piece) for piece in ("<pad>", "</s>", "<unk>", "▁the")] == [0, 1, 2, 8]
    words = clip.get_vocab()
    assert sorted(words.values()) == list(range(49408))
    assert words["!"] == 0 and words["!</w>"] == 256 and words["jekyll</w>"] == 49405


@pytest.mark.parity
def test_clip_ids_are_transformers(tmp_path: Path) -> None:
    clip = vocabularies.clip_tokenizer()
    merges = [" ".join(pair) for pair in json.loads(clip.to_str())["model"]["merges"]]
    (tmp_path / "vocab.json").write_text(json.dumps(clip.get_vocab()), encoding="utf-8")
    text = "\n".join(["#version: 0.2", *merges])
    (tmp_path / "merges.txt").write_text(text, encoding="utf-8")
    oracle = CLIPTokenizerFast.from_pretrained(tmp_path)
    for case in HOST:
        assert clip_ids(case["text"]) == oracle(case["text"])["input_ids"][1:-1], case["text"]


def test_padding() -> None:
    """256 at least, as ComfyUI; nothing is cut unless asked."""
    assert len(t5_row("")) == 256 and [token.id for token in t5_row("")[:2]] == [1, 0]
    assert len(t5_row("tree " * 254)) == 256
    assert t5_row("tree " * 255)[-1] == Token(1)
    assert len(t5_row("tree " * 255)) == 256
    assert len(t5_row("tree " * 256)) == 257
    assert len(t5_row("a cat", min_length=0, min_padding=7)) == 3 + 1 + 7
    assert empty_t5_row(256) == t5_row("")


def test_cutting() -> None:
    """512 as BFL: the end token is kept, the text is not."""
    row = t5_row("tree " * 600, min_length=512, max_length=512)
    assert len(row) == 512 and row[-1] == Token(1) and row[-2].id == t5_ids("tree")[0]
    assert len(t5_row("a", min_length=512, max_length=512)) == 512
    rows = clip_rows("tree " * 100, cut=True)
    assert [len(row) for row in rows] == [77]
    assert rows[0] == clip_rows("tree " * 100)[0]
    # Words in brackets are cut like others there, and moved to the second row in ComfyUI.
    text = "tree " * 73 + "(one two three:1.2)"
    assert [token.weight for token in clip_rows(text, cut=True)[0]].count(1.2) == 2
    assert [token.weight for token in clip_rows(text)[0]].count(1.2) == 0


def test_long_clip() -> None:
    """248 positions make rows of 248."""
    assert [len(row) for row in clip_rows("tree " * 200, max_length=248)] == [248]


def test_without_weights() -> None:
    row = t5_row(r"\(a (b:1.3)", weights=False)
    assert {token.weight for token in row} == {1.0}
    assert [token.id for token in row if token.part] == t5_ids(r"\(a (b:1.3)")
    assert {token.weight for token in clip_rows("(b:1.3)", weights=False)[0]} == {1.0}


@pytest.mark.parametrize("text", ODD_TEXTS, ids=lambda text: ascii(text[:12]))
def test_any_text(text: str) -> None:
    row = t5_row(text)
    assert all(0 <= token.id < 32100 for token in row)
    rows = clip_rows(text)
    assert all(0 <= token.id < 49408 for row in rows for token in row)
    assert {len(row) for row in rows} == {77}


@pytest.mark.parametrize("text", [None, 3, b"a", ["a"]])
def test_no_text(text: Any) -> None:
    for make in (t5_row, clip_rows):
        for weights in (True, False):
            with pytest.raises(InputError, match="expected a text"):
                make(text, weights=weights)
