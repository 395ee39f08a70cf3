"""The embedded text encoder: takes any text, minds the order, ignores its batch."""

from __future__ import annotations

import logging

import pytest
import torch
from small_models import WORDS

from kontext_core import CheckpointError, InputError, TextEncoder
from kontext_core.config import TextEncoderParams
from kontext_core.models.text import END, FIRST_WORD, PAD, Tokenizer

ODD_TEXTS = [
    "",
    "   \n\t ",
    "zzz qqq",
    "把红星放在蓝色背景上",
    "ضع النجمة",
    "🦊🦊👩‍👩‍👧",
    "\x00\x1b[31m",
    "e\u0301é",
    "İ ß ﬃ",
    "\ud800",
    "a" * 5000,
    "star " * 5000,
    "?!.,;:'\"()[]{}<>|\\/",
]


def test_words_bytes_and_end() -> None:
    tokenizer = Tokenizer(WORDS)
    word = {w: FIRST_WORD + i for i, w in enumerate(WORDS)}
    assert len(tokenizer) == FIRST_WORD + len(WORDS)
    expected = [word["put"], word["the"], word["red"], word["star"], word["."], END]
    assert tokenizer.ids("Put the RED star.") == expected
    assert tokenizer.ids("é") == [2 + 0xC3, 2 + 0xA9, END]
    assert tokenizer.ids("") == [END]


@pytest.mark.parametrize("text", ODD_TEXTS, ids=lambda text: ascii(text[:12]))
def test_any_text(text: str, small_text_encoder: TextEncoder) -> None:
    ids = small_text_encoder.tokenize([text])
    params = small_text_encoder.params
    assert ids.dtype == torch.int64
    assert params.min_length <= ids.shape[1] <= params.max_length
    assert 0 <= ids.min() and ids.max() < params.vocab_size
    assert (ids == END).sum() == 1
    txt, vec = small_text_encoder.encode([text])
    assert txt.shape == (1, ids.shape[1], 40) and vec.shape == (1, 24)
    assert torch.isfinite(txt).all() and torch.isfinite(vec).all()
    assert not txt.requires_grad


def test_a_cut_is_logged(small_text_encoder: TextEncoder, caplog) -> None:
    with caplog.at_level(logging.WARNING, logger="kontext_core"):
        ids = small_text_encoder.tokenize(["star " * 60])
    assert ids.shape == (1, 48) and ids[0, -1] == END
    assert "61 tokens cut to the encoder's 48" in caplog.text


def test_order_counts(small_text_encoder: TextEncoder) -> None:
    """Flux itself sees text as a set: the same words in another order must be another set."""
    texts = ["put the red star on the blue circle", "put the blue star on the red circle"]
    (first, second), vec = small_text_encoder.encode(texts)
    ids = small_text_encoder.tokenize(texts)
    assert sorted(ids[0].tolist()) == sorted(ids[1].tolist())
    real = int((ids[0] != PAD).sum())
    distances = torch.cdist(first[:real], second[:real]).min(dim=1).values
    # A set encoder would give 0; measured: 2.2 in the mean, between features about 4.5 apart.
    assert distances.mean() > 0.1
    assert (vec[0] - vec[1]).abs().max() > 1e-2


def test_position_counts(small_text_encoder: TextEncoder) -> None:
    """A word between the same neighbours is told apart by where it stands."""
    txt, _ = small_text_encoder.encode(["star " * 8])
    distances = torch.cdist(txt[0, 1:7], txt[0, 1:7]) + torch.eye(6) * 100
    # Measured: 1.1 between the nearest two.
    assert distances.min() > 0.05


@pytest.mark.parametrize(
    "text",
    ["red star", "put the red star on the blue circle .", "star " * 11, "star " * 14, "🦊" * 5],
)
def test_the_batch_does_not_matter(text: str, small_text_encoder: TextEncoder) -> None:
    """The same text alone and beside a longer one, also where it fills the shortest length."""
    alone, vec = small_text_encoder.encode([text])
    both, vecs = small_text_encoder.encode([text, "blue circle under image two . " * 5])
    assert both.shape[1] > alone.shape[1]
    real = int((small_text_encoder.tokenize([text]) != PAD).sum())
    # Measured: 1.7e-6 on features of order one.
    assert (alone[0, :real] - both[0, :real]).abs().max() < 2e-5
    assert (vec[0] - vecs[0]).abs().max() < 2e-5


def test_not_a_list(small_text_encoder: TextEncoder) -> None:
    for texts in ("red star", []):
        with pytest.raises(InputError, match="expected a list of texts"):
            small_text_encoder.tokenize(texts)


def test_vocabulary_has_to_fit() -> None:
    with pytest.raises(CheckpointError, match="lists a word twice"):
        Tokenizer(["red", "red"])
    with pytest.raises(CheckpointError, match="vocab_size is 259, but its vocabulary makes 260"):
        TextEncoder(TextEncoderParams(vocab_size=259), ["red", "blue"])
