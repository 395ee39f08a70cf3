"""Small LoRA files in the words of every trainer, each beside the weights it must lead to.

The formulas here are written out apart from the product's, straight from the papers and from what
the trainers' own code does; the names are tables of their own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from lora_writer import Made, Writer, diffusers_names, linears
from torch import Tensor

from kontext_core import Flux

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
