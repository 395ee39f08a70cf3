"""Small LoRA files in the words of every trainer, each beside the weights it must lead to.

The formulas here are written out apart from the product's, straight from the papers and from what
the trainers' own code does; the names are tables of their own.
"""

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


PEFT = ("lora_A.weight", "lora_B.weight")
# DiffSynth's own names for the layers of a block.
DIFFSYNTH = {
    "blocks.1.norm1_a.linear": "double_blocks.1.img_mod.lin",
    "blocks.1.norm1_b.linear": "double_blocks.1.txt_mod.lin",
    "blocks.1.attn.a_to_qkv": "double_blocks.1.img_attn.qkv",
    "blocks.0.attn.b_to_qkv": "double_blocks.0.txt_attn.qkv",
    "blocks.0.attn.a_to_out": "double_blocks.0.img_attn.proj",
    "blocks.0.attn.b_to_out": "double_blocks.0.txt_attn.proj",
    "blocks.0.ff_a.0": "double_blocks.0.img_mlp.0",
    "blocks.1.ff_b.2": "double_blocks.1.txt_mlp.2",
    "single_blocks.1.norm.linear": "single_blocks.1.modulation.lin",
    "single_blocks.0.to_qkv_mlp": "single_blocks.0.linear1",
    "single_blocks.1.proj_out": "single_blocks.1.linear2",
}


def pairs(
    network: Flux,
    seed: int,
    spell: Callable[[str], str],
    *,
    layout: str = "bfl",
    dora: str = "",
    only: Callable[[str], bool] = lambda name: True,
    **options: object,
) -> Made:
    """Plain LoRA on every layer, named by `spell`."""
    writer = Writer(seed)
    sizes = linears(network)
    everything = {name: (name, torch.arange(rows)) for name, (rows, _) in sizes.items()}
    names = everything if layout == "bfl" else diffusers_names(network)
    for name, (module, rows) in names.items():
        if only(name):
            columns = sizes[module][1]
            writer.lora(spell(name), module, rows, columns, dora=dora, **options)  # pyright: ignore
    return writer.made


def blocks_split(network: Flux, seed: int) -> Made:
    """What sd-scripts writes for `split_qkv`: one up of several ranks, zero outside its blocks."""
    writer, h = Writer(seed), network.params.hidden_size
    for module, (rows, columns) in linears(network).items():
        if not module.endswith(("qkv", "linear1")):
            continue
        bounds = [0, h, 2 * h, 3 * h] + ([rows] if rows > 3 * h else [])
        rank, count = 4, len(bounds) - 1
        down, up = writer.draw(rank * count, columns), torch.zeros(rows, rank * count)
        for i in range(count):
            up[bounds[i] : bounds[i + 1], i * rank : i * rank + rank] = writer.draw(
                bounds[i + 1] - bounds[i], rank
            )
        stem = "lora_unet_" + module.replace(".", "_")
        writer.made.tensors |= {
            f"{stem}.lora_down.weight": down,
            f"{stem}.lora_up.weight": up,
            f"{stem}.alpha": torch.tensor(2.0 * count),
        }
        change = 0.5 * (up.double() @ down.double())
        writer.add(stem, module, torch.arange(rows), lambda w, change=change: change)
    return writer.made


def xlabs(network: Flux, seed: int) -> Made:
    """XLabs' and USO's processors: no alpha, qkv of single blocks without the MLP's rows."""
    writer, h = Writer(seed), network.params.hidden_size
    names = ("down.weight", "up.weight")
    for i in range(network.params.depth):
        for n, side in (("1", "img"), ("2", "txt")):
            for part, size in (("qkv", 3 * h), ("proj", h)):
                writer.lora(
                    f"double_blocks.{i}.processor.{part}_lora{n}",
                    f"double_blocks.{i}.{side}_attn.{part}",
                    torch.arange(size), h, names=names,
                )  # fmt: skip
    for i in range(network.params.depth_single_blocks):
        stem, block = f"single_blocks.{i}.processor", f"single_blocks.{i}"
        writer.lora(f"{stem}.qkv_lora", f"{block}.linear1", torch.arange(3 * h), h, names=names)
        width = linears(network)[f"{block}.linear2"][1]
        writer.lora(f"{stem}.proj_lora", f"{block}.linear2", torch.arange(h), width, names=names)
    return writer.made


def diffsynth(network: Flux, seed: int) -> Made:
    """DiffSynth's own layout, adapter name between role and `weight`."""
    writer, sizes = Writer(seed), linears(network)
    names = ("lora_A.default.weight", "lora_B.default.weight")
    for stem, module in DIFFSYNTH.items():
        rows, columns = sizes[module]
        writer.lora(stem, module, torch.arange(rows), columns, names=names)
    return writer.made


