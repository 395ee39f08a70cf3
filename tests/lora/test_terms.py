"""Terms of a branch one by one, and thousands of damaged files."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
import torch
from lora_writer import Made
from small_models import draw
from torch import Tensor, nn

from kontext_core import Flux
from kontext_core.errors import KontextError
from kontext_core.lora import load_lora, set_loras
from kontext_core.lora.formats import split_key
from kontext_core.lora.formats_names import Target, parse_name
from kontext_core.lora.terms import Kronecker

SHAPES = [((2, 6), (8, 3)), ((6, 2), (3, 8)), ((1, 1), (12, 10)), ((12, 10), (1, 1))]


def product(chain: list[Tensor]) -> Tensor:
    return chain[0] if len(chain) == 1 else chain[1] @ chain[0]


@pytest.mark.parametrize("split", list(itertools.product((False, True), repeat=2)))
@pytest.mark.parametrize("first, second", SHAPES)
def test_kronecker_in_either_order(
    first: tuple[int, int], second: tuple[int, int], split: tuple[bool, bool]
) -> None:
    chains = []
    for seed, (rows, columns), halves in zip((1, 5), (first, second), split, strict=True):
        if halves:
            chains.append([draw(seed, 2, columns), draw(seed + 1, rows, 2)])
        else:
            chains.append([draw(seed, rows, columns)])
    whole = torch.kron(product(chains[0]), product(chains[1]))
    x = draw(9, 4, whole.shape[1])
    made = []
    for second_first in (False, True):
        term = Kronecker([(0, len(whole))], 0, chains[0], chains[1], 0.5)
        term.second_first = second_first
        term.place(torch.device("cpu"), torch.float32)
        made.append(term.value(x, None, nn.Identity()))
    for value in made:
        # Measured: 2e-6 on numbers up to 30.
        assert (value - 0.5 * x @ whole.T).abs().max() < 2e-5


def test_kronecker_takes_the_cheaper_order() -> None:
    tall = Kronecker([(0, 1)], 0, [draw(1, 2, 64)], [draw(2, 2, 64)], 1.0)
    # 64 * 2 * 64 for the second factor then 2 * 2 * 64, either way round: the same.
    assert tall.second_first
    wide = Kronecker([(0, 1)], 0, [draw(1, 2, 64)], [draw(2, 64, 2)], 1.0)
    assert not wide.second_first


NAMES = {
    "lora_unet_double_blocks_18_img_attn_qkv.lora_down.weight": ("double_blocks.18.img_attn.qkv", None, "down"),
    "lora_unet_single_blocks_37_linear2.alpha": ("single_blocks.37.linear2", None, "alpha"),
    "lora_unet_final_layer_adaLN_modulation_1.lora_up.weight": ("final_layer.adaLN_modulation.1", None, "up"),
    "transformer.norm_out.linear.lora_A.weight": ("final_layer.adaLN_modulation.1", "swap", "down"),
    "transformer.proj_out.lora_B.weight": ("final_layer.linear", None, "up"),
    "transformer.single_transformer_blocks.3.proj_mlp.lora_B.default_0.weight": ("single_blocks.3.linear1", "mlp", "up"),
    "transformer.transformer_blocks.0.attn.to_q.lora_magnitude_vector": ("double_blocks.0.img_attn.qkv", "q", "magnitude"),
    "transformer.transformer_blocks.0.attn.processor.to_k_lora.up.weight": ("double_blocks.0.img_attn.qkv", "k", "up"),
    "transformer.transformer_blocks.10.ff_context.net.2.dora_scale": ("double_blocks.10.txt_mlp.2", None, "dora_scale"),
    "base_model.model.single_blocks.7.modulation.lin.lora_A.weight": ("single_blocks.7.modulation.lin", None, "down"),
    "base_model.model.transformer_blocks.7.attn.add_k_proj.hada_w1_a": ("double_blocks.7.txt_attn.qkv", "k", "hada_w1_a"),
    "lora_transformer_time_text_embed_guidance_embedder_linear_2.lora_up.weight": ("guidance_in.out_layer", None, "up"),
    "lycoris_transformer_blocks_11_ff_net_0_proj.lokr_w2_b": ("double_blocks.11.img_mlp.0", None, "lokr_w2_b"),
    "lycoris_single_transformer_blocks_0_attn_to_v.lokr_t2": ("single_blocks.0.linear1", "v", "lokr_t2"),
    "double_blocks.4.processor.proj_lora2.down.weight": ("double_blocks.4.txt_attn.proj", None, "down"),
    "single_blocks.4.processor.qkv_lora.up.weight": ("single_blocks.4.linear1", "qkv", "up"),
    "diffusion_model.single_blocks.2.linear1_qkv.lora_up.weight": ("single_blocks.2.linear1", "qkv", "up"),
    "model.diffusion_model.txt_in.diff_b": ("txt_in", None, "diff_b"),
    "unet.transformer_blocks.1.norm1_context.linear.lora.down.weight": ("double_blocks.1.txt_mod.lin", None, "down"),
    "blocks.2.attn.b_to_qkv.lora_A.default.weight": ("double_blocks.2.txt_attn.qkv", None, "down"),
}  # fmt: skip


@pytest.mark.parametrize("key", sorted(NAMES))
def test_published_spellings(key: str) -> None:
    module, part, role = NAMES[key]
    split = split_key(key)
    assert split is not None and split[1] == role
    name = parse_name(split[0])
    assert name is not None and name.target == Target(module, part)


@pytest.mark.parametrize(
    "stem", ["", "lora_unet_", "transformer.blocks", "single_blocks.x.linear1", "_" * 500,
             "model." * 200 + "img_i", "text_model.encoder.layers.0.mlp.fc1"],
)  # fmt: skip
def test_no_name(stem: str) -> None:
    assert parse_name(stem) is None


def test_damaged_files_raise_nothing_unknown(made: dict[str, Made], flux: Flux, file: Path) -> None:
    """Bytes of the header changed at random: a LoRA that fits, or an error of ours."""
    generator = random.Random(0)
    refused = 0
    for form in ("SimpleTuner LoKr, second split", "LoHa", "full differences", "XLabs"):
        whole = bytearray(made[form].write(file).read_bytes())
        header = int.from_bytes(whole[:8], "little")
        for _ in range(150):
            bad = bytearray(whole)
            for _ in range(generator.choice((1, 1, 2, 8))):
                bad[8 + generator.randrange(header)] = generator.choice(b'019,[]{}":._ab\xff')
            file.write_bytes(bad)
            try:
                set_loras(flux, [(load_lora(file), 1.0)])
            except KontextError as error:
                refused += 1
                assert len(str(error)) < 2000
    assert refused > 100
