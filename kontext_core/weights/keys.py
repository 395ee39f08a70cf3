"""Where a stored tensor belongs in our networks, as the key maps say it."""

from __future__ import annotations

from dataclasses import dataclass

KEEP = "keep"


@dataclass(frozen=True)
class Destination:
    """A tensor's target.

    Attributes:
        target: name in our network; empty for tensors that are not needed.
        piece, pieces: which of how many row pieces of the target it is.
        change: `keep`, `swap halves` (of the rows) or `matrix to convolution` ([c, d] to
            [c, d, 1, 1]).
        split: further targets. The rows are cut into as many equal pieces; `target` gets the first.
    """

    target: str
    piece: int = 0
    pieces: int = 1
    change: str = KEEP
    split: tuple[str, ...] = ()


DROP = Destination("")
