"""What one forward of the transformer runs with: modulations, what was prepared, and how blocks are
called. Shapes: b batch, n tokens, c channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from .attention import Attend
from .joint import Joint
from .kept import KeptContext
from .layers import SplitRows


@dataclass(frozen=True, eq=False)
class Modulations:
    """Every shift, scale and gate of the transformer, for several timesteps and texts.

    They depend on timestep, guidance and pooled text only, so a run can compute them all before
    its first step, reading the modulation layers (27 % of the published weights) once. They are
    those of the model as it was then: what changes its weights or LoRAs makes them stale.
    One timestep and text of the published sizes take 1,056,768 numbers: 4.2 MB in float32, 2.1 MB
    in bfloat16.

    Attributes (s timesteps, r texts, c hidden size):
        double: for every double block image and text rows, [s, r, 2, 3, c] each.
        single: for every single block [s, r, 1, 3, c].
        final: [s, r, 2, c].
    """

    double: Iterable[tuple[Tensor, Tensor]]
    single: Iterable[Tensor]
    final: Tensor

    def at(self, step: int, batch: int) -> Modulations:
        """Those of one timestep for a batch, as `Flux.forward` takes them: s is left out.

        Args:
            step: which of the timesteps, from 0.
            batch: how many pictures; texts are repeated in turn, as `Conditioning.expand` does.
        """

        def pick(rows: Tensor) -> Tensor:
            one = rows[step]
            # A single text's rows stretch over the batch by themselves.
            if len(one) in (1, batch):
                return one
            return one.repeat(batch // len(one), *[1] * (one.ndim - 1))

        return Modulations(
            tuple((pick(img), pick(txt)) for img, txt in self.double),
            tuple(pick(rows) for rows in self.single),
            pick(self.final),
        )


@dataclass(frozen=True, eq=False)
class Prepared:
    """What stays the same over the steps of a run, made once by `Flux.prepare`.

    Attributes (b batch, c hidden size):
        txt: [b, n_txt, c] projected text.
        references: [b, n_ref, c] projected reference tokens.
        table: rotary table of text, target and references.
        bias: None, or [b or 1, n] of all keys.
    """

    txt: Tensor
    references: Tensor
    table: Tensor
    bias: Tensor | None

    def picked(self, target: int, kept: KeptContext) -> Prepared:
        """The same for a forward that computes only some of the tokens, target being the number of
        all of it: first what is computed, then what is read, and nothing of what is left out."""
        chosen = None if kept.ranking else kept.chosen
        if not kept.regional and chosen is None:
            return self
        text = self.txt.shape[1]
        device = self.txt.device
        order = [torch.arange(text + target, device=device)]
        if kept.regional and kept.rows is not None and kept.others is not None:
            order = [order[0][:text], kept.rows + text, kept.others + text]
        references = self.references
        if chosen is None:
            chosen = torch.arange(references.shape[1], device=device)
        elif not kept.reuse:
            references = references[:, chosen]
        index = torch.cat([*order, chosen + text + target])
        bias = None if self.bias is None else self.bias[:, index]
        return Prepared(self.txt, references, self.table[:, :, index], bias)


class Watch(Protocol):
    """Who looks at a forward after its first block, and may end it there."""

    def first(self, before: Tensor, after: Tensor) -> Tensor | None:
        """Of the target's tokens [b, n, c] before and after the first block: None to go on, or what
        the last block would give, [b, n, c]."""
        ...

    def last(self, x: Tensor) -> None:
        """What the last block gave, [b, n, c]."""
        ...


class BlockRun(Protocol):
    """How blocks are called in one forward."""

    def double(self, index: int, block: Any, img: Tensor, txt: Tensor) -> tuple[Tensor, Tensor]:
        """Image [b, n_img, c] and text [b, n_txt, c] through a double block."""
        ...

    def single(
        self, index: int, block: Any, x: Tensor, text: int, keep: slice | None = None
    ) -> Tensor:
        """Tokens [b, n, c], the first `text` of them text, through a single block; of the last
        one, only the tokens `keep` are wanted."""
        ...


# (block, its arguments) to its result. Training calls blocks in a way that forgets what they computed.
BlockCall = Callable[..., Any]


def _call(block: Any, *args: Any, **kwargs: Any) -> Any:
    return block(*args, **kwargs)


class PlainRun:
    """Blocks as they are. Each is asked for in its turn, so that rows may be made as needed."""

    def __init__(
        self,
        rows: Modulations,
        still: Modulations | None,
        target: int,
        pe: Tensor,
        bias: Tensor | None,
        attend: Attend | Joint,
        call: BlockCall | None = None,
    ) -> None:
        self.attend = attend
        self.call = call or _call
        self.rows_of_double, self.rows_of_single = iter(rows.double), iter(rows.single)
        self.still_of_double = None if still is None else iter(still.double)
        self.still_of_single = None if still is None else iter(still.single)
        self.target, self.pe, self.bias = target, pe, bias

    def double(self, index: int, block: Any, img: Tensor, txt: Tensor) -> tuple[Tensor, Tensor]:
        image, text = next(self.rows_of_double)
        if self.still_of_double is not None:
            image = SplitRows(image, next(self.still_of_double)[0], self.target)
        return self.call(block, img, txt, (image, text), self.pe, self.bias, attend=self.attend)

    def single(
        self, index: int, block: Any, x: Tensor, text: int, keep: slice | None = None
    ) -> Tensor:
        rows = next(self.rows_of_single)
        if self.still_of_single is not None:
            rows = SplitRows(rows, next(self.still_of_single), text + self.target)
        if keep is None:
            return self.call(block, x, rows, self.pe, self.bias, attend=self.attend)
        return trimmed(partial(self.call, block), x, rows, self.pe, self.bias, self.attend, keep)


def trimmed(
    block: Any,
    x: Tensor,
    rows: Tensor | SplitRows,
    pe: Tensor,
    bias: Tensor | None,
    attend: Attend | Joint,
    keep: slice,
) -> Tensor:
    """Only the tokens `keep` of x [b, n, c] out of a single block, called as the block is: the same
    numbers for less work."""
    first = partial(_before, start=keep.start, stop=keep.stop)
    bias = None if bias is None else first(bias)
    wanted = keep.stop - keep.start
    return block(first(x), rows, first(pe, dim=2), bias, attend=attend, keep=wanted)


def _before(x: Tensor, start: int, stop: int, dim: int = 1) -> Tensor:
    """Tokens with those of start:stop first. What stands behind `stop` stays where it is, which is
    what lives at another timestep."""
    before, wanted, behind = x.split([start, stop - start, x.shape[dim] - stop], dim)
    return torch.cat([wanted, before, behind], dim)


def finite(x: Tensor) -> Tensor:
    """Deep blocks can overflow half precision; ComfyUI cuts it off there too."""
    if x.dtype != torch.float16:
        return x
    return torch.nan_to_num(x, nan=0.0, posinf=65504, neginf=-65504)
