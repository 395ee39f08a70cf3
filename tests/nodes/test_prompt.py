"""Kontext: Prompt: phrases behind an instruction, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest


def made(pack: Any, instruction: str, *keep: str) -> str:
    out = pack.run(
        "KontextPrompt", instruction=instruction, **{f"keep_{name}": True for name in keep}
    )
    # What is sent is what is shown.
    assert out.ui["kontext_notes"] == ([out[0]] if out[0] else [])
    return out[0]


@pytest.mark.parametrize(
    "text", ["make it night", "  Make it night.\n", "'quoted', (weighted:1.2)"]
)
def test_without_phrases_it_is_the_instruction(pack: Any, text: str) -> None:
    assert made(pack, text) == text.strip()


def test_phrases_come_behind_in_one_sentence(pack: Any) -> None:
    assert made(pack, "Put her in a forest.", "face") == (
        "Put her in a forest, while keeping the same facial features, hairstyle and expression"
    )
    assert made(pack, "make it night", "rest", "framing", "pose") == (
        "make it night, while keeping the exact same position, scale and pose, the same camera angle, "
        "framing and perspective and everything else unchanged"
    )


def test_phrases_alone(pack: Any) -> None:
    assert made(pack, " ", "background") == "Keep the same background"


def test_every_phrase_stands_in_its_tooltip(pack: Any) -> None:
    keep = pack.module("nodes.prompt").KEEP
    inputs = {each.id: each for each in pack.nodes["KontextPrompt"].GET_SCHEMA().inputs}
    for name, (phrase, _) in keep.items():
        assert f'"{phrase}"' in inputs[f"keep_{name}"].tooltip
        assert phrase in made(pack, "x", name)
