"""What a LoRA costs: CPU time of a forward with and without it, in turn, in one run.

    python benchmarks/lora.py [--width 3072] [--tokens 448] [--rank 64] [--repeats 7] [--output FILE]

One double and one single block of FLUX.1's proportions on one thread, modulations made beforehand as a
sampler does. Both networks share their weights; they take turns (which goes first changes too). Two
figures, medians over repeats: the paired ratio of whole steps, and the time inside the branches next to
the rest of the same step, which other work on the machine disturbs less. `--forms` picks how the weights
are stored.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from kontext_core import Flux
from kontext_core.config import FluxParams
from kontext_core.lora import Lora, load_lora, set_loras
from kontext_core.quant.linear import QuantLinear, ScaledLinear
from kontext_core.quant.types import row_bytes

RESULTS = Path(__file__).resolve().parent / "results" / "lora.json"
BAR = 1.03
FORMS = ("Q4_K", "Q8_0", "bf16", "F32")


def network(width: int) -> Flux:
    """One block of each sort, random weights."""
    head = width // 24 if width % 24 == 0 else 64
    axes = (head // 8, head * 7 // 16, head * 7 // 16)
    params = FluxParams(
        hidden_size=width, num_heads=width // head, depth=1, depth_single_blocks=1, axes_dim=axes
    )
    with torch.device("meta"):
        model = Flux(params)
    model.to_empty(device="cpu").requires_grad_(False).eval()
    torch.manual_seed(0)
    for parameter in model.parameters():
        bound = 1.7 / parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 0.1
        parameter.uniform_(-bound, bound)
    return model


def store(model: Flux, form: str) -> None:
    """Turn the blocks' layers into packed ones; packed numbers are random and small."""
    if form == "F32":
        return
    for name, module in list(model.named_modules()):
        if not isinstance(module, nn.Linear) or "blocks" not in name:
            continue
        rows, columns = module.out_features, module.in_features
        if form == "bf16":
            layer: nn.Module = ScaledLinear(module.weight.bfloat16(), module.bias)
        else:
            # Byte 8 everywhere in the float16 fields is 1e-4: finite, tiny.
            blocks = torch.randint(0, 9, (rows, row_bytes(form, columns)), dtype=torch.uint8)
            layer = QuantLinear(blocks, form, columns, module.bias)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer)


def twin(model: Flux) -> Flux:
    """A network of the same layers' weights, not copied, with hooks of its own."""
    other = Flux(model.params, device="meta")
    for name, module in model.named_modules():
        if hasattr(module, "weight") and hasattr(module, "in_features"):
            copy: Any = object.__new__(type(module))
            copy.__dict__ = {**module.__dict__}
            for registry in ("_forward_hooks", "_forward_pre_hooks", "_parameters", "_buffers"):
                copy.__dict__[registry] = type(module.__dict__[registry])(module.__dict__[registry])
            parent, _, child = name.rpartition(".")
            setattr(other.get_submodule(parent), child, copy)
        elif hasattr(module, "scale") and isinstance(module.scale, nn.Parameter):
            other.get_submodule(name).scale = module.scale
    return other.requires_grad_(False).eval()


def lora(model: Flux, rank: int, split: bool, folder: Path) -> Lora:
    """A LoRA on every block layer but the modulations: fused as sd-scripts, or split as diffusers."""
    tensors: dict[str, Tensor] = {}

    def add(stem: str, rows: int, columns: int) -> None:
        tensors[f"{stem}.lora_A.weight"] = torch.randn(rank, columns) / columns**0.5
        tensors[f"{stem}.lora_B.weight"] = 0.1 * torch.randn(rows, rank)

    h, mlp = model.params.hidden_size, int(model.params.hidden_size * model.params.mlp_ratio)
    if not split:
        for name, module in model.named_modules():
            if "blocks" in name and "mod" not in name and hasattr(module, "in_features"):
                layer: Any = module
                add(f"diffusion_model.{name}", layer.out_features, layer.in_features)
    else:
        block = "transformer.transformer_blocks.0"
        for name in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj",
                     "to_add_out"):  # fmt: skip
            add(f"{block}.attn.{name}", h, h)
        for name in ("ff", "ff_context"):
            add(f"{block}.{name}.net.0.proj", mlp, h)
            add(f"{block}.{name}.net.2", h, mlp)
        block = "transformer.single_transformer_blocks.0"
        for name in ("to_q", "to_k", "to_v"):
            add(f"{block}.attn.{name}", h, h)
        add(f"{block}.proj_mlp", mlp, h)
        add(f"{block}.proj_out", h, h + mlp)
    path = folder / f"{split}.safetensors"
    save_file(tensors, path)
    return load_lora(path)


