"""The pair of encoders: ComfyUI's features on the same random weights, weights, padding, batches."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from small_encoders import make_clip, make_pair, make_t5

from kontext_core import CheckpointError, InputError
from kontext_core.text.pair import FluxTextEncoders
from kontext_core.text.rows import Token

# prompt, its number of tokens, features 0..2 of tokens 1, 2, 3, 8 and the last, pooled 0..3: from
# ComfyUI 0.33.0's FluxClipModel and FluxTokenizer (0.3.64 gives the same) with make_pair(0)'s weights.
HOST: list[tuple[str, int, list[list[float]], list[float]]] = [
    (
        "Put the (red:1.3) star on (the blue:0.5) circle",
        256,
        [
            [0.40104, -0.66463, -0.41502],
            [0.73956, -0.97912, -0.31439],
            [0.66565, -0.37755, -0.36817],
            [0.49857, -0.42195, -0.34679],
            [0.05602, -0.70372, -0.07722],
        ],
        [1.04619, 1.31011, -0.494, -0.08833],
    ),
    (
        "word " * 300,
        301,
        [
            [-0.38204, -0.40786, 0.02555],
            [-0.38204, -0.40786, 0.02555],
            [-0.38205, -0.40786, 0.02555],
            [-0.38206, -0.40785, 0.02555],
            [-0.63913, -0.35466, 0.06258],
        ],
        [0.21074, 0.05228, -0.61355, 0.23324],
    ),
    (
        "tree " * 74 + "(one two three:1.2) end <|endoftext|> x",
        256,
        [
            [1.12481, -1.27413, 0.07085],
            [1.12343, -1.27338, 0.07183],
            [1.12248, -1.27105, 0.07317],
            [1.12457, -1.26069, 0.07452],
            [1.25824, -1.45188, -0.64786],
        ],
        [-1.82632, -0.10054, 0.39967, -0.901],
    ),
]


@pytest.fixture(scope="module")
def pair() -> FluxTextEncoders:
    return make_pair(0)


@pytest.mark.parametrize(
    ("text", "length", "txt", "vec"), HOST, ids=["weights", "long", "two rows"]
)
def test_features_are_comfyuis(
    text: str, length: int, txt: list[list[float]], vec: list[float], pair: FluxTextEncoders
) -> None:
    got, pooled = pair.encode([text])
    assert got.shape == (1, length, 64) and pooled.shape == (1, 128)
    # Of all features together, not only these: measured at most 1.7e-5 for T5, 1.6e-6 for CLIP.
    wanted = torch.tensor(txt)
    torch.testing.assert_close(got[0, [1, 2, 3, 8, -1], :3], wanted, atol=1e-4, rtol=0)
    torch.testing.assert_close(pooled[0, :4], torch.tensor(vec), atol=2e-5, rtol=0)


@pytest.mark.parametrize("text", ["", "a cat", "a (cat:0.7)", "word " * 300])
def test_halves_are_encode(text: str, pair: FluxTextEncoders) -> None:
    halves = pair.halves(text)
    assert set(halves) == {"l", "t5xxl"}
    got = pair.encode_halves(halves)
    for one, other in zip(got, pair.encode([text]), strict=True):
        assert torch.equal(one, other)
    ids = pair.tokenize([text])
    assert ids.tolist() == [[token.id for token in halves["t5xxl"][0]]]


def test_weights_move_along_the_line_from_the_empty_prompt(pair: FluxTextEncoders) -> None:
    plain, empty = pair.encode(["red cat"])[0], pair.encode([""])[0]
    ids = pair.tokenize(["red cat"])[0].tolist()
    row = [Token(number, 1.5 if place == 0 else 1.0) for place, number in enumerate(ids)]
    with torch.no_grad():
        got = pair.encode_t5([row])
    # Measured 0; other builds of torch may round batches of one and of two differently.
    torch.testing.assert_close(got[:, 1:], plain[:, 1:], atol=1e-5, rtol=0)
    moved = empty[:, :1] + 1.5 * (plain[:, :1] - empty[:, :1])
    torch.testing.assert_close(got[:, :1], moved, atol=1e-5, rtol=0)
    assert (got[:, :1] - plain[:, :1]).abs().max() > 0.1


def test_the_pooled_feature_has_no_weights(pair: FluxTextEncoders) -> None:
    halves = pair.halves("(cat:1.7)")
    unweighted = {"t5xxl": halves["t5xxl"], "l": [[Token(t.id) for t in halves["l"][0]]]}
    assert torch.equal(pair.encode_halves(halves)[1], pair.encode_halves(unweighted)[1])


def test_the_halves_stand_alone(pair: FluxTextEncoders) -> None:
    """CLIP Text Encode (Flux) joins one half of each of two prompts."""
    one, other = pair.halves("a cat"), pair.halves("a big dog")
    txt, vec = pair.encode_halves({"l": one["l"], "t5xxl": other["t5xxl"]})
    assert torch.equal(vec, pair.encode(["a cat"])[1])
    assert torch.equal(txt, pair.encode(["a big dog"])[0])
    assert not torch.equal(vec, pair.encode(["a big dog"])[1])


def test_plain_tuples_and_several_rows(pair: FluxTextEncoders) -> None:
    tokens = {"l": [[(49406, 1.0), (49407, 1.0)]], "t5xxl": [[(9, 1.0), (1, 1.0)], [(1, 1.2)]]}
    txt, vec = pair.encode_halves(tokens)
    assert txt.shape == (1, 3, 64) and vec.shape == (1, 128)


def test_padding_counts(pair: FluxTextEncoders) -> None:
    """No attention mask: another padding is another picture. That is why there is a choice."""
    published = make_pair(0, max_length=512)
    txt, vec = published.encode(["a cat"])
    assert txt.shape == (1, 512, 64)
    host_txt, host_vec = pair.encode(["a cat"])
    assert (txt[:, :256] - host_txt).abs().max() > 0.01
    assert torch.equal(vec, host_vec)
    assert published.encode(["word " * 600])[0].shape == (1, 512, 64)
    assert published.halves("word " * 600)["l"] == pair.halves("word " * 600)["l"][:1]


def test_a_batch(pair: FluxTextEncoders) -> None:
    texts = ["a cat", "a (red:1.4) dog", ""]
    txt, vec = pair.encode(texts)
    assert txt.shape == (3, 256, 64) and vec.shape == (3, 128)
    for place, text in enumerate(texts):
        alone = pair.encode([text])
        # Measured 0; other builds of torch may order sums differently in batches.
        torch.testing.assert_close(txt[place], alone[0][0], atol=2e-5, rtol=0)
        torch.testing.assert_close(vec[place], alone[1][0], atol=2e-5, rtol=0)
    assert pair.encode(["a", "word " * 300])[0].shape == (2, 301, 64)


def test_without_weights() -> None:
    literal = make_pair(0, weights=False)
    assert {token.weight for token in literal.halves("(a:2)")["t5xxl"][0]} == {1.0}
    assert literal.halves("(a:2)", weights=True) == make_pair(0).halves("(a:2)")
    assert literal.halves("a cat") == make_pair(0).halves("a cat")


def test_tokenizer_options(pair: FluxTextEncoders) -> None:
    """ComfyUI's T5TokenizerOptions."""
    options = {"t5xxl_min_length": 300, "t5xxl_min_padding": 1, "clip_l_min_length": 5}
    halves = pair.halves("a cat", options=options)
    assert len(halves["t5xxl"][0]) == 300 and len(halves["l"][0]) == 77
    options = {"t5xxl_min_length": 0, "t5xxl_min_padding": 2}
    assert [token.id for token in pair.halves("", options=options)["t5xxl"][0]] == [1, 0, 0]


