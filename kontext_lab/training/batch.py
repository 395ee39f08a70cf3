"""Batches for the transformer: one step is a few groups of samples of equal shape.

A step's data depends only on (seed, step), so a run that was stopped goes on as if it had not
been. Text and reference dropout happen here, in the data, where they can be read.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor

from kontext_core.models.text import END, FIRST_BYTE, PAD, Tokenizer

from ..world.render import label_maps, render
from ..world.scene import Scene
from ..world.tasks import Sample, make_sample
from .patch_pca import PatchPCA

__all__ = ["PLANS", "Group", "Plan", "StepData", "encode_group", "token_ids", "token_weights"]

Size = tuple[int, int]

# (height, width) in pixels and how often; 64x64 is what most demonstrations use.
CANVASES: tuple[tuple[Size, float], ...] = (
    ((64, 64), 0.80), ((64, 96), 0.08), ((96, 64), 0.08), ((80, 80), 0.04),
)  # fmt: skip
# Of references whose size is their own.
REFERENCE_CANVASES: tuple[tuple[Size, float], ...] = (
    ((64, 64), 0.5), ((64, 96), 0.14), ((96, 64), 0.14), ((48, 48), 0.12), ((80, 80), 0.1),
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """One group of a step.

    Attributes:
        references: pictures every sample has.
        count: samples.
        own_sizes: only tasks whose references may have another size than the target, and
            sizes that do differ.
    """

    references: int
    count: int
    own_sizes: bool = False


PART = 15  # samples of one group, about

PLANS = (
    Plan(0, 18),
    Plan(1, 44),
    Plan(1, 8, own_sizes=True),
    Plan(2, 18),
    Plan(2, 4, own_sizes=True),
)


@dataclass(frozen=True)
class Group:
    """Samples of equal shape.

    Attributes:
        ids: [b, l] token ids.
        target: [b, 16, h, w], model space.
        references: each [b, 16, h', w'], model space.
        kind, colour: [b, n, 4] labels of the 8x8 cells inside each of the n target tokens.
        weight: [b, n] of each target token in the loss, mean 1 in each sample.
    """

    ids: Tensor
    target: Tensor
    references: list[Tensor]
    kind: Tensor
    colour: Tensor
    weight: Tensor

    def to(self, device: torch.device) -> Group:
        """The same on a device."""
        return Group(
            self.ids.to(device), self.target.to(device),
            [reference.to(device) for reference in self.references],
            self.kind.to(device), self.colour.to(device), self.weight.to(device),
        )  # fmt: skip


def token_ids(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    min_length: int,
    rng: random.Random | None = None,
    share: float = 0.08,
) -> Tensor:
    """Padded ids [b, l]. With `rng`, that share of texts has a word spelled in bytes or one too many.

    So bytes get trained, and words from outside the world do little harm.
    """
    rows = []
    for text in texts:
        row = tokenizer.ids(text)
        if rng is not None and text and rng.random() < share:
            row = _disturbed(tokenizer, text, rng)
        rows.append(row)
    length = max(min_length, *(len(row) for row in rows))
    return torch.tensor([row + [PAD] * (length - len(row)) for row in rows])


_FILLERS = ("please", "now", "just", "kindly", "hey", "nice", "very", "ok", "ein", "la", "?", "!")


def _disturbed(tokenizer: Tokenizer, text: str, rng: random.Random) -> list[int]:
    words = text.split(" ")
    index = rng.randrange(len(words))
    if rng.random() < 0.5:
        words.insert(index, rng.choice(_FILLERS))
        return tokenizer.ids(" ".join(words))
    before, after = (
        tokenizer.ids(" ".join(part))[:-1] for part in (words[:index], words[index + 1 :])
    )
    return [*before, *(FIRST_BYTE + byte for byte in words[index].encode()), *after, END]


def _encode(scenes: Sequence[Scene], size: Size, pca: PatchPCA) -> Tensor:
    return pca.encode(render(scenes, *size) * 2 - 1)


def encode_group(
    samples: Sequence[Sample],
    pca: PatchPCA,
    size: Size,
    reference_sizes: Sequence[Size] | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Target and reference latents of samples with equally many references."""
    count = len(samples[0].references)
    sizes = [size] * count if reference_sizes is None else list(reference_sizes)
    target = _encode([sample.target for sample in samples], size, pca)
    references = [
        _encode([sample.references[i] for sample in samples], sizes[i], pca) for i in range(count)
    ]
    return target, references


