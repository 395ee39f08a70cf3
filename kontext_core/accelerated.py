"""How a run saves work: decides for every model call what is computed, by the settings in `accelerate.py`.

An `AcceleratedRun` lives as long as one sampling run and has a `Side` for every text that steers it. A
sampler asks its side for a `Call` before each model call, hands the call's `kept` and `watch` to the
transformer and gets the whole target's velocity from `Call.finish`:

    run = AcceleratedRun(as_acceleration("fast"), model.params, plan)
    side = run.side("positive")
    call = side.call(t, step, steps, layout)
    out = model(..., target_tokens=n, kept=call.kept, watch=call.watch)
    velocity = call.finish(tokens, out)
    print(run.report)

After a call that is never finished (the user stopped it) the side's next one is full.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .accelerate import Acceleration
from .cost import part_cost
from .forecast import Forecast, ForecastWatch
from .models.kept import KeptContext
from .region import changed

FULL, REUSED, REGIONAL, SKIPPED = "full", "reused", "regional", "skipped"


@dataclass(frozen=True)
class TokenCounts:
    """What a model call is made of; another one begins anew.

    Attributes:
        batch: pictures.
        text, target: tokens.
        references: tokens of each reference that is there.
        present: which references those are.
    """

    batch: int
    text: int
    target: int
    references: tuple[int, ...] = ()
    present: tuple[bool, ...] = ()


@dataclass(frozen=True, eq=False)
class Original:
    """What says which part of the target changes.

    Attributes:
        grid: (rows, columns) of the target's tokens.
        tokens: None, or [b or 1, n, c] of the picture that is edited, model space.
        mask: None, or [n] bool: the tokens that may change. It goes before what is estimated.
    """

    grid: tuple[int, int]
    tokens: Tensor | None = None
    mask: Tensor | None = None


@dataclass(frozen=True)
class WorkReport:
    """What a run computed, in model calls, all texts that steer it together.

    Attributes:
        full: every token in every block.
        reused: text and target, beside keys and values of references from earlier calls.
        regional: text and the changing tokens of the target.
        skipped: the first block only.
        work: what was computed, as a share of as many full calls, counted in multiplications.
        region: mean share of the target that regional calls computed; None without any.
        blocks: how many blocks ran in all, each over what its call computed.
    """

    full: int = 0
    reused: int = 0
    regional: int = 0
    skipped: int = 0
    work: float = 1.0
    region: float | None = None
    blocks: int = 0

    def __str__(self) -> str:
        total = self.full + self.reused + self.regional + self.skipped
        some = "" if self.region is None else f" ({self.region:.0%} of the picture)"
        return (
            f"{total} model calls: {self.full} full, {self.reused} with references reused, "
            f"{self.regional} regional{some}, {self.skipped} skipped; {self.work:.0%} of the work"
        )


class AcceleratedRun:
    """One sampling run.

    Args:
        settings: None computes everything, and only counts.
        params: the transformer's sizes, with `hidden_size`, `depth` and `depth_single_blocks`.
        original: what a region is told by; None computes the whole target.
    """

    def __init__(
        self, settings: Acceleration | None, params: Any, original: Original | None = None
    ) -> None:
        self.settings = settings or Acceleration()
        self.original = original
        self.hidden = params.hidden_size
        self.blocks = params.depth + params.depth_single_blocks
        self._sides: dict[Hashable, Side] = {}
        self._rows: Tensor | None = None
        self._stale = True
        self.counts: dict[str, int] = dict.fromkeys((FULL, REUSED, REGIONAL, SKIPPED), 0)
        self.spent = self.plain = self.share = 0.0
        self.ran = 0

    def side(self, key: Hashable = 0) -> Side:
        """What one text, or several that go through the model together, keeps over the run."""
        if key not in self._sides:
            self._sides[key] = Side(self)
        return self._sides[key]

    def reset(self) -> None:
        """Forget all but the counts: keys and values take memory."""
        for side in self._sides.values():
            side.reset()

    @property
    def report(self) -> WorkReport:
        """What has been computed so far."""
        regional = self.counts[REGIONAL]
        return WorkReport(
            **self.counts,
            work=self.spent / self.plain if self.plain else 1.0,
            region=self.share / regional if regional else None,
            blocks=self.ran,
        )

    def count(self, call: Call, skipped: bool) -> None:
        """Count a call that has come to its end."""
        layout, kept = call.layout, call.kept
        own = layout.text + layout.target
        every = own + sum(layout.references)
        there = sum(layout.references)
        if kept is not None and kept.chosen is not None:
            there = len(kept.chosen)
        seen = computed = own + there
        if call.kind != FULL:
            computed = own if call.rows is None else layout.text + len(call.rows)
        spent = part_cost(computed, seen, self.hidden) / (self.blocks if skipped else 1)
        self.ran += 1 if skipped else self.blocks
        self.spent += spent * layout.batch
        self.plain += part_cost(every, every, self.hidden) * layout.batch
        self.counts[SKIPPED if skipped else call.kind] += 1
        if call.rows is not None and not skipped:
            self.share += len(call.rows) / layout.target

    # Regions

    def rows(self, target: int) -> Tensor | None:
        """[m] int64, rising: the target tokens that a regional call computes, the same for all sides;
        None where nothing says so, or too many change."""
        if self._stale:
            found, self._stale = self._changing(target), False
            known = self._rows
            # The same tokens stay the same tensor, by which sides know what they have kept.
            if found is None or known is None or not torch.equal(found, known):
                self._rows = found
        return self._rows

    def renewed(self) -> None:
        """A side has another estimate of the finished picture."""
        self._stale = True

    def _changing(self, target: int) -> Tensor | None:
        region, original = self.settings.region, self.original
        if region is None or original is None or math.prod(original.grid) != target:
            return None
        some = original.mask
        if some is None and original.tokens is not None:
            for side in self._sides.values():
                if side.estimate is not None:
                    here = changed(side.estimate, original.tokens, original.grid, region)
                    some = here if some is None else some | here
        if some is None or bool(some.all()) or float(some.float().mean()) > region.most:
            return None
        if not bool(some.any()):
            # A forward has no use for none; the first token costs nothing.
            some = torch.zeros_like(some)
            some[0] = True
        return some.nonzero()[:, 0]


class Side:
    """What one text's model calls keep over a run; `AcceleratedRun.side` makes it."""

    def __init__(self, run: AcceleratedRun) -> None:
        self.run = run
        settings = run.settings
        self.kept: KeptContext | None = None
        if settings.context or settings.region or settings.pruning:
            order = settings.context.order if settings.context else 0
            self.kept = KeptContext(order, settings.bits)
            self.kept.keeps_target = settings.region is not None
        may = settings.steps is not None and settings.steps.threshold > 0
        self.forecast = Forecast(settings.steps) if may and settings.steps else None
        self.estimate: Tensor | None = None
        self.layout: TokenCounts | None = None
        self.now = math.inf
        # The steps that last computed the references, the whole target, and ranked the references.
        self.full_at: int | None = None
        self.whole_at: int | None = None
        self.ranked_at: int | None = None

    def reset(self) -> None:
        """A new run begins."""
        if self.kept is not None:
            self.kept.forget()
        if self.forecast is not None:
            self.forecast.forget()
        self.estimate, self.layout, self.now = None, None, math.inf
        self.full_at = self.whole_at = self.ranked_at = None
        self.run.renewed()

    def call(self, t: float, step: int, steps: int, layout: TokenCounts) -> Call:
        """What the next model call computes.

        Args:
            t: its timestep, 0..1. One above the last call's begins a new run.
            step: of the run's steps the one it belongs to, from 0; see `accelerate.step_at` for a
                sampler that knows its noise level only.
            steps: of the whole run.
            layout: of the call.
        """
        if layout != self.layout or t > self.now:
            self.reset()
            self.layout = layout
        self.now = t
        settings = self.run.settings
        kind, rows = FULL, None
        if self.kept is not None:
            kind, rows = self._kind(self.kept, step, steps, layout)
            self._prepare(self.kept, kind, rows, step, steps, layout)
        watch = None
        if self.forecast is not None and settings.steps is not None:
            watch = self.forecast.watch(t, rows, settings.steps.may_skip(step, steps))
        return Call(self, kind, t, step, rows, self.kept, watch, layout)

    def _kind(
        self, kept: KeptContext, step: int, steps: int, layout: TokenCounts
    ) -> tuple[str, Tensor | None]:
        context, region = self.run.settings.context, self.run.settings.region
        have = len(kept) > 0
        if region is not None and have and not region.whole(step, steps, self.whole_at):
            rows = self.run.rows(layout.target) if self.estimate is not None else None
            # Of tokens that were left out before, nothing is kept until a whole step has run.
            if rows is not None and (kept.rows is None or kept.rows is rows):
                return REGIONAL, rows
        if context is None or not have or not layout.references:
            return FULL, None
        if context.full(step, steps, self.full_at):
            return FULL, None
        return REUSED, None

    def _prepare(
        self, kept: KeptContext, kind: str, rows: Tensor | None, step: int, steps: int,
        layout: TokenCounts,
    ) -> None:  # fmt: skip
        """Tell the keys and values what the forward takes and gives."""
        kept.now = self.now
        kept.reuse, kept.regional = kind != FULL, kind == REGIONAL
        if rows is not None and kept.rows is not rows:
            kept.focus(rows, layout.target)
        pruning = self.run.settings.pruning
        kept.ranking = (
            kind == FULL and pruning is not None and pruning.keep < 1 and bool(layout.references)
            and (kept.chosen is None or pruning.all(step, steps, self.ranked_at))
        )  # fmt: skip

    def computed(self, call: Call) -> None:
        """Take note of a call that ran every block. What was due in one that was skipped, or that didn't
        come to it, stays due."""
        if call.kind != REGIONAL:
            self.whole_at = call.step
        if call.kind == FULL:
            self.full_at = call.step
            if call.kept is not None and call.kept.ranking:
                self.ranked_at = call.step
            self._keep_most_attended()

    def _keep_most_attended(self) -> None:
        """Leave out what is looked at least, after a call that ranked the references."""
        kept, pruning = self.kept, self.run.settings.pruning
        if kept is None or pruning is None or kept.attended is None or not kept.ranking:
            return
        count = max(1, round(pruning.keep * len(kept.attended)))
        if count < len(kept.attended):
            kept.prune(kept.attended.topk(count).indices.sort().values)


