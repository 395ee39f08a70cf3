"""Files written by peft and diffusers themselves, beside what peft and diffusers make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from lora_writer import Made
from oracle import diffusers_transformer
from peft import LoHaConfig, LoKrConfig, LoraConfig, PeftConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from small_models import draw
from torch import Tensor, nn

from kontext_core import Flux
from kontext_core.lora import load_lora, set_loras

pytestmark = pytest.mark.parity

# Of a forward, next to its largest output. Measured: 3e-6 at most.
TOLERANCE = 2e-5
LAYERS = (
    r".*\.(to_q|to_k|add_v_proj|to_out\.0|to_add_out|proj_mlp|proj_out|linear_1|linear"
    r"|net\.0\.proj|net\.2)|proj_out|x_embedder"
)


def forward(model: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    img, img_ids, txt, txt_ids, times, vec, guidance = inputs
    with torch.no_grad():
        return model(
            hidden_states=img, encoder_hidden_states=txt, pooled_projections=vec, timestep=times,
            img_ids=img_ids[0], txt_ids=txt_ids[0], guidance=guidance, return_dict=False,
        )[0]  # fmt: skip


def check(ours: Tensor, theirs: Tensor, plain: Tensor) -> None:
    size = theirs.abs().max()
    assert (theirs - plain).abs().max() > 0.02 * size
    assert (ours - theirs).abs().max() < TOLERANCE * size


def stir(model: nn.Module, marks: tuple[str, ...] = ("lora_", "hada_", "lokr_")) -> None:
    """Draw all adapter weights: trainers start some of them at zero."""
    seed = 100
    for name, parameter in model.named_parameters():
        if any(mark in name for mark in marks):
            seed += 1
            drawn = 0.15 * draw(seed, *parameter.shape)
            keep = "magnitude" in name
            parameter.data = parameter.data * (1 + drawn) if keep else drawn


CONFIGS: dict[str, PeftConfig] = {
    "LoRA": LoraConfig(r=4, lora_alpha=6, target_modules=LAYERS),
    "rsLoRA": LoraConfig(r=4, lora_alpha=3, use_rslora=True, target_modules=LAYERS),
    "patterns": LoraConfig(
        r=4, lora_alpha=4, target_modules=LAYERS,
        rank_pattern={"single_transformer_blocks.0.proj_mlp": 2},
        alpha_pattern={"single_transformer_blocks.0.proj_mlp": 5, "transformer_blocks.1.attn.to_q": 1},
    ),
    "DoRA": LoraConfig(r=4, lora_alpha=2, use_dora=True, target_modules=LAYERS),
    "with biases": LoraConfig(r=4, lora_alpha=6, lora_bias=True, target_modules=LAYERS),
    "LoHa": LoHaConfig(r=4, alpha=16, target_modules=LAYERS),
    "LoKr": LoKrConfig(r=3, alpha=6, target_modules=LAYERS),
    "LoKr, both split": LoKrConfig(
        r=2, alpha=3, decompose_both=True, decompose_factor=8, target_modules=LAYERS
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_peft(name: str, flux: Flux, inputs: tuple[Tensor, ...], tmp_path: Path) -> None:
    plain = flux(*inputs)
    model: Any = get_peft_model(diffusers_transformer(flux), CONFIGS[name])
    stir(model)
    model.save_pretrained(tmp_path)
    report = set_loras(flux, [(load_lora(tmp_path), 1.0)])
    assert report.matched and not report.unmatched
    check(flux(*inputs), forward(model.eval(), inputs), plain)


def test_saved_by_diffusers(flux: Flux, inputs: tuple[Tensor, ...], tmp_path: Path) -> None:
    """What the dreambooth script writes: alpha stands in the header only."""
    plain = flux(*inputs)
    twin = diffusers_transformer(flux)
    config = LoraConfig(r=4, lora_alpha=10, target_modules=LAYERS)
    twin.add_adapter(config)
    stir(twin)
    FluxPipeline.save_lora_weights(
        tmp_path,
        transformer_lora_layers=dict(get_peft_model_state_dict(twin)),
        transformer_lora_adapter_metadata=config.to_dict(),
    )
    lora = load_lora(tmp_path)
    assert {entry.scale for entry in lora.entries} == {2.5}
    set_loras(flux, [(lora, 1.0)])
    check(flux(*inputs), forward(twin, inputs), plain)


# Forms whose conversion in diffusers does not depend on the published sizes.
LOADED = ("diffusers", "diffusers with alpha", "PEFT DoRA")


@pytest.mark.parametrize("form", LOADED)
def test_loaded_by_diffusers(
    form: str, made: dict[str, Made], flux: Flux, inputs: tuple[Tensor, ...], file: Path
) -> None:
    plain = flux(*inputs)
    lora = load_lora(made[form].write(file))
    set_loras(flux, [(lora, 1.0)])
    twin: FluxTransformer2DModel = diffusers_transformer(flux)
    state, alphas = FluxPipeline.lora_state_dict(dict(made[form].tensors), return_alphas=True)
    twin.load_lora_adapter(state, network_alphas=alphas, prefix="transformer")
    check(flux(*inputs), forward(twin, inputs), plain)


class Zeros(nn.Module):
    """A layer of published size without weights: its output is the branch's alone."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.out_features, self.in_features = rows, columns
        self.bias = None

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), self.out_features)


