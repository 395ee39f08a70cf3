"""Modulation rows of a run, made ahead where their layers' weights stay off the device.

Modulation layers are 27 % of a FLUX.1 transformer and work on one vector a picture: shifts, scales and
gates that depend on timestep, guidance and pooled text only. So they are the layers to leave off a
device without room for all (`KeptModulations.last_to_load`), and a run need not bring them over at every step: at the
first one the rows of the steps to come are made with it, each weight being read once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...kontext_core.models.block_run import Modulations
from ...kontext_core.models.layers import LastLayer, Modulation

if TYPE_CHECKING:
    from ...kontext_core.models.flux import Flux

# Rows made at a time, and kept at most: one of FLUX.1 is 2.1 MB in 16 bits, so 34 and 85 MB. Two texts
# that are run in turn have room, and 28 steps read the weights twice.
AHEAD = 16
KEPT = 40

# Timestep, guidance, pooled text.
VectorKey = tuple[float, "float | None", bytes]


def modulation_layers(network: nn.Module) -> list[Any]:
    """The linear layers of a transformer that work on its conditioning vector."""
    found: list[Any] = []
    for module in network.modules():
        if isinstance(module, Modulation):
            found.append(module.lin)
        elif isinstance(module, LastLayer):
            found.append(module.adaLN_modulation[-1])
    return found


class ModulationRows:
    """The modulation rows of one forward, for a block that asks: picked from a table that is kept, or
    computed by the block.

    Args:
        vec: conditioning vector, [b, c].
        table: rows of n vectors, or None.
        places: which of the n each picture of the batch has, on the device of the table.
    """

    def __init__(
        self, vec: Tensor, table: Modulations | None = None, places: Tensor | None = None
    ) -> None:
        self.vec = vec
        self._table, self._places = table, places

    def double(self, block: Any, index: int, vec: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Image and text rows of a double block, [b, 2, 3, c] each; `vec` where a patch may have
        put another one."""
        table = self._kept_for(vec)
        if table is None:
            return block.modulate(self.vec if vec is None else vec)
        img, txt = table.double[index]  # type: ignore[index]
        return img[self._places], txt[self._places]

    def single(self, block: Any, index: int, vec: Tensor | None = None) -> Tensor:
        """Rows of a single block, [b, 1, 3, c]; `vec` as above."""
        table = self._kept_for(vec)
        if table is None:
            return block.modulate(self.vec if vec is None else vec)
        return table.single[index][self._places]  # type: ignore[index]

    def final(self, layer: Any) -> Tensor:
        """Rows of the last layer, [b, 2, c]."""
        return layer.modulate(self.vec) if self._table is None else self._table.final[self._places]

    def _kept_for(self, vec: Tensor | None) -> Modulations | None:
        return self._table if vec is None or vec is self.vec else None


class KeptModulations:
    """The rows that a transformer's runs have made. Whoever changes its weights has to `forget`.

    Args:
        network: whose modulation layers are the host's (`comfy_cast_weights` says that a layer's
            weight is brought over for each product).
    """

    def __init__(self, network: Flux) -> None:
        self._layers = modulation_layers(network)
        self._tables: OrderedDict[tuple[VectorKey, ...], Modulations] = OrderedDict()

    def forget(self) -> None:
        """Give up all rows."""
        self._tables.clear()

    def memory(self, dtype: torch.dtype) -> int:
        """Bytes that the rows of a run may take."""
        return KEPT * sum(layer.out_features for layer in self._layers) * dtype.itemsize

    def last_to_load(self, entries: list[Any]) -> list[Any]:
        """A host's list of what to load, in whose order these layers come last when it is sorted.

        ComfyUI fills a device with the largest weights first, and these are the largest.

        Args:
            entries: tuples with a size in front and the module somewhere in them; hosts differ.
        """
        last = {id(layer) for layer in self._layers}
        return _Ordered(entries, lambda entry: not any(id(value) in last for value in entry))

    def rows(
        self,
        network: Flux,
        timesteps: Tensor,
        pooled: Tensor,
        guidance: Tensor | None,
        sigmas: Tensor | None,
        dtype: torch.dtype,
    ) -> ModulationRows:
        """Rows of a batch. The layers are asked where they are on the device, or somebody trains.

        Args:
            timesteps: [b]. pooled: [b, vec_in_dim]. guidance: [b] or None.
            sigmas: timesteps of the whole run, falling, or None; where `timesteps` is among
                them, later ones are made with it.
            dtype: computed in.
        """
        vec = network.embed(timesteps, pooled, guidance, dtype)
        if torch.is_grad_enabled() or not any(layer.comfy_cast_weights for layer in self._layers):
            return ModulationRows(vec)
        texts = [row.numpy().tobytes() for row in pooled.float().cpu()]
        values = [None] * len(texts) if guidance is None else guidance.tolist()
        keys: list[VectorKey] = list(zip(timesteps.tolist(), values, texts, strict=True))
        wanted = next((made for made in self._tables if set(keys) <= set(made)), None)
        if wanted is None:
            wanted = self._ahead(keys, [] if sigmas is None else sigmas.tolist())
            # In their own dtypes: the embedding of a rounded guidance is another one.
            given = timesteps.dtype, None if guidance is None else guidance.dtype
            self._make(network, wanted, dict(zip(texts, pooled, strict=True)), given, dtype)
        self._tables.move_to_end(wanted)
        places = torch.tensor([wanted.index(key) for key in keys], device=pooled.device)
        return ModulationRows(vec, self._tables[wanted], places)

    def _ahead(self, keys: list[VectorKey], sigmas: list[float]) -> tuple[VectorKey, ...]:
        """The keys, and those of later steps as far as there is room."""
        found = dict.fromkeys(keys)
        kinds = list(dict.fromkeys(key[1:] for key in keys))
        now = max(key[0] for key in keys)
        if now in sigmas:
            later = (s for s in sigmas[sigmas.index(now) + 1 :] if s > 0)
            for sigma in later:
                if len(found) + len(kinds) > AHEAD:
                    break
                found.update(((sigma, *kind), None) for kind in kinds)
        return tuple(found)

    def _make(
        self,
        network: Flux,
        keys: tuple[VectorKey, ...],
        texts: dict[bytes, Tensor],
        given: tuple[torch.dtype, torch.dtype | None],
        dtype: torch.dtype,
    ) -> None:
        device = next(iter(texts.values())).device
        times = torch.tensor([key[0] for key in keys], device=device, dtype=given[0])
        values = [key[1] for key in keys if key[1] is not None]
        guidance = torch.tensor(values, device=device, dtype=given[1]) if values else None
        pooled = torch.stack([texts[key[2]] for key in keys])
        vec = network.embed(times, pooled, guidance, dtype)
        while self._tables and sum(map(len, self._tables)) + len(keys) > KEPT:
            self._tables.popitem(last=False)
        made = network.as_needed(vec)
        self._tables[keys] = Modulations(tuple(made.double), tuple(made.single), made.final)


class _Ordered(list[Any]):
    """Sorts by a question first, then as it would have."""

    def __init__(self, entries: list[Any], first: Callable[[Any], bool]) -> None:
        super().__init__(entries)
        self._first = first

    def sort(self, *, key: Callable[[Any], Any] | None = None, reverse: bool = False) -> None:
        own = key or (lambda entry: entry)
        super().sort(key=lambda entry: (self._first(entry), own(entry)), reverse=reverse)
