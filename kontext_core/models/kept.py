"""Keys and values of reference tokens, kept from one step to later ones.

References are not noised, so what they say changes slowly from step to step: a step that takes their
keys and values from an earlier one computes text and target only. With those of the same step it gives
the same numbers. Shapes: b batch, h heads, n tokens, d head size.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor


class KeptContext:
    """What one text's side of a run keeps: for every block keys and values [b, h, n_ref, d], after norm
    and rotation, in the dtype of the model. FLUX.1 takes 2.9 GB for a reference of 1024x1024 in 16 bits.

    Attributes:
        reuse: whether the next forward reads them; else it computes and keeps them.
    """

    def __init__(self) -> None:
        self.reuse = False
        self._blocks: list[tuple[Tensor, Tensor]] = []

    def __len__(self) -> int:
        return len(self._blocks)

    def keep(self, k: Tensor, v: Tensor) -> None:
        """Those of the next block, copied out of longer ones."""
        self._blocks.append((k.clone(), v.clone()))

    def forget(self) -> None:
        """Give up what is kept."""
        self._blocks.clear()

    def read(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Keys and values, block by block."""
        return iter(self._blocks)
