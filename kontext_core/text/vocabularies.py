"""The two tokenizers behind FLUX.1's encoders, built from the vocabularies shipped with the package.

Texts to ids, without end tokens, padding or weights; those are in `rows`. The `tokenizers` package
is imported on first use.
"""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CheckpointError, InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FOLDER = Path(__file__).resolve().parent.parent / "assets" / "tokenizers"
T5_PAD, T5_END, T5_VOCABULARY = 0, 1, 32100
CLIP_START, CLIP_END, CLIP_VOCABULARY = 49406, 49407, 49408
# Words of CLIP (Radford et al. 2021, simple_tokenizer.py): contractions, letters, one digit, signs.
CLIP_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


def t5_ids(text: str) -> list[int]:
    """T5's pieces of a text, 0..32099. White space at the ends and repeated is lost.

    Raises:
        InputError: not a text.
    """
    return _encode(t5_tokenizer(), text)


def clip_ids(text: str) -> list[int]:
    """CLIP's byte pairs of a text, lower-cased, 0..49407.

    Raises:
        InputError: not a text.
    """
    return _encode(clip_tokenizer(), text)


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    if not isinstance(text, str):
        raise InputError(f"expected a text, got {text!r}; give a prompt as a string")
    # Half a surrogate pair is no Unicode text, but JSON and file names can carry one.
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return tokenizer.encode(whole, add_special_tokens=False).ids


@cache
def t5_tokenizer() -> Tokenizer:
    """T5 v1.1's unigram model (32,100 pieces)."""
    from tokenizers import Tokenizer

    return Tokenizer.from_str(_read("t5.json.gz"))


@cache
def clip_tokenizer() -> Tokenizer:
    """CLIP's byte-pair model: the vocabulary follows from the order of the merges."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

    merges = [
        (left, right)
        for left, _, right in (
            line.partition(" ") for line in _read("clip_merges.txt.gz").split("\n")
        )
        if right
    ]
    letters = byte_letters()
    words = [*letters, *(letter + "</w>" for letter in letters)]
    words += [left + right for left, right in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={word: place for place, word in enumerate(words)},
            merges=merges,
            unk_token="<|endoftext|>",
            end_of_word_suffix="</w>",
        )
    )
    # Stubs of `tokenizers` lack the assignable properties.
    pipeline: dict[str, object] = {
        "normalizer": normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        ),
        "pre_tokenizer": pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(CLIP_WORDS), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        ),
    }
    for name, part in pipeline.items():
        setattr(tokenizer, name, part)
    tokenizer.add_special_tokens(
        [
            AddedToken("<|startoftext|>", normalized=True, special=True),
            AddedToken("<|endoftext|>", normalized=False, special=True),
        ]
    )
    return tokenizer


def byte_letters() -> list[str]:
    """The letter for each byte in vocabulary order: printable ones are themselves, first.

    The other 68 bytes take the letters from U+0100 on (GPT-2's rule, which CLIP follows).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def _read(name: str) -> str:
    path = FOLDER / name
    try:
        return gzip.decompress(path.read_bytes()).decode("utf-8")
    except (OSError, EOFError, ValueError) as error:
        raise CheckpointError(
            f"{path}: can't read the vocabulary ({error}); it belongs to the package, install the "
            "package again"
        ) from error
