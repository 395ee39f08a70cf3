"""Training data: groups of samples of equal shape, drawn in shards that are used several times.

A shard depends only on (seed, number) and a step only on its shards and its own number, so a run
that was stopped goes on as if it had not been. Drawing costs more than a fifth of a training step
on one core; a sample is therefore visited `USES` times, each time with new noise, timestep and
dropout.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor

from kontext_core.models.text import END, FIRST_BYTE, PAD, Tokenizer

from ..world.render import label_maps, render
from ..world.sample import Sample
from ..world.tasks import TASKS, make_sample
from ..world.thing import Scene
from .patch_pca import PatchPCA

Size = tuple[int, int]

SQUARE: Size = (64, 64)
# (height, width) in pixels of everything that isn't square: places lie on the grid there as well.
OBLONG: tuple[Size, ...] = ((64, 96), (96, 64))
# How many samples stand off the grid of places, and how many things of pictures to be edited wear
# a colour that has no name, so that what is kept has to be copied rather than recognised.
OFF_GRID = 0.15
UNNAMED = 0.25


@dataclass(frozen=True)
class Plan:
    """Samples that every step has.

    Attributes:
        references: pictures every sample has.
        count: samples.
        oblong: the target is not square.
        own_sizes: only tasks whose references may have another size than the target, each
            reference with a size of its own.
    """

    references: int
    count: int
    oblong: bool = False
    own_sizes: bool = False


PART = 30  # samples of one group, about

PLANS = (
    Plan(0, 20),
    Plan(1, 58),
    Plan(2, 10),
    Plan(0, 2, oblong=True),
    Plan(1, 3, oblong=True),
    Plan(1, 2, oblong=True, own_sizes=True),
    Plan(2, 2, oblong=True, own_sizes=True),
)

USES = 3
STEPS = 16  # of one shard


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
    target: Tensor,
    kind: Tensor,
    reference: Tensor | None = None,
    reference_kind: Tensor | None = None,
    emphasis: float = 2.0,
) -> Tensor:
    """Weights [b, n], mean 1 in each sample, larger by `1 + emphasis` where something is or changes.

    Everything that stands in the target or in a reference at the same place counts alike, whether
    the edit changes it or keeps it. Weighing only what changes would give the answer away: told to
    remove one of two things, a model that can't tell which does best to take both.

    Args:
        target, reference: [b, 16, h, w]; reference None where its places aren't the target's.
        kind, reference_kind: [b, n, 4] cell labels, 0 for background.
    """
    busy = (kind > 0).any(-1)
    if reference is not None and reference.shape == target.shape:
        changed = (target - reference).square().mean(1) > 0.01
        busy |= _cells(changed).any(-1)
        if reference_kind is not None:
            busy |= (reference_kind > 0).any(-1)
    weight = 1 + emphasis * busy.float()
    return weight / weight.mean(1, keepdim=True)


# Tasks whose answer has everything where the reference has it.
ALIGNED = frozenset(
    name for name, task in TASKS.items() if task.category in ("local", "text", "box", "global")
)


class ShardData(torch.utils.data.Dataset[list[list[Group]]]):
    """Map-style: item k is shard k, `steps` lists of groups.

    Args:
        pca: pictures to latents.
        tokenizer, min_length: of the text encoder.
        seed: of the run.
        plans: the samples of a step.
        scale: multiplies every plan's samples (larger steps on a larger machine).
        steps: of one shard.
        off_grid, unnamed: see `OFF_GRID`, `UNNAMED`.
    """

    def __init__(
        self, pca: PatchPCA, tokenizer: Tokenizer, min_length: int, *, seed: int = 0,
        plans: Sequence[Plan] = PLANS, scale: float = 1.0, steps: int = STEPS,
        off_grid: float = OFF_GRID, unnamed: float = UNNAMED,
    ) -> None:  # fmt: skip
        self.plans = [replace(plan, count=max(1, round(plan.count * scale))) for plan in plans]
        self.part = max(1, round(PART * max(1.0, scale)))
        self.pca, self.tokenizer, self.min_length = pca, tokenizer, min_length
        self.seed, self.steps = seed, steps
        self.off_grid, self.unnamed = off_grid, unnamed

    def __getitem__(self, number: int) -> list[list[Group]]:
        rng = random.Random(f"{self.seed}/{number}")
        steps: list[list[Group]] = [[] for _ in range(self.steps)]
        for plan in self.plans:
            groups = self._groups(plan, rng)
            rng.shuffle(groups)
            first = rng.randrange(self.steps)
            for i, group in enumerate(groups):
                steps[(first + i) % self.steps].append(group)
        return steps

    def _groups(self, plan: Plan, rng: random.Random) -> list[Group]:
        """A plan's samples of all steps, in groups by length of text: short texts need no padding.

        As many groups for every step; the few oblong samples come together in some steps only.
        """
        free = True if plan.own_sizes else None
        samples = [
            make_sample(
                rng, references=plan.references, free_canvas=free,
                off_grid=rng.random() < self.off_grid, unnamed=self.unnamed,
            )
            for _ in range(plan.count * self.steps)
        ]  # fmt: skip
        samples.sort(key=lambda sample: len(sample.prompt))
        each = round(plan.count / self.part) or int(not plan.oblong)
        count = each * self.steps or max(1, round(len(samples) / self.part))
        ends = [len(samples) * i // count for i in range(count + 1)]
        return [self._group(samples[a:b], plan, rng) for a, b in zip(ends, ends[1:], strict=False)]

    def _group(self, samples: list[Sample], plan: Plan, rng: random.Random) -> Group:
        size = rng.choice(OBLONG) if plan.oblong else SQUARE
        sizes = [size] * plan.references
        if plan.own_sizes:
            sizes = [rng.choice((SQUARE, *OBLONG)) for _ in sizes]
        target, references = encode_group(samples, self.pca, size, sizes)
        kind, colour = map(_cells, label_maps([sample.target for sample in samples], *size))
        weight = token_weights(target, kind)
        aligned = torch.tensor([sample.task in ALIGNED for sample in samples])
        if plan.references == 1 and bool(aligned.any()) and sizes[0] == size:
            before = _cells(label_maps([sample.references[0] for sample in samples], *size)[0])
            fair = token_weights(target, kind, references[0], before)
            weight = torch.where(aligned[:, None], fair, weight)
        ids = token_ids(self.tokenizer, [s.prompt for s in samples], self.min_length, rng)
        return Group(ids, target, references, kind, colour, weight)


def schedule(step: int, steps: int = STEPS, uses: int = USES) -> tuple[int, int]:
    """(shard, which of its steps) that training step `step` visits.

    `uses` shards are alive at any time and visited in turn; a new one takes the oldest one's place
    after all `steps` of each were visited.
    """
    age, place = divmod(step, steps * uses)
    index, turn = divmod(place, uses)
    # Each visit in another order, by a fixed stride.
    return max(0, age - turn), (index * 5 + 7 * turn) % steps


def shards_of(first: int, last: int, steps: int = STEPS, uses: int = USES) -> range:
    """Numbers of the shards that training steps `first` to `last` visit, in the order needed."""
    return range(max(0, first // (steps * uses) - uses + 1), (last - 1) // (steps * uses) + 1)


def step_groups(
    shards: Iterator[list[list[Group]]], first: int, last: int, steps: int = STEPS, uses: int = USES
) -> Iterator[list[Group]]:
    """The groups of training steps `first` to `last`, from the shards that `shards_of` lists."""
    alive: dict[int, list[list[Group]]] = {}
    numbers = iter(shards_of(first, last, steps, uses))
    for step in range(first, last):
        number, index = schedule(step, steps, uses)
        while number not in alive:
            alive[next(numbers)] = next(shards)
        yield alive[number][index]
        for old in [n for n in alive if n <= step // (steps * uses) - uses]:
            del alive[old]


def dropped(
    group: Group, generator: torch.Generator, texts: float = 0.06, references: float = 0.02
) -> Group:
    """The group with a share of its instructions empty, or now and then without its references."""
    gone = torch.rand(len(group.ids), generator=generator) < texts
    ids = group.ids.clone()
    ids[gone] = PAD
    ids[gone, 0] = END
    blind = bool(torch.rand(1, generator=generator) < references)
    return replace(group, ids=ids, references=[] if blind else group.references)
