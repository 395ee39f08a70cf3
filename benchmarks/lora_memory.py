"""Memory of one training step of a LoRA on FLUX.1 Kontext [dev], at its full depth.

    python benchmarks/lora_memory.py [--kind Q4_K] [--size 512] [--blocks 19,38]
    python benchmarks/lora_memory.py --measure --blocks 2,2

One step (forward, backward, AdamW) with gradient checkpointing on a transformer of the published sizes with
quantized weights. Without `--measure` nothing is computed: tensors have shapes and no storage (PyTorch's fake
tensors), and the bytes of those that are alive are counted at every operation. That is exact for what the step
keeps; what a kernel or the decoding of a weight needs while it runs is not in it. `--measure` computes: the rise
of the process's resident size to its peak, on a GPU of what its allocator has given away. On a CPU all blocks then
share the weights of the first, so that a whole model fits a small machine; each is decoded for itself all the same,
and their bytes are counted as if every block had its own. Each measurement is a process of its own. Latents and
texts count as they come from the cache; text encoders and autoencoder are not loaded in training.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kontext_core.config import FluxParams
from kontext_core.finetune import TrainSettings
from kontext_core.finetune.adapters import Adapters
from kontext_core.finetune.encoded import Words
from kontext_core.finetune.objective import Drawn, flow_losses, forgetful
from kontext_core.models.flux import Flux
from kontext_core.quant.linear import QuantLinear, ScaledLinear
from kontext_core.quant.types import row_bytes

# The C library keeps freed blocks of up to 32 MB in its heap, in pieces that inputs kept for the gradients hold
# apart; with a memory map for each tensor, the resident size is that of what is alive.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536"}
# The whole model last.
BLOCKS = ("2,2", "19,38")


def stored(layer: nn.Linear, kind: str) -> nn.Module:
    """A layer of these sizes with random stored weights."""
    rows, columns = layer.out_features, layer.in_features
    bias = torch.zeros(rows, dtype=torch.bfloat16)
    if kind == "fp8":
        weight = torch.randint(0, 0x30, (rows, columns), dtype=torch.uint8)
        return ScaledLinear(weight.view(torch.float8_e4m3fn), bias, torch.tensor(0.01))
    # Codes whose top bits are clear: scales stay finite.
    weight = torch.randint(0, 32, (rows, row_bytes(kind, columns)), dtype=torch.uint8)
    return QuantLinear(weight, kind, columns, bias)


def network(double: int, single: int, kind: str, dtype: torch.dtype, share: bool) -> Flux:
    """The transformer; with `share`, layers of the same name in all blocks hold the same tensors."""
    with torch.device("meta"):
        flux = Flux(FluxParams(depth=double, depth_single_blocks=single))
    known: dict[str, Tensor] = {}
    for name, layer in list(flux.named_modules()):
        if isinstance(layer, nn.Linear):
            parent, _, leaf = name.rpartition(".")
            packed = "_blocks." in name
            made = stored(layer, kind) if packed else nn.Linear(
                layer.in_features, layer.out_features, dtype=dtype
            )  # fmt: skip
            if packed and share:
                made.weight = known.setdefault(re.sub(r"\.\d+\.", ".", name, count=1), made.weight)  # type: ignore[assignment,arg-type]
            setattr(flux.get_submodule(parent), leaf, made)
    for name, parameter in list(flux.named_parameters()):
        if parameter.is_meta:
            parent, _, leaf = name.rpartition(".")
            gain = nn.Parameter(torch.ones(parameter.shape, dtype=dtype))
            setattr(flux.get_submodule(parent), leaf, gain)
    return flux.requires_grad_(False)


def weight_bytes(flux: Flux) -> int:
    """Of all layers, as if none shared another's."""
    return sum(
        tensor.numel() * tensor.element_size()
        for module in flux.modules()
        for tensor in (*module.parameters(False), *module.buffers(False))
    )


