"""Low-rank pairs that learn, beside layers that don't (LoRA, arXiv 2106.09685).

A pair is a forward hook of its layer, as a loaded LoRA's branch is, so that packed weights (GGUF, fp8)
are trained on as they are. Its matrices are float32 whatever the layer computes in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CheckpointError
from ..models.flux import Flux
from .targets import target_layers


class AdapterPair(nn.Module):
    """scale * up @ down @ x, added to a layer's output.

    Attributes:
        down: [rank, in_features], drawn as `nn.Linear` draws its weight.
        up: [out_features, rank], zeros at first: an untrained pair changes nothing.
    """

    def __init__(
        self, width: int, count: int, rank: int, scale: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        bound = 1 / math.sqrt(width)
        drawn = torch.empty(rank, width).uniform_(-bound, bound, generator=generator)
        self.down = nn.Parameter(drawn)
        self.up = nn.Parameter(torch.zeros(count, rank))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in_features] to [..., out_features]."""
        hidden = F.linear(x, self.down.to(x.dtype))
        return F.linear(hidden, self.up.to(x.dtype)) * self.scale

    def listen(self, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """The forward hook."""
        return output + self(args[0])


class Adapters:
    """All pairs of a LoRA, by the names of their layers.

    Args:
        network: whose layers they are for; it is not changed.
        targets: see `targets.target_layers`.
        rank, scale: of every pair.
        seed: of the first weights.

    Raises:
        InputError: as `target_layers`.
    """

    def __init__(self, network: Flux, targets: str, rank: int, scale: float, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.rank, self.scale = rank, scale
        # Outside the caller's inference mode: these get gradients.
        with torch.inference_mode(False), torch.enable_grad():
            self.pairs: dict[str, AdapterPair] = {
                name: AdapterPair(layer.in_features, layer.out_features, rank, scale, generator)  # type: ignore[arg-type]
                for name, layer in target_layers(network, targets).items()
            }

    def parameters(self) -> list[nn.Parameter]:
        """All matrices, down and up of each layer in turn."""
        return [p for pair in self.pairs.values() for p in pair.parameters()]

    def to(self, device: torch.device) -> Adapters:
        """Move them all; gives itself."""
        for pair in self.pairs.values():
            pair.to(device)
        return self

    @contextmanager
    def on(self, network: Flux) -> Iterator[None]:
        """Inside, they act on the layers of a network that has the names and sizes of the first."""
        layers = dict(network.named_modules())
        handles = [
            layers[name].register_forward_hook(pair.listen) for name, pair in self.pairs.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def state(self) -> dict[str, Tensor]:
        """Their matrices as `LAYER.down` and `LAYER.up`, the tensors themselves."""
        return {
            f"{name}.{part}": getattr(pair, part).detach()
            for name, pair in self.pairs.items()
            for part in ("down", "up")
        }

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take what `state` gave.

        Raises:
            CheckpointError: other layers or sizes.
        """
        for name, tensor in self.state().items():
            found = state.get(name)
            if found is None or found.shape != tensor.shape:
                shape = "not there" if found is None else str(list(found.shape))
                raise CheckpointError(
                    f"{name} of the training's state is {shape}; expected {list(tensor.shape)}. It "
                    "belongs to another model or other targets: start anew"
                )
            tensor.copy_(found)