def step(model: Flux, inputs: dict[str, Any]) -> float:
    with torch.inference_mode():
        made = model.modulations(inputs["timesteps"], inputs["y"], inputs["guidance"]).at(0, 1)
        start = time.process_time()
        model(**inputs, modulation=made)
    return time.process_time() - start


class Clock:
    """Adds up CPU time inside the branches of a network."""

    def __init__(self, model: Flux) -> None:
        self.seconds = 0.0
        for module in model.modules():
            for key, hook in list(module._forward_hooks.items()):
                module._forward_hooks[key] = self.timed(hook)

    def timed(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            start = time.process_time()
            result = hook(*args)
            self.seconds += time.process_time() - start
            return result

        return run


def measure(models: tuple[Flux, Flux], inputs: dict[str, Any], repeats: int) -> dict[str, float]:
    plain, with_lora = models
    pairs: list[tuple[float, float]] = []
    shares: list[float] = []
    clock = Clock(with_lora)
    for repeat in range(repeats + 1):
        clock.seconds = 0.0
        if repeat % 2:
            without = step(plain, inputs)
            pair = without, step(with_lora, inputs)
        else:
            beside = step(with_lora, inputs)
            pair = step(plain, inputs), beside
        if repeat:
            pairs.append(pair)
            shares.append(clock.seconds / (pair[1] - clock.seconds))
    return {
        "branches": 1 + statistics.median(shares),
        "ratio": statistics.median(b / a for a, b in pairs),
        "ratio of shortest": min(b for _, b in pairs) / min(a for a, _ in pairs),
        "seconds without": statistics.median(a for a, _ in pairs),
        "seconds with": statistics.median(b for _, b in pairs),
    }


def unhook(model: Flux) -> None:
    """Take the clock's wrappers off, which `set_loras` does not know."""
    for module in model.modules():
        module._forward_hooks.clear()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--width", type=int, default=3072)
    parser.add_argument(
        "--tokens", type=int, default=448, help="image tokens; 64 of text come on top"
    )
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines: dict[str, dict[str, float]] = {}
    print(f"{'weights':8} {'LoRA':14} {'without':>9} {'with':>9} {'ratio':>7} {'branches':>9}")
    for form in args.forms:
        plain = network(args.width)
        store(plain, form)
        p = plain.params
        side = int(args.tokens**0.5)
        ids = torch.zeros(1, args.tokens, 3)
        ids[0, :, 1] = torch.arange(args.tokens) // side
        ids[0, :, 2] = torch.arange(args.tokens) % side
        y, t, g = torch.randn(1, p.vec_in_dim), torch.tensor([0.6]), torch.tensor([2.5])
        inputs: dict[str, Any] = {
            "img": torch.randn(1, args.tokens, p.in_channels), "img_ids": ids,
            "txt": torch.randn(1, 64, p.context_in_dim), "txt_ids": torch.zeros(1, 64, 3),
            "timesteps": t, "y": y, "guidance": g,
        }  # fmt: skip
        with_lora = twin(plain)
        with tempfile.TemporaryDirectory() as folder:
            for split in (False, True):
                name = f"rank {args.rank} {'split' if split else 'fused'}"
                report = set_loras(with_lora, [(lora(plain, args.rank, split, Path(folder)), 1.0)])
                if report.unmatched or not report.matched:
                    raise SystemExit(report.text())
                state = with_lora.__dict__["_kontext_loras"]
                start = time.process_time()
                set_loras(with_lora, [(state.loras[0], 0.5)])
                strength = time.process_time() - start
                line = measure((plain, with_lora), inputs, args.repeats)
                line["seconds for another strength"] = strength
                set_loras(with_lora, [])
                unhook(with_lora)
                lines[f"{form}, {name}"] = line
                print(
                    f"{form:8} {name:14} {line['seconds without']:8.2f}s {line['seconds with']:8.2f}s "
                    f"{line['ratio']:7.3f} {line['branches']:9.3f}",
                    flush=True,
                )
    result = {
        "command": " ".join(["python", "benchmarks/lora.py", *sys.argv[1:]]),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "width": args.width,
        "tokens": args.tokens + 64,
        "bar": BAR,
        "lines": lines,
    }
    args.output.parent.mkdir(exist_ok=True)
    args.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
