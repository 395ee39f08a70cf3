"""What is measured, full size or small, and the networks that the parts share."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from kontext_core.config import AutoEncoderParams, FluxParams
from kontext_core.models.flux import Flux
from kontext_core.stitcher import Reference, stitch


@dataclass(frozen=True)
class Sizes:
    """One set of sizes; the defaults are FLUX.1 Kontext at 1024x1024."""

    params: FluxParams = field(default_factory=FluxParams)
    autoencoder: AutoEncoderParams = field(default_factory=AutoEncoderParams)
    side: int = 1024
    text: int = 512
    references: tuple[int, ...] = (0, 1, 2, 4)
    steps: int = 28
    rounds: int = 5
    caps: tuple[float, ...] = (8.0, 6.0)


FULL = Sizes()
DRY = Sizes(
    FluxParams(
        in_channels=64, vec_in_dim=32, context_in_dim=64, hidden_size=256, num_heads=2, depth=1,
        depth_single_blocks=2, axes_dim=(16, 56, 56),
    ),
    AutoEncoderParams(ch=8, norm_groups=4, num_res_blocks=1),
    side=96, text=16, references=(0, 1, 2), steps=6, rounds=1,
)  # fmt: skip


class Stage:
    """A device with the sizes to measure there.

    Attributes:
        dry: whether this is a rehearsal on a CPU.
    """

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        self.sizes, self.device = sizes, device
        self.dry = device.type != "cuda"
        self.dtype = torch.bfloat16

    @cached_property
    def model(self) -> Flux:
        """The transformer with random weights of a trained network's scale."""
        return self.make(self.dtype)

    def make(self, dtype: torch.dtype) -> Flux:
        """A new one. Every layer keeps the size of what goes through it, so that nothing overflows."""
        with torch.device("meta"):
            model = Flux(self.sizes.params)
        model = model.to(dtype).to_empty(device=self.device)
        generator = torch.Generator(self.device).manual_seed(0)
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                weight.normal_(0, weight.shape[1] ** -0.5, generator=generator)
            elif name.endswith("scale"):
                weight.fill_(1)
            else:
                weight.zero_()
        return model.requires_grad_(False).eval()

    def context(self, references: int, side: int | None = None) -> Any:
        """A target with so many references of its size."""
        cells = (side or self.sizes.side) // 8
        latent = self.draw(1, 16, cells, cells).cpu()
        parts = [Reference(latent) for _ in range(references)]
        return stitch((1, 16, cells, cells), parts)

    def draw(self, *shape: int) -> Tensor:
        """float32 normal numbers, the same ones for a shape."""
        generator = torch.Generator().manual_seed(sum(shape))
        return torch.randn(shape, generator=generator).to(self.device)

    def time(self, run: Callable[[], Any], rounds: int | None = None) -> float:
        """Least seconds of a call, after one that does not count."""
        run()
        taken = []
        for _ in range(rounds or self.sizes.rounds):
            self.wait()
            begun = time.perf_counter()
            run()
            self.wait()
            taken.append(time.perf_counter() - begun)
        return min(taken)

    def wait(self) -> None:
        """Until the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def peak(self, run: Callable[[], Any]) -> float:
        """GB that the device's tensors take at most during a call; 0 on a CPU."""
        if self.device.type != "cuda":
            run()
            return 0.0
        torch.cuda.reset_peak_memory_stats(self.device)
        run()
        self.wait()
        return torch.cuda.max_memory_allocated(self.device) / 1e9

    def free(self) -> None:
        """Let go of the shared network."""
        self.__dict__.pop("model", None)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