def _cells(grid: Tensor) -> Tensor:
    """[b, h, w] values of latent cells as [b, tokens, 4], in the order of packed channels."""
    return rearrange(grid, "b (h p) (w q) -> b (h w) (p q)", p=2, q=2)


def token_weights(
    target: Tensor, reference: Tensor | None, kind: Tensor, emphasis: float = 5.0
) -> Tensor:
    """Weights [b, n], mean 1 in each sample, larger by `1 + emphasis` where something happens.

    Something happens where a thing is and where the target differs from a reference of the same
    size. Most of a local edit is a copy; without this its loss hardly sees the edit.

    Args:
        target, reference: [b, 16, h, w]; reference None or of another size is not compared.
        kind: [b, n, 4] cell labels, 0 for background.
    """
    busy = (kind > 0).any(-1)
    if reference is not None and reference.shape == target.shape:
        changed = (target - reference).square().mean(1) > 0.01
        busy = _cells(changed.float()).amax(-1) > 0
    weight = 1 + emphasis * busy.float()
    return weight / weight.mean(1, keepdim=True)


class StepData(torch.utils.data.Dataset[list[Group]]):
    """Map-style: item n is the data of step n.

    Args:
        pca: pictures to latents.
        tokenizer, min_length: of the text encoder.
        seed: of the run.
        text_dropout: share of samples whose instruction is empty.
        reference_dropout: share of groups that lose all references.
        plans: the groups of a step.
        scale: multiplies every group's samples (larger steps on a larger machine).
    """

    def __init__(
        self,
        pca: PatchPCA,
        tokenizer: Tokenizer,
        min_length: int,
        *,
        seed: int = 0,
        text_dropout: float = 0.1,
        reference_dropout: float = 0.02,
        plans: Sequence[Plan] = PLANS,
        scale: float = 1.0,
    ) -> None:
        self.plans = [replace(plan, count=max(1, round(plan.count * scale))) for plan in plans]
        self.pca, self.tokenizer, self.min_length = pca, tokenizer, min_length
        self.seed = seed
        self.text_dropout, self.reference_dropout = text_dropout, reference_dropout

    def __getitem__(self, step: int) -> list[Group]:
        rng = random.Random(f"{self.seed}/{step}")
        return [group for plan in self.plans for group in self._groups(plan, rng)]

    def _groups(self, plan: Plan, rng: random.Random) -> list[Group]:
        """A plan's samples in groups by length of text: short texts are not padded to the longest."""
        size = _draw(rng, CANVASES)
        free = True if plan.own_sizes else None
        samples = [
            make_sample(rng, references=plan.references, free_canvas=free)
            for _ in range(plan.count)
        ]
        sizes = None
        if plan.own_sizes:
            sizes = [_draw(rng, REFERENCE_CANVASES) for _ in range(plan.references)]
        blind = rng.random() < self.reference_dropout
        samples.sort(key=lambda sample: len(sample.prompt))
        parts = max(1, round(len(samples) / PART))
        ends = [len(samples) * i // parts for i in range(parts + 1)]
        return [
            self._group(samples[a:b], size, sizes, blind, rng)
            for a, b in zip(ends, ends[1:], strict=False)
        ]

    def _group(
        self, samples: list[Sample], size: Size, sizes: list[Size] | None, blind: bool,
        rng: random.Random,
    ) -> Group:  # fmt: skip
        target, references = encode_group(samples, self.pca, size, sizes)
        kind, colour = map(_cells, label_maps([sample.target for sample in samples], *size))
        single = references[0] if len(references) == 1 else None
        weight = token_weights(target, single, kind)
        if blind:
            references = []
        texts = ["" if rng.random() < self.text_dropout else s.prompt for s in samples]
        ids = token_ids(self.tokenizer, texts, self.min_length, rng)
        return Group(ids, target, references, kind, colour, weight)


def _draw(rng: random.Random, choices: Sequence[tuple[Size, float]]) -> Size:
    return rng.choices(*zip(*choices, strict=True))[0]