def test_textual_inversions_are_announced(
    pair: FluxTextEncoders, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        pair.halves("a cat by embedding:somebody")
    assert "textual inversions are not read" in caplog.text


def test_no_gradients(pair: FluxTextEncoders) -> None:
    assert not any(out.requires_grad for out in pair.encode(["a cat"]))


def test_half_precision() -> None:
    """bfloat16 and float16 networks run, and are near float32."""
    for dtype in (torch.bfloat16, torch.float16):
        pair = make_pair(0).to(dtype)
        txt, vec = pair.encode(["a (red:1.2) cat"])
        assert txt.dtype == vec.dtype == dtype
        wanted = make_pair(0).encode(["a (red:1.2) cat"])
        # Relative to the features' size; measured 0.011 and 0.009 in bfloat16, less in float16.
        assert (txt.float() - wanted[0]).norm() < 0.05 * wanted[0].norm()
        assert (vec.float() - wanted[1]).norm() < 0.03 * wanted[1].norm()


@pytest.mark.parametrize("texts", ["a cat", [], ()])
def test_no_list(texts: Any, pair: FluxTextEncoders) -> None:
    for call in (pair.encode, pair.tokenize):
        with pytest.raises(InputError, match="list of texts"):
            call(texts)


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ({"l": [[(49406, 1.0)]]}, "no half 't5xxl'"),
        ({"l": [], "t5xxl": [[(1, 1.0)]]}, "no half 'l'"),
        ({"l": [[]], "t5xxl": [[(1, 1.0)]]}, "no half 'l'"),
        ({"l": [[(49406, 1.0)]], "t5xxl": [[(torch.zeros(4096), 1.0)]]}, "embedding:"),
    ],
)
def test_foreign_tokens(tokens: Any, said: str, pair: FluxTextEncoders) -> None:
    with pytest.raises(InputError, match=said):
        pair.encode_halves(tokens)


def test_settings_and_networks_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="max_length is 77; expected 256"):
        make_pair(max_length=77)
    with pytest.raises(CheckpointError, match="the T5 network knows 1000 tokens"):
        FluxTextEncoders(make_t5(vocab_size=1000), make_clip())
    with pytest.raises(CheckpointError, match="the CLIP-L network knows 1000 tokens"):
        FluxTextEncoders(make_t5(), make_clip(vocab_size=1000))