def loha(network: Flux, seed: int, rank: int, dora: str = "") -> Made:
    """LyCORIS LoHa on attention and MLP, kohya names."""
    writer = Writer(seed)
    for module, (rows, columns) in linears(network).items():
        if "mlp" not in module and "qkv" not in module:
            continue
        stem = "lora_unet_" + module.replace(".", "_")
        w1a, w1b = writer.draw(rows, rank), writer.draw(rank, columns)
        w2a, w2b = writer.draw(rows, rank), writer.draw(rank, columns)
        for name, tensor in (("w1_a", w1a), ("w1_b", w1b), ("w2_a", w2a), ("w2_b", w2b)):
            writer.made.tensors[f"{stem}.hada_{name}"] = tensor
        writer.made.tensors[f"{stem}.alpha"] = torch.tensor(4.0 * rank)
        change = 4.0 * (w1a.double() @ w1b.double()) * (w2a.double() @ w2b.double())
        every = torch.arange(rows)
        writer.add(stem, module, every, lambda w, c=change: c, dora, columns)
    return writer.made


def lokr(
    network: Flux, seed: int, form: str, spell: Callable[[str], str], dora: str = "", **kw: float
) -> Made:
    """LoKr by diffusers' names. form: which of w1, w2 are products ("", "1", "2", "12")."""
    writer, rank = Writer(seed), 3
    alpha = kw.get("alpha", 6.0)
    for name, (module, rows) in diffusers_names(network).items():
        columns = linears(network)[module][1]
        if len(rows) % 8 or columns % 4:
            continue
        a, b, c, d = 8, 4, len(rows) // 8, columns // 4
        stem = spell(name)
        tensors: dict[str, Tensor] = {}
        factors = []
        for n, (height, width) in (("1", (a, b)), ("2", (c, d))):
            if n in form:
                left, right = writer.draw(height, rank), writer.draw(rank, width)
                tensors |= {f"lokr_w{n}_a": left, f"lokr_w{n}_b": right}
                factors.append(left.double() @ right.double())
            else:
                tensors[f"lokr_w{n}"] = writer.draw(height, width)
                factors.append(tensors[f"lokr_w{n}"].double())
        tensors["alpha"] = torch.tensor(alpha)
        scale = alpha / rank if form else 1.0
        writer.made.tensors |= {f"{stem}.{role}": tensor for role, tensor in tensors.items()}
        first, second = factors
        # Row i*c + k, column j*d + l of a Kronecker product is first[i, j] * second[k, l].
        change = torch.einsum("ij,kl->ikjl", first, second).reshape(a * c, b * d) * scale
        writer.add(stem, module, rows, lambda w, ch=change: ch, dora, columns)
    return writer.made


def full(network: Flux, seed: int) -> Made:
    """Full differences of weights, biases and norm gains."""
    writer = Writer(seed)
    for module, (rows, columns) in linears(network).items():
        if "img_attn" in module or "linear2" in module:
            stem = f"diffusion_model.{module}"
            change, bias = writer.draw(rows, columns), writer.draw(rows)
            writer.made.tensors |= {f"{stem}.diff": change, f"{stem}.diff_b": bias}
            writer.made.biases.append((module, bias))
            every = torch.arange(rows)
            writer.add(stem, module, every, lambda w, c=change: c.double())
    size = network.params.hidden_size // network.params.num_heads
    for norm, stem in (
        ("double_blocks.0.img_attn.norm.query_norm", "{}.diff"),
        ("double_blocks.1.txt_attn.norm.key_norm", "{}.scale.diff"),
        ("single_blocks.1.norm.key_norm", "{}.w_norm"),
    ):
        gain = writer.draw(size)
        writer.made.tensors["diffusion_model." + stem.format(norm)] = gain
        writer.made.gains.append((norm, gain))
    return writer.made