@dataclass(frozen=True, eq=False)
class Call:
    """One model call.

    Attributes:
        kind: "full", "reused" or "regional".
        t: its timestep.
        step: of the run, from 0.
        rows: None, or the target tokens that are computed.
        kept, watch: for the transformer.
    """

    side: Side
    kind: str
    t: float
    step: int
    rows: Tensor | None
    kept: KeptContext | None
    watch: ForecastWatch | None
    layout: TokenCounts

    def finish(self, tokens: Tensor, out: Tensor) -> Tensor:
        """Take note of what came out, and complete it.

        Args:
            tokens: [b, n_target, c] the target as the model was given it.
            out: [b, n_target, c] velocity, or [b, m, c] of the `rows`.

        Returns:
            [b, n_target, c] velocity, out's dtype: those of tokens that were not computed go straight
            to what was last estimated of them.
        """
        side, run = self.side, self.side.run
        skipped = self.watch is not None and self.watch.skipped
        if self.watch is not None:
            self.watch.finish()
        run.count(self, skipped)
        if not skipped:
            side.computed(self)
        if self.rows is not None and side.estimate is not None:
            whole = ((tokens.float() - side.estimate) / self.t).to(out.dtype)
            whole[:, self.rows] = out
            return whole
        if run.settings.region is not None and not skipped:
            side.estimate = tokens.float() - self.t * out.float()
            run.renewed()
        return out
