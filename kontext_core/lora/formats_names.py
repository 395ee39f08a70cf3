"""Which layer of ours a name in a LoRA file means, whatever tool wrote the name.

Names differ in prefix, in `.` or `_` between parts, and in the layout they count in: BFL (our
own: fused qkv and linear1), diffusers (q, k, v, mlp apart; scale and shift of the last modulation
swapped), XLabs' attention processors, DiffSynth. So a name is brought to one spelling (`_`, block
number out), looked up, and prefixes are peeled off until something is found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import CheckpointError

# Of a layer: (start, stop) each.
RowRanges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Target:
    """A layer of ours, or some of its rows.

    module: dotted name in `Flux`.
    part: None for all rows in order; "q", "k", "v", "qkv", "mlp" for rows of a fused layer;
        "swap" for all rows with the second half first (diffusers' norm_out.linear).
    """

    module: str
    part: str | None = None

    def rows(self, out_features: int, in_features: int) -> RowRanges:
        """Row ranges (start, stop) of the layer in the order of the file's rows.

        Raises:
            CheckpointError: the layer has no such part (a model of other proportions).
        """
        h = in_features
        ranges: dict[str | None, RowRanges] = {
            None: ((0, out_features),),
            "q": ((0, h),),
            "k": ((h, 2 * h),),
            "v": ((2 * h, 3 * h),),
            "qkv": ((0, 3 * h),),
            "mlp": ((3 * h, out_features),),
            "swap": ((out_features // 2, out_features), (0, out_features // 2)),
        }
        found = ranges[self.part]
        if any(stop > out_features or start >= stop for start, stop in found):
            raise CheckpointError(
                f"{self.module} has {out_features} rows and {in_features} columns; it has no part "
                f"{self.part!r}. The LoRA is for a model of another architecture"
            )
        return found


@dataclass(frozen=True)
class Name:
    """What a name means, and in whose words it was said."""

    target: Target
    layout: str
    prefix: str


def _double() -> Iterator[tuple[str, str, str, str | None]]:
    """(layout, spelling with # for the number, our module, part) of a double-stream block."""
    ours = "double_blocks.#"
    for side, other, letter, number in (("img", "", "a", "1"), ("txt", "_context", "b", "2")):
        for name in ("mod.lin", "attn.qkv", "attn.proj", "mlp.0", "mlp.2"):
            yield "bfl", f"{ours}.{side}_{name}", f"{ours}.{side}_{name}", None
        # OneTrainer: q, k and v apart under the fused layer's name.
        for row, part in enumerate("qkv"):
            yield "bfl", f"{ours}.{side}_attn.qkv.{row}", f"{ours}.{side}_attn.qkv", part
        for name in ("query_norm", "key_norm"):
            norm = f"{ours}.{side}_attn.norm.{name}"
            yield "bfl", norm, norm, None
            yield "bfl", f"{norm}.scale", norm, None
        df = "transformer_blocks.#"
        qkv, proj = f"{ours}.{side}_attn.qkv", f"{ours}.{side}_attn.proj"
        names = (
            ("to_q", "to_k", "to_v")
            if side == "img"
            else ("add_q_proj", "add_k_proj", "add_v_proj")
        )
        for name, part in zip(names, "qkv", strict=True):
            yield "diffusers", f"{df}.attn.{name}", qkv, part
        fused = "to_qkv" if side == "img" else "to_added_qkv"
        yield "diffusers", f"{df}.attn.{fused}", qkv, None
        for out in ("to_out.0", "to_out") if side == "img" else ("to_add_out",):
            yield "diffusers", f"{df}.attn.{out}", proj, None
        added = "" if side == "img" else "added_"
        yield "diffusers", f"{df}.attn.norm_{added}q", f"{ours}.{side}_attn.norm.query_norm", None
        yield "diffusers", f"{df}.attn.norm_{added}k", f"{ours}.{side}_attn.norm.key_norm", None
        yield "diffusers", f"{df}.norm1{other}.linear", f"{ours}.{side}_mod.lin", None
        yield "diffusers", f"{df}.ff{other}.net.0.proj", f"{ours}.{side}_mlp.0", None
        yield "diffusers", f"{df}.ff{other}.net.2", f"{ours}.{side}_mlp.2", None
        yield "xlabs", f"{ours}.processor.qkv_lora{number}", qkv, None
        yield "xlabs", f"{ours}.processor.proj_lora{number}", proj, None
        yield "diffsynth", f"blocks.#.norm1_{letter}.linear", f"{ours}.{side}_mod.lin", None
        yield "diffsynth", f"blocks.#.attn.{letter}_to_qkv", qkv, None
        yield "diffsynth", f"blocks.#.attn.{letter}_to_out", proj, None
        for n in "02":
            yield "diffsynth", f"blocks.#.ff_{letter}.{n}", f"{ours}.{side}_mlp.{n}", None


def _single() -> Iterator[tuple[str, str, str, str | None]]:
    ours, df = "single_blocks.#", "single_transformer_blocks.#"
    for name in ("linear1", "linear2", "modulation.lin"):
        yield "bfl", f"{ours}.{name}", f"{ours}.{name}", None
    yield "bfl", f"{ours}.linear1_qkv", f"{ours}.linear1", "qkv"
    for row, part in enumerate(("q", "k", "v", "mlp")):
        yield "bfl", f"{ours}.linear1.{row}", f"{ours}.linear1", part
    for name, short in (("query_norm", "q"), ("key_norm", "k")):
        for tail in ("", ".scale"):
            yield "bfl", f"{ours}.norm.{name}{tail}", f"{ours}.norm.{name}", None
        yield "diffusers", f"{df}.attn.norm_{short}", f"{ours}.norm.{name}", None
    for part in "qkv":
        yield "diffusers", f"{df}.attn.to_{part}", f"{ours}.linear1", part
    yield "diffusers", f"{df}.attn.to_qkv", f"{ours}.linear1", "qkv"
    yield "diffusers", f"{df}.proj_mlp", f"{ours}.linear1", "mlp"
    yield "diffusers", f"{df}.proj_out", f"{ours}.linear2", None
    yield "diffusers", f"{df}.norm.linear", f"{ours}.modulation.lin", None
    yield "xlabs", f"{ours}.processor.qkv_lora", f"{ours}.linear1", "qkv"
    yield "xlabs", f"{ours}.processor.proj_lora", f"{ours}.linear2", None
    yield "diffsynth", f"{ours}.to_qkv_mlp", f"{ours}.linear1", None
    yield "diffsynth", f"{ours}.proj_out", f"{ours}.linear2", None
    yield "diffsynth", f"{ours}.norm.linear", f"{ours}.modulation.lin", None


def _outer() -> Iterator[tuple[str, str, str, str | None]]:
    for name in ("img_in", "txt_in", "final_layer.linear", "final_layer.adaLN_modulation.1"):
        yield "bfl", name, name, None
    yield "bfl", "img_in.proj", "img_in", None
    yield "diffusers", "x_embedder", "img_in", None
    yield "diffusers", "context_embedder", "txt_in", None
    yield "diffusers", "proj_out", "final_layer.linear", None
    yield "diffusers", "norm_out.linear", "final_layer.adaLN_modulation.1", "swap"
    pairs = (("time_in", "timestep"), ("guidance_in", "guidance"), ("vector_in", "text"))
    for ours, theirs in pairs:
        for part, n in (("in_layer", 1), ("out_layer", 2)):
            yield "bfl", f"{ours}.{part}", f"{ours}.{part}", None
            name = f"time_text_embed.{theirs}_embedder.linear_{n}"
            yield "diffusers", name, f"{ours}.{part}", None


def _table() -> dict[str, tuple[str, str, str | None]]:
    table: dict[str, tuple[str, str, str | None]] = {}
    for source in (_double(), _single(), _outer()):
        for layout, spelling, module, part in source:
            entry = (layout, module, part)
            if table.setdefault(spelling.replace(".", "_"), entry) != entry:
                raise ValueError(f"{spelling} is claimed twice")
    return table


TABLE = _table()
# Longest first. What training frameworks and formats put in front of a module's name.
PREFIXES = (
    "base_model_model_",
    "model_diffusion_model_",
    "diffusion_model_",
    "lora_transformer_",
    "lora_unet_",
    "lycoris_",
    "_orig_mod_",
    "transformer_",
    "module_",
    "model_",
    "unet_",
    "net_",
    "dit_",
    "_",
)
LONGEST = 256
BLOCK = re.compile(r"(?<![a-z])((?:double_|single_)?(?:transformer_)?blocks)_(\d+)_")
TEXT = re.compile(
    r"^(lora_prior_te|lora_te\d?_|te\d?_|text_encoder|text_model|clip_[lg][._]|t5xxl|"
    r"t5[._]|(base_model\.model\.)?(encoder\.block|text_model)|bundle_emb|cond_stage_model|"
    r"lora_te\.|lycoris_text_|lora_embedding)"
)

T5_LAYER = re.compile(
    r"encoder_block_(\d{1,4})_layer_([01])_(SelfAttention|DenseReluDense)_(q|k|v|o|wi_0|wi_1|wo)$"
)
CLIP_LAYER = re.compile(
    r"(?:^|_)(?:text_model_)?encoder_layers_(\d{1,4})_(self_attn|mlp)_"
    r"(q_proj|k_proj|v_proj|out_proj|fc1|fc2)$"
)


def diffusers_names(module: str) -> list[tuple[str, str | None]]:
    """What diffusers calls a layer of ours: (name, part of `Target`) for every layer it makes of it.

    Raises:
        KeyError: no layer that diffusers has.
    """
    number = BLOCK.search(module.replace(".", "_"))
    general = re.sub(r"_blocks\.\d+\.", "_blocks.#.", module)
    found: dict[str | None, str] = {}
    for source in (_double(), _single(), _outer()):
        for layout, spelling, ours, part in source:
            if layout == "diffusers" and ours == general:
                found.setdefault(part, spelling)
    if "q" in found:
        # Apart, not as some of its models fuse them.
        found = {part: found[part] for part in ("q", "k", "v", "mlp") if part in found}
    if not found:
        raise KeyError(module)
    index = number.group(2) if number else ""
    return [(spelling.replace("#", index), part) for part, spelling in found.items()]


def parse_name(stem: str) -> Name | None:
    """The layer a name stands for, or None.

    Args:
        stem: a key of the file without what follows the layer's name (`.lora_A.weight`, ...).
    """
    if len(stem) > LONGEST:
        return None
    name = stem.replace(".", "_").replace("_attn_processor_", "_attn_")
    prefix = ""
    while True:
        # Some trainers leave the dot before the role as an underscore too.
        for candidate in dict.fromkeys((name, name.removesuffix("_lora"), name.rstrip("_"))):
            spelled = BLOCK.sub(r"\1_#_", candidate, count=1)
            if spelled in TABLE:
                layout, module, part = TABLE[spelled]
                number = BLOCK.search(candidate)
                if number:
                    module = module.replace("#", str(int(number.group(2))))
                return Name(Target(module, part), layout, prefix)
        front = next((p for p in PREFIXES if name.startswith(p)), None)
        if front is None:
            return None
        prefix += front
        name = name[len(front) :]


def parse_text(stem: str) -> tuple[str, Target] | None:
    """The text encoder ("t5" or "clip_l") and its layer that a name stands for, or None.

    Args:
        stem: as for `parse_name`; whatever stands before the layer's own name is left out.
    """
    name = stem.replace(".", "_").rstrip("_") if len(stem) <= LONGEST else ""
    if match := T5_LAYER.search(name):
        block, layer, kind, leaf = match.groups()
        return "t5", Target(f"encoder.block.{int(block)}.layer.{layer}.{kind}.{leaf}")
    # lora_te2 with CLIP's names is SDXL's second encoder.
    if (match := CLIP_LAYER.search(name)) and not name.startswith("lora_te2"):
        block, kind, leaf = match.groups()
        return "clip_l", Target(f"text_model.encoder.layers.{int(block)}.{kind}.{leaf}")
    return None


def is_text_encoder(key: str) -> bool:
    """Whether a key belongs to CLIP or T5."""
    return TEXT.search(key.removeprefix("lycoris_").removeprefix("base_model.model.")) is not None