PUBLISHED = {
    "double_blocks.18.img_attn.qkv": (9216, 3072),
    "double_blocks.18.txt_attn.qkv": (9216, 3072),
    "double_blocks.18.img_attn.proj": (3072, 3072),
    "double_blocks.0.txt_attn.proj": (3072, 3072),
    "double_blocks.0.img_mlp.0": (12288, 3072),
    "double_blocks.0.txt_mlp.2": (3072, 12288),
    "double_blocks.3.txt_mod.lin": (18432, 3072),
    "single_blocks.37.linear1": (21504, 3072),
    "single_blocks.37.linear2": (3072, 15360),
    "single_blocks.5.modulation.lin": (9216, 3072),
    "final_layer.linear": (64, 3072),
}
XLABS = {
    "double_blocks.18.img_attn.qkv": "double_blocks.18.processor.qkv_lora1",
    "double_blocks.18.txt_attn.qkv": "double_blocks.18.processor.qkv_lora2",
    "double_blocks.18.img_attn.proj": "double_blocks.18.processor.proj_lora1",
    "double_blocks.0.txt_attn.proj": "double_blocks.0.processor.proj_lora2",
    "single_blocks.37.linear2": "single_blocks.37.processor.proj_lora",
}


def skeleton() -> nn.Module:
    root = nn.Module()
    for name, size in PUBLISHED.items():
        at = root
        *parents, last = name.split(".")
        for parent in parents:
            if parent not in at._modules:
                at.add_module(parent, nn.Module())
            at = at.get_submodule(parent)
        at.add_module(last, Zeros(*size))
    return root


