"""Collects small LoRA files, each with what it does to a network; layers by two sets of names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from small_models import make_flux
from torch import Tensor, nn

from kontext_core import Flux

Delta = Callable[[Tensor], Tensor]
SWAP = "final_layer.adaLN_modulation.1"


@dataclass
class Made:
    """A file and what it does to a network: `changes` are (module, row index, delta at strength 1)."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    changes: list[tuple[str, Tensor, Delta]] = field(default_factory=list)
    biases: list[tuple[str, Tensor]] = field(default_factory=list)
    gains: list[tuple[str, Tensor]] = field(default_factory=list)

    def write(self, path: Path) -> Path:
        """Save as safetensors."""
        save_file({k: v.contiguous() for k, v in self.tensors.items()}, path, self.metadata)
        return path

    def merged(self, network: Flux, strength: float = 1.0) -> Flux:
        """A copy of the network's class with reference weights; the network is left alone."""
        other = make_flux()
        state = {k: v.clone().double() for k, v in network.state_dict().items()}
        original = {k: v.clone() for k, v in state.items()}
        for module, rows, delta in self.changes:
            state[f"{module}.weight"][rows] += strength * delta(original[f"{module}.weight"][rows])
        for module, change in self.biases:
            state[f"{module}.bias"] += strength * change.double()
        for module, change in self.gains:
            state[f"{module}.scale"] += strength * change.double()
        other.load_state_dict({k: v.float() for k, v in state.items()})
        return other


class Writer:
    """Collects a file layer by layer."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.made = Made()

    def draw(self, *shape: int) -> Tensor:
        """Numbers of a size that makes a product of three visible and harmless."""
        return 0.15 * torch.randn(shape, generator=self.generator)

    def lora(
        self,
        stem: str,
        module: str,
        rows: Tensor,
        columns: int,
        *,
        rank: int = 4,
        names: tuple[str, str] = ("lora_down.weight", "lora_up.weight"),
        alpha: float | None = None,
        scale: float | None = None,
        dora: str = "",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """A plain pair; `scale` overrules alpha / rank in the expectation; `dora` the axis."""
        down, up = self.draw(rank, columns).to(dtype), self.draw(len(rows), rank).to(dtype)
        self.made.tensors[f"{stem}.{names[0]}"] = down
        self.made.tensors[f"{stem}.{names[1]}"] = up
        if alpha is not None:
            self.made.tensors[f"{stem}.alpha"] = torch.tensor(alpha)
        factor = scale if scale is not None else 1.0 if alpha is None else alpha / rank
        change = factor * (up.double() @ down.double())
        self.add(stem, module, rows, lambda w: change, dora, columns)

    def add(
        self, stem: str, module: str, rows: Tensor, delta: Delta, dora: str = "", columns: int = 0
    ) -> None:
        """Note a change, under DoRA if asked for: "rows", "columns" or "peft"."""
        if not dora:
            self.made.changes.append((module, rows, delta))
            return
        count = columns if dora == "columns" else len(rows)
        lengths = 1 + self.draw(count).abs()
        key = "lora_magnitude_vector.weight" if dora == "peft" else "dora_scale"
        shape = {"rows": (-1, 1), "columns": (1, -1), "peft": (-1,)}[dora]
        self.made.tensors[f"{stem}.{key}"] = lengths.reshape(shape)

        def decomposed(w: Tensor) -> Tensor:
            changed = w + delta(w)
            if dora == "rows":
                gain = lengths[:, None] / (w * w).sum(1, keepdim=True).sqrt()
            elif dora == "peft":
                gain = lengths[:, None] / (changed * changed).sum(1, keepdim=True).sqrt()
            else:
                gain = lengths[None] / (changed * changed).sum(0, keepdim=True).sqrt()
            return changed * gain.double() - w

        self.made.changes.append((module, rows, decomposed))


def linears(network: Flux) -> dict[str, tuple[int, int]]:
    """(rows, columns) of every linear layer by name."""
    return {
        name: (module.out_features, module.in_features)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear)
    }


def diffusers_names(network: Flux) -> dict[str, tuple[str, Tensor]]:
    """Every linear layer of diffusers' FluxTransformer2DModel: our module and row index."""
    sizes, h = linears(network), network.params.hidden_size
    names: dict[str, tuple[str, Tensor]] = {}

    def whole(name: str, module: str) -> None:
        names[name] = (module, torch.arange(sizes[module][0]))

    whole("x_embedder", "img_in")
    whole("context_embedder", "txt_in")
    whole("proj_out", "final_layer.linear")
    half = sizes[SWAP][0] // 2
    names["norm_out.linear"] = (SWAP, torch.cat([torch.arange(half, 2 * half), torch.arange(half)]))
    for theirs, ours in (
        ("timestep", "time_in"),
        ("guidance", "guidance_in"),
        ("text", "vector_in"),
    ):
        whole(f"time_text_embed.{theirs}_embedder.linear_1", f"{ours}.in_layer")
        whole(f"time_text_embed.{theirs}_embedder.linear_2", f"{ours}.out_layer")
    for i in range(network.params.depth):
        b, o = f"transformer_blocks.{i}", f"double_blocks.{i}"
        whole(f"{b}.norm1.linear", f"{o}.img_mod.lin")
        whole(f"{b}.norm1_context.linear", f"{o}.txt_mod.lin")
        for n, name in enumerate(("to_q", "to_k", "to_v")):
            names[f"{b}.attn.{name}"] = (f"{o}.img_attn.qkv", torch.arange(n * h, n * h + h))
        for n, name in enumerate(("add_q_proj", "add_k_proj", "add_v_proj")):
            names[f"{b}.attn.{name}"] = (f"{o}.txt_attn.qkv", torch.arange(n * h, n * h + h))
        whole(f"{b}.attn.to_out.0", f"{o}.img_attn.proj")
        whole(f"{b}.attn.to_add_out", f"{o}.txt_attn.proj")
        whole(f"{b}.ff.net.0.proj", f"{o}.img_mlp.0")
        whole(f"{b}.ff.net.2", f"{o}.img_mlp.2")
        whole(f"{b}.ff_context.net.0.proj", f"{o}.txt_mlp.0")
        whole(f"{b}.ff_context.net.2", f"{o}.txt_mlp.2")
    for i in range(network.params.depth_single_blocks):
        b, o = f"single_transformer_blocks.{i}", f"single_blocks.{i}"
        whole(f"{b}.norm.linear", f"{o}.modulation.lin")
        for n, name in enumerate(("attn.to_q", "attn.to_k", "attn.to_v")):
            names[f"{b}.{name}"] = (f"{o}.linear1", torch.arange(n * h, n * h + h))
        names[f"{b}.proj_mlp"] = (f"{o}.linear1", torch.arange(3 * h, sizes[f"{o}.linear1"][0]))
        whole(f"{b}.proj_out", f"{o}.linear2")
    return names
