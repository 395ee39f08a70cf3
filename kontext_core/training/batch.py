"""Batches for the transformer: one step is a few groups of samples of equal shape.

A step's data depends only on (seed, step), so a run that was stopped goes on as if it had not
been. Text and reference dropout happen here, in the data, where they can be read.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.text import END, FIRST_BYTE, PAD, Tokenizer
from .patch_pca import PatchPCA
from .world.render import render
from .world.tasks import Sample, make_sample

__all__ = ["Group", "StepData", "encode_group", "token_ids"]

# (height, width) in pixels and how often; 64x64 is what most demonstrations use.
CANVASES: tuple[tuple[tuple[int, int], float], ...] = (
    ((64, 64), 0.82), ((64, 96), 0.06), ((96, 64), 0.06), ((80, 80), 0.04), ((96, 96), 0.02),
)  # fmt: skip

# References and samples in a step's groups.
GROUPS: tuple[tuple[int, int], ...] = ((0, 14), (1, 30), (2, 20))

FILLERS = ("please", "now", "just", "kindly", "hey", "nice", "very", "ok", "ein", "la", "?", "!")


@dataclass(frozen=True)
class Group:
    """Samples of equal shape: ids [b, l], target [b, 16, h, w], references, all model space."""

    ids: Tensor
    target: Tensor
    references: list[Tensor]


def token_ids(
    tokenizer: Tokenizer, texts: Sequence[str], min_length: int, rng: random.Random | None = None
) -> Tensor:
    """Padded ids [b, l]. With `rng`, now and then a word is spelled in bytes or a filler slips in.

    So bytes get trained, and words from outside the world do little harm.
    """
    rows = []
    for text in texts:
        row = tokenizer.ids(text)
        if rng is not None and text and rng.random() < 0.06:
            row = _disturbed(tokenizer, text, rng)
        rows.append(row)
    length = max(min_length, *(len(row) for row in rows))
    return torch.tensor([row + [PAD] * (length - len(row)) for row in rows])


def _disturbed(tokenizer: Tokenizer, text: str, rng: random.Random) -> list[int]:
    words = text.split(" ")
    index = rng.randrange(len(words))
    if rng.random() < 0.5:
        words.insert(index, rng.choice(FILLERS))
        return tokenizer.ids(" ".join(words))
    before, after = (
        tokenizer.ids(" ".join(part))[:-1] for part in (words[:index], words[index + 1 :])
    )
    return [*before, *(FIRST_BYTE + byte for byte in words[index].encode()), *after, END]


def encode_group(
    samples: Sequence[Sample], pca: PatchPCA, height: int, width: int
) -> tuple[Tensor, list[Tensor]]:
    """Target and reference latents of samples with equally many references."""
    scenes = [sample.target for sample in samples]
    count = len(samples[0].references)
    for i in range(count):
        scenes += [sample.references[i] for sample in samples]
    latents = pca.encode(render(scenes, height, width) * 2 - 1)
    target, *references = latents.split(len(samples))
    return target, references


class StepData(torch.utils.data.Dataset[list[Group]]):
    """Map-style: item n is the data of step n.

    Args:
        pca: pictures to latents.
        tokenizer, min_length: of the text encoder.
        seed: of the run.
        text_dropout: share of samples whose instruction is empty.
        reference_dropout: share of groups that lose all references.
        groups: (number of references, samples) of each group of a step.
    """

    def __init__(
        self,
        pca: PatchPCA,
        tokenizer: Tokenizer,
        min_length: int,
        *,
        seed: int = 0,
        text_dropout: float = 0.1,
        reference_dropout: float = 0.03,
        groups: Sequence[tuple[int, int]] = GROUPS,
    ) -> None:
        self.groups = tuple(groups)
        self.pca, self.tokenizer, self.min_length = pca, tokenizer, min_length
        self.seed = seed
        self.text_dropout, self.reference_dropout = text_dropout, reference_dropout

    def __getitem__(self, step: int) -> list[Group]:
        rng = random.Random(f"{self.seed}/{step}")
        groups = []
        for references, count in self.groups:
            (height, width) = rng.choices(*zip(*CANVASES, strict=True))[0]
            samples = [make_sample(rng, references=references) for _ in range(count)]
            target, latents = encode_group(samples, self.pca, height, width)
            if rng.random() < self.reference_dropout:
                latents = []
            texts = ["" if rng.random() < self.text_dropout else s.prompt for s in samples]
            ids = token_ids(self.tokenizer, texts, self.min_length, rng)
            groups.append(Group(ids, target, latents))
        return groups
