"""Memory of one training step of a LoRA on FLUX.1 Kontext [dev]'s sizes, by the number of blocks.

    python benchmarks/lora_memory.py [--kind Q4_K] [--size 512]

Makes transformers of the published width with few blocks, their weights filled with random quantized
bytes, runs one step (forward, backward, AdamW) with gradient checkpointing, and reads how far the
process's memory rose above what it held before, on the CPU as its peak resident size, on a GPU as the
allocator's peak. Each measurement is a process of its own. What a double and a single block add is the
difference between two of them; 19 and 38 of each give the whole model. Latents and texts count as they
come from the cache; text encoders and autoencoder are not loaded in training.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys

import torch
from torch import nn

from kontext_core.config import FluxParams
from kontext_core.finetune import Encoded, TrainSettings
from kontext_core.finetune.adapters import Adapters
from kontext_core.finetune.encoded import Words
from kontext_core.finetune.objective import draw, flow_losses, forgetful
from kontext_core.models.flux import Flux
from kontext_core.quant.linear import QuantLinear, ScaledLinear
from kontext_core.quant.types import row_bytes

FULL = (19, 38)
# Two of each at least: the first block has inputs that need no gradient, the last gives the target alone.
BLOCKS = ((2, 2), (3, 2), (2, 3))


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


def network(double: int, single: int, kind: str, dtype: torch.dtype) -> Flux:
    with torch.device("meta"):
        flux = Flux(FluxParams(depth=double, depth_single_blocks=single))
    for name, layer in list(flux.named_modules()):
        if isinstance(layer, nn.Linear):
            parent, _, leaf = name.rpartition(".")
            packed = "_blocks." in name
            made = stored(layer, kind) if packed else nn.Linear(
                layer.in_features, layer.out_features, dtype=dtype
            )  # fmt: skip
            setattr(flux.get_submodule(parent), leaf, made)
    for name, parameter in list(flux.named_parameters()):
        if parameter.is_meta:
            parent, _, leaf = name.rpartition(".")
            gain = nn.Parameter(torch.ones(parameter.shape, dtype=dtype))
            setattr(flux.get_submodule(parent), leaf, gain)
    return flux.requires_grad_(False)


def peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def held(device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def measure(options: argparse.Namespace, double: int, single: int) -> tuple[int, int]:
    """(weights and the LoRA with AdamW's averages, what a step takes beside them), bytes."""
    device = torch.device(options.device)
    dtype = torch.bfloat16 if options.dtype == "bfloat16" else torch.float32
    before = held(device)
    flux = network(double, single, options.kind, dtype).to(device)
    settings = TrainSettings(rank=options.rank, megapixels=0.25)
    adapters = Adapters(flux, "blocks", options.rank, 1.0).to(device)
    optimizer = torch.optim.AdamW(adapters.parameters())
    for parameter in adapters.parameters():
        optimizer.state[parameter] = {
            "step": torch.tensor(0.0),
            **{name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")},
        }
    cells = options.size // 8
    latent = {"latent": torch.randn(1, 16, cells, cells)}
    words = Words(torch.randn(1, 512, 4096, dtype=dtype), torch.randn(1, 768, dtype=dtype))
    example = Encoded(
        "x", "x", "x", (lambda: latent,) * 2, lambda: {"txt": words.txt, "vec": words.vec}
    )
    drawn = draw([example], words, settings, torch.Generator().manual_seed(0))
    ready = held(device)
    with adapters.on(flux):
        call = None if options.keep else forgetful
        flow_losses(flux, drawn, settings, call).sum().backward()
    optimizer.step()
    return ready - before, max(0, peak(device) - ready)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kind", default="Q4_K", help="a type of ggml's, or fp8")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--size", type=int, default=512, help="of target and reference, pixels")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--keep", action="store_true", help="no gradient checkpointing")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        double, single = map(int, options.one.split(","))
        print(*measure(options, double, single))
        return
    found = {}
    for double, single in BLOCKS:
        command = [sys.executable, __file__, *sys.argv[1:], "--one", f"{double},{single}"]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[double, single] = [int(part) / 1e9 for part in out.split()]
        print(f"{double} double, {single} single: {found[double, single][0]:.2f} GB held, "
              f"{found[double, single][1]:.2f} GB for a step", flush=True)  # fmt: skip
    total = 0.0
    for part, name in enumerate(("held", "for a step")):
        base, double, single = (found[blocks][part] for blocks in BLOCKS)
        double, single = max(0.0, double - base), max(0.0, single - base)
        whole = base + (FULL[0] - 2) * double + (FULL[1] - 2) * single
        total += whole
        print(f"{name}: a double block adds {double:.3f} GB, a single one {single:.3f}; "
              f"19 + 38 blocks make {whole:.1f} GB")  # fmt: skip
    print(f"together: {total:.1f} GB ({options.kind}, {options.size} x {options.size} with one "
          f"reference, batch 1, rank {options.rank}, {options.dtype})")  # fmt: skip


if __name__ == "__main__":
    main()