class Live(TorchDispatchMode):
    """Counts the bytes of storages that are alive: now, and at most since `mark`."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.marked = 0
        self._known: dict[int, int] = {}

    def mark(self) -> None:
        self.peak = self.marked = self.now

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._known:
            self._known[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self._known.pop(key)


def one_step(
    options: argparse.Namespace, double: int, single: int, share: bool, ready: Callable[[], None]
) -> tuple[int, int]:
    """Bytes of the weights, and of the LoRA with AdamW's averages; `ready` is called before the step."""
    device = torch.device(options.device)
    dtype = torch.bfloat16 if options.dtype == "bfloat16" else torch.float32
    flux = network(double, single, options.kind, dtype, share)
    settings = TrainSettings(rank=options.rank, megapixels=0.25)
    adapters = Adapters(flux, "blocks", options.rank, 1.0)
    if device.type != "cpu":
        flux, adapters = flux.to(device), adapters.to(device)
    optimizer = torch.optim.AdamW(adapters.parameters())
    for parameter in adapters.parameters():
        # Zeros take no memory of a process before they are written to.
        averages = {name: torch.full_like(parameter, 0) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": torch.tensor(0.0), **averages}
    learned = 3 * 4 * sum(parameter.numel() for parameter in adapters.parameters())
    cells = options.size // 8
    target, reference, eps = (torch.randn(1, 16, cells, cells) for _ in range(3))
    words = Words(torch.randn(1, 512, 4096, dtype=dtype), torch.randn(1, 768, dtype=dtype))
    drawn = [Drawn(target, (reference,), words, 0.5, eps)]
    ready()
    with adapters.on(flux):
        call = None if options.keep else forgetful
        flow_losses(flux, drawn, settings, call).sum().backward()
    optimizer.step()
    return weight_bytes(flux), learned


def count(options: argparse.Namespace, double: int, single: int) -> tuple[float, ...]:
    """Bytes of weights, of the LoRA with its averages, and of what else is alive at the step's peak; seconds."""
    live, began = Live(), time.perf_counter()
    with (
        # Values are not there to be looked at, nor to be decoded.
        mock.patch("kontext_core.stitcher.check_finite", lambda *arguments: None),
        mock.patch("kontext_core.quant.linear.dequantize", lambda packed, kind, out: out),
        mock.patch("kontext_core.quant.linear.widen", lambda codes, out: out),
        FakeTensorMode(allow_non_fake_inputs=True),
        live,
    ):
        weights, learned = one_step(options, double, single, False, live.mark)
    return weights, learned, live.peak - live.marked, time.perf_counter() - began


def measure(options: argparse.Namespace, double: int, single: int) -> tuple[float, ...]:
    """The same, with the rise of the process's or the GPU's memory in the third place."""
    cuda = options.device.startswith("cuda")
    before, began = 0, 0.0

    def ready() -> None:
        nonlocal before, began
        if cuda:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        else:
            with open("/proc/self/statm", encoding="ascii") as file:
                before = int(file.read().split()[1]) * resource.getpagesize()
        began = time.perf_counter()

    share = not cuda and not options.own_weights
    weights, learned = one_step(options, double, single, share, ready)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peak = torch.cuda.max_memory_allocated() if cuda else peak
    return weights, learned, max(0, peak - before), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kind", default="Q4_K", help="a type of ggml's, or fp8")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--size", type=int, default=512, help="of target and reference, pixels")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--measure", action="store_true", help="compute, instead of counting")
    parser.add_argument("--device", default="cpu", help="with --measure")
    parser.add_argument("--keep", action="store_true", help="no gradient checkpointing")
    parser.add_argument("--own-weights", action="store_true", help="with --measure, on a CPU too")
    parser.add_argument(
        "--blocks", action="append", metavar="DOUBLE,SINGLE",
        help="how many blocks; repeat for several (2,2 and 19,38)",
    )  # fmt: skip
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        double, single = map(int, options.one.split(","))
        print(*(measure if options.measure else count)(options, double, single))
        return
    for blocks in options.blocks or BLOCKS:
        command = [sys.executable, __file__, *sys.argv[1:], "--one", blocks]
        out = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | MALLOC
        ).stdout
        weights, learned, step, seconds = map(float, out.split())
        total = (weights + learned + step) / 1e9
        print(f"{blocks} blocks: weights {weights / 1e9:.2f} GB, LoRA and averages {learned / 1e9:.2f} GB, "
              f"a step {step / 1e9:.2f} GB; together {total:.2f} GB ({seconds:.0f} s)", flush=True)  # fmt: skip
    how = f"measured on {options.device}" if options.measure else "counted"
    print(f"{how}: {options.kind}, {options.size} x {options.size} with one reference, batch 1, "
          f"rank {options.rank}, {options.dtype}{', without checkpointing' if options.keep else ''}")  # fmt: skip


if __name__ == "__main__":
    main()