def oft(network: Flux, seed: int, constraint: float | None, rescale: bool = False) -> Made:
    """LyCORIS Diag-OFT in blocks of 8 rows."""
    writer = Writer(seed)
    for module, (rows, _) in linears(network).items():
        if "proj" not in module and "linear1" not in module:
            continue
        stem = "lora_unet_" + module.replace(".", "_")
        blocks = writer.draw(rows // 8, 8, 8)
        writer.made.tensors[f"{stem}.oft_blocks"] = blocks
        if constraint is not None:
            writer.made.tensors[f"{stem}.alpha"] = torch.tensor(constraint)
        skew = (blocks - blocks.transpose(1, 2)).double()
        if constraint:
            skew = skew * min(1.0, constraint / float(skew.norm()))
        eye = torch.eye(8, dtype=torch.float64)
        turns = torch.block_diag(*((eye + s) @ torch.linalg.inv(eye - s) for s in skew))
        lengths = torch.ones(rows, 1)
        if rescale:
            lengths = 1 + writer.draw(rows, 1)
            writer.made.tensors[f"{stem}.rescale"] = lengths
        turned = lengths.double() * turns.T
        writer.add(stem, module, torch.arange(rows), lambda w, t=turned: t @ w - w)
    return writer.made


def glora(network: Flux, seed: int, old: bool) -> Made:
    """GLoRA, in the order of today's or of old LyCORIS files."""
    writer, rank = Writer(seed), 4
    for module, (rows, columns) in linears(network).items():
        if "mlp" not in module and "linear" not in module:
            continue
        stem = "lora_unet_" + module.replace(".", "_")
        # W in_up in_down + out_up out_down
        in_up, in_down = writer.draw(columns, rank), writer.draw(rank, columns)
        out_up, out_down = writer.draw(rows, rank), writer.draw(rank, columns)
        order = (in_down, in_up, out_down, out_up) if old else (in_up, in_down, out_up, out_down)
        for name, tensor in zip(("a1", "a2", "b1", "b2"), order, strict=True):
            writer.made.tensors[f"{stem}.{name}.weight"] = tensor
        writer.made.tensors[f"{stem}.alpha"] = torch.tensor(2.0)
        inner, outer = (in_up.double() @ in_down.double()), (out_up.double() @ out_down.double())
        writer.add(stem, module, torch.arange(rows), lambda w, i=inner, o=outer: 0.5 * (w @ i + o))
    return writer.made


def tucker(network: Flux, seed: int) -> Made:
    """Cores between the factors, and factors shaped as 1x1 convolutions."""
    writer, sizes = Writer(seed), linears(network)
    rows, columns = sizes["single_blocks.0.linear2"]
    every = torch.arange(rows)
    up, mid, down = (
        writer.draw(rows, 4, 1, 1),
        writer.draw(4, 4, 1, 1),
        writer.draw(4, columns, 1, 1),
    )
    stem = "lora_unet_single_blocks_0_linear2"
    writer.made.tensors |= {
        f"{stem}.lora_up.weight": up, f"{stem}.lora_mid.weight": mid, f"{stem}.lora_down.weight": down,
    }  # fmt: skip
    u, m, d = (t.double()[:, :, 0, 0] for t in (up, mid, down))
    writer.add(stem, "single_blocks.0.linear2", every, lambda w: u @ m @ d)
    return writer.made


def lora_files(network: Flux) -> dict[str, Made]:
    """Every form, by a short name."""

    def flat(prefix: str) -> Callable[[str], str]:
        return lambda name: prefix + name.replace(".", "_")

    def dotted(prefix: str) -> Callable[[str], str]:
        return lambda name: prefix + name

    df, kohya, lycoris = dotted("transformer."), flat("lora_unet_"), flat("lycoris_")
    return {
        "kohya": pairs(network, 1, kohya, alpha=2.0),
        "kohya without alpha": pairs(network, 2, kohya),
        "kohya half precision": pairs(network, 3, kohya, alpha=1.0, dtype=torch.bfloat16),
        "kohya split blocks": blocks_split(network, 4),
        "kohya diffusers names": pairs(network, 5, kohya, layout="df", alpha=2.0, only=lambda n: "blocks" in n),
        "diffusers": pairs(network, 6, df, layout="df", names=PEFT),
        "diffusers with alpha": pairs(network, 7, df, layout="df", names=PEFT, alpha=3.0),
        "diffusers down and up": pairs(network, 8, df, layout="df", names=("lora.down.weight", "lora.up.weight")),
        "bare diffusers": pairs(network, 9, dotted(""), layout="df", names=("lora_A.default.weight", "lora_B.default.weight")),
        "generic": pairs(network, 10, dotted("diffusion_model."), names=PEFT),
        "generic down and up": pairs(network, 11, dotted("diffusion_model."), alpha=8.0),
        "fal": pairs(network, 12, dotted("base_model.model."), names=PEFT),
        "peft folder": pairs(network, 13, dotted("base_model.model."), layout="df", names=PEFT),
        "OneTrainer": pairs(network, 14, flat("lora_transformer_"), layout="df", alpha=1.0),
        "XLabs": xlabs(network, 15),
        "DiffSynth": diffsynth(network, 16),
        "SimpleTuner LoKr": lokr(network, 17, "", lycoris),
        "SimpleTuner LoKr, second split": lokr(network, 18, "2", lycoris),
        "SimpleTuner LoKr, both split": lokr(network, 19, "12", lycoris),
        "ai-toolkit LoKr": lokr(network, 20, "1", df),
        "LoHa": loha(network, 21, 3),
        "LoHa of high rank": loha(network, 22, 12),
        "DoRA on rows": pairs(network, 23, kohya, alpha=2.0, dora="rows"),
        "DoRA on columns": pairs(network, 24, kohya, dora="columns", alpha=2.0),
        "DoRA of parts": pairs(network, 25, df, layout="df", names=PEFT, dora="rows", only=lambda n: "norm_out" not in n),
        "DoRA of parts on columns": pairs(network, 26, df, layout="df", names=PEFT, dora="columns", only=lambda n: "norm_out" not in n),
        "PEFT DoRA": pairs(network, 27, df, layout="df", names=PEFT, dora="peft"),
        "DoRA of LoKr": lokr(network, 28, "2", lycoris, dora="rows"),
        "DoRA of LoHa": loha(network, 29, 2, dora="rows"),
        "full differences": full(network, 30),
        "OFT": oft(network, 31, None),
        "OFT with constraint": oft(network, 32, 0.8),
        "OFT with lengths": oft(network, 33, None, rescale=True),
        "GLoRA": glora(network, 34, old=False),
        "old GLoRA": glora(network, 35, old=True),
        "cores": tucker(network, 36),
    }  # fmt: skip