def published(form: str) -> dict[str, Tensor]:
    """A rank-2 LoRA on some published layers, in the words of `form`."""
    tensors: dict[str, Tensor] = {}
    for i, (name, (rows, columns)) in enumerate(PUBLISHED.items()):
        down, up = draw(2 * i, 2, columns), draw(2 * i + 1, rows, 2)
        flat = "lora_unet_" + name.replace(".", "_")
        if form == "kohya" and "blocks" in name:
            tensors |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up}
            tensors[f"{flat}.alpha"] = torch.tensor(0.5 + i)
        elif form == "fal" and ("blocks" in name or name == "final_layer.linear"):
            stem = f"base_model.model.{name}"
            tensors |= {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
        elif form == "XLabs" and name in XLABS:
            tensors |= {f"{XLABS[name]}.down.weight": down, f"{XLABS[name]}.up.weight": up}
    return tensors


def complete(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """diffusers' fal converter asks for every layer of every block: those not given are zero."""
    filled = dict(tensors)
    for i in range(19):
        for side in ("img", "txt"):
            for part, (rows, columns) in {
                "mod.lin": (18432, 3072), "attn.qkv": (9216, 3072), "attn.proj": (3072, 3072),
                "mlp.0": (12288, 3072), "mlp.2": (3072, 12288),
            }.items():  # fmt: skip
                _zero(filled, f"base_model.model.double_blocks.{i}.{side}_{part}", rows, columns)
    for i in range(38):
        for part, (rows, columns) in {
            "linear1": (21504, 3072), "linear2": (3072, 15360), "modulation.lin": (9216, 3072),
        }.items():  # fmt: skip
            _zero(filled, f"base_model.model.single_blocks.{i}.{part}", rows, columns)
    _zero(filled, "base_model.model.final_layer.linear", 64, 3072)
    return filled


def _zero(tensors: dict[str, Tensor], stem: str, rows: int, columns: int) -> None:
    tensors.setdefault(f"{stem}.lora_A.weight", torch.zeros(1, columns))
    tensors.setdefault(f"{stem}.lora_B.weight", torch.zeros(rows, 1))


@pytest.mark.parametrize("form", ["kohya", "fal", "XLabs"])
def test_what_diffusers_converts_it_to_is_the_same_to_us(form: str, tmp_path: Path) -> None:
    """Published sizes, where diffusers' converters have them built in."""
    tensors = published(form)
    save_file(tensors, tmp_path / "original.safetensors")
    source = complete(tensors) if form == "fal" else dict(tensors)
    state: Any = FluxPipeline.lora_state_dict(source)
    kept = {key: value.clone() for key, value in state.items() if value.any()}
    save_file(kept, tmp_path / "converted.safetensors")
    ours, theirs = skeleton(), skeleton()
    set_loras(ours, [(load_lora(tmp_path / "original.safetensors"), 1.0)])
    report = set_loras(theirs, [(load_lora(tmp_path / "converted.safetensors"), 1.0)])
    assert not report.unmatched and report.matched >= len(kept) // 2
    seen = set()
    for name, (_, columns) in PUBLISHED.items():
        x = draw(7, 3, columns)
        own, converted = ours.get_submodule(name)(x), theirs.get_submodule(name)(x)
        if own.any():
            seen.add(name)
        # Measured: 4e-7 of the largest output, diffusers folds alpha into the factors.
        assert (own - converted).abs().max() <= 1e-5 * own.abs().max()
    assert seen == (
        set(XLABS) if form == "XLabs" else {n for n in PUBLISHED if form == "fal" or "blocks" in n}
    )


def test_every_name_of_the_published_model(tmp_path: Path) -> None:
    """A LoRA on every linear layer diffusers has at full size falls on rows of the right number."""
    with torch.device("meta"):
        twin = FluxTransformer2DModel(guidance_embeds=True)
        ours = Flux()
    tensors: dict[str, Tensor] = {}
    one = torch.zeros(1)
    for name, module in twin.named_modules():
        if isinstance(module, nn.Linear):
            tensors[f"transformer.{name}.lora_A.weight"] = one.expand(1, module.in_features)
            tensors[f"transformer.{name}.lora_B.weight"] = one.expand(module.out_features, 1)
    path = tmp_path / "full.safetensors"
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    lora = load_lora(path)
    assert not lora.unmatched and len(lora.entries) == len(tensors) // 2 == 504
    rows: dict[str, int] = {}
    for entry in lora.entries:
        layer: Any = ours.get_submodule(entry.target.module)
        for start, stop in entry.target.rows(layer.out_features, layer.in_features):
            rows[entry.target.module] = rows.get(entry.target.module, 0) + stop - start
    assert rows == {
        name: module.out_features
        for name, module in ours.named_modules()
        if isinstance(module, nn.Linear)
    }
