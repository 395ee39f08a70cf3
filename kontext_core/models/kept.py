"""Keys and values of image tokens, kept from one step to later ones.

References are not noised, so what they say changes slowly from step to step: a step that takes their
keys and values from an earlier one computes text and target only. The same goes for those tokens of the
target that an edit leaves alone. With those of the same step it gives the same numbers.
Shapes: b batch, h heads, n tokens, d head size.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .stored import Pair, Stored


class KeptContext:
    """What one text's side of a run keeps: for every block keys and values [b, h, n, d], after norm and
    rotation. FLUX.1 takes 2.9 GB for a reference of 1024x1024 in 16 bits, twice that at order 1, and as
    much as once for the target.

    Args:
        order: of the references: 0 holds what the last computed step gave, 1 goes on in a line from the
            last two.
        bits: 16 keeps keys and values in the model's dtype, 8 rounds them, see `stored.Rows8`.

    A forward that is skipped after its first block leaves everything as it was. Else what it computes
    takes the place of what was kept, block by block, so that memory holds it once; of one that is stopped
    on its way nothing is kept.

    Attributes:
        now: timestep of the next forward, which order 1 needs.
        reuse: whether the next forward reads the references' instead of computing them.
        regional: whether it reads also those of the target's tokens that are not `rows`; with `reuse`.
        keeps_target: whether a forward that computes all of the target keeps its keys and values.
        rows: None, or [m] int64, rising: the target tokens that a regional forward computes.
        chosen: None, or [m] int64: the reference tokens that take part; the others count as absent.
        ranking: whether the next forward, a full one, has all references and measures what attention
            they get.
        attended: None, or [n_ref] float32: the attention they got when last measured, a mean over
            blocks, heads and queries.
    """

    def __init__(self, order: int = 0, bits: int = 16) -> None:
        self.order, self.bits = order, bits
        self.now = 0.0
        self.reuse = False
        self.regional = False
        self.keeps_target = False
        self.ranking = False
        self.rows: Tensor | None = None
        self.chosen: Tensor | None = None
        self.attended: Tensor | None = None
        self._references: list[Stored] = []
        self._target: list[Stored] = []
        self._others: Tensor | None = None
        self._scores: list[Tensor] = []
        # Of the running forward: blocks so far, what its first one gave, whether more has been placed.
        self._blocks = 0
        self._first: tuple[Pair | None, Pair | None] | None = None
        self._mixed = False

    def __len__(self) -> int:
        """Blocks that something is kept of."""
        return 0 if self._mixed else max(len(self._references), len(self._target))

    @property
    def others(self) -> Tensor | None:
        """The target tokens that a regional forward does not compute."""
        return self._others

    def forget(self) -> None:
        """Give up what is kept, and every choice of tokens."""
        self.reuse = self.regional = self.ranking = False
        self.rows = self.chosen = self.attended = self._others = None
        self._references, self._target, self._mixed = [], [], False
        self.begin()

    def focus(self, rows: Tensor, target: int) -> None:
        """From now on regional forwards compute these target tokens of so many; of the target, only
        the others' keys and values stay. After a forward that kept the target's."""
        left = torch.ones(target, dtype=torch.bool, device=rows.device)
        left[rows] = False
        self.rows, self._others = rows, left.nonzero()[:, 0]
        for stored in self._target:
            stored.narrow(self._others)

    def prune(self, chosen: Tensor) -> None:
        """From now on only these reference tokens take part, of those that are kept."""
        self.chosen = chosen
        for stored in self._references:
            stored.narrow(chosen)

    # What one forward does, block by block

    def begin(self) -> None:
        """A forward begins."""
        self._blocks, self._first, self._scores = 0, None, []

    def read(self) -> Iterator[list[Pair]]:
        """For every block what its own keys and values are to be followed by."""
        if not self.reuse:
            return
        for block in range(len(self)):
            parts = [self._target[block]] if self.regional else []
            parts += [self._references[block]] if self._references else []
            yield [part.at(self.now) for part in parts]

    def keep(self, target: Pair | None, references: Pair | None) -> None:
        """Those that a block has computed, copied out of longer ones."""
        if not self.keeps_target or self.regional:
            target = None
        if self.reuse:
            references = None
        self._blocks += 1
        if self._blocks == 1:
            # The forward may be skipped yet.
            self._first = _copied(target), _copied(references)
            return
        if self._blocks == 2:
            self._place_first()
        self._place(self._blocks - 1, target, references)

    def _place_first(self) -> None:
        if self._first is not None:
            self._place(0, *self._first)
            self._first = None

    def _place(self, block: int, target: Pair | None, references: Pair | None) -> None:
        given = (self._target, target, 0), (self._references, references, self.order)
        for stored, pair, order in given:
            if pair is not None:
                self._mixed = True
                if block == len(stored):
                    stored.append(Stored(order, self.bits))
                stored[block].put(self.now, pair)

    def score(self, attended: Tensor) -> None:
        """What attention the references of a block got, [n_ref] float32."""
        self._scores.append(attended)

    def finish(self) -> None:
        """The forward has come to its end."""
        self._place_first()
        self._mixed = False
        if self.keeps_target and not self.regional:
            self.rows = self._others = None
        if self.ranking:
            self.chosen = None
        if self._scores:
            self.attended = torch.stack(self._scores).mean(0)
        self.begin()


def _copied(pair: Pair | None) -> Pair | None:
    return None if pair is None else (pair[0].clone(), pair[1].clone())
