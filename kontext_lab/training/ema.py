"""Exponential moving average of a model's parameters.

Not `torch.optim.swa_utils.AveragedModel`, which keeps a second copy of every module: here one average
covers several modules and is put into them while they are judged or saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .spread import like, local


class EMA:
    """Keeps `decay * average + (1 - decay) * parameter`, sooner at the start.

    The decay of update n (from 1) is min(decay, (1 + n) / (10 + n)), so that early averages are
    not held back by the random start.
    """

    def __init__(self, modules: Mapping[str, nn.Module], decay: float = 0.998) -> None:
        self.decay = decay
        self.updates = 0
        self._live = {
            f"{name}.{key}": parameter
            for name, module in modules.items()
            for key, parameter in module.named_parameters()
        }
        self.average = {key: value.detach().clone() for key, value in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the parameters of now into the average."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        average = [local(value) for value in self.average.values()]
        live = [local(parameter.detach()) for parameter in self._live.values()]
        torch._foreach_lerp_(average, live, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the modules carry the average."""
        kept = {key: value.detach().clone() for key, value in self._live.items()}
        self._copy(self.average)
        try:
            yield
        finally:
            self._copy(kept)

    @torch.no_grad()
    def _copy(self, values: Mapping[str, Tensor]) -> None:
        for key, parameter in self._live.items():
            parameter.copy_(values[key])

    def state_dict(self) -> dict[str, object]:
        """For a checkpoint."""
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state: dict) -> None:
        """From a checkpoint."""
        self.updates = state["updates"]
        for key, value in self.average.items():
            value.copy_(like(state["average"][key], value))
