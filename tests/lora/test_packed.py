"""Branches on layers whose weights stay packed or in another dtype; merging those is refused."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
import torch
from lora_writer import Made
from small_models import make_flux
from torch import Tensor, nn

from kontext_core import Flux
from kontext_core.errors import InputError
from kontext_core.lora import load_lora, merge_lora, set_loras
from kontext_core.quant.linear import QuantLinear, ScaledLinear, plain_weight

# One of each kind of branch; the forms differ before that in names only.
FORMS = (
    "kohya",
    "diffusers with alpha",
    "SimpleTuner LoKr, second split",
    "LoHa",
    "LoHa of high rank",
    "DoRA on rows",
    "DoRA of parts on columns",
    "PEFT DoRA",
    "full differences",
    "OFT with lengths",
    "GLoRA",
)
# Of a forward, next to its largest output; both sides see the same decoded weights. Measured: 3e-6.
FORWARD = 2e-5


def quantized(linear: nn.Linear) -> nn.Module:
    blocks = gguf.quants.quantize(linear.weight.numpy(), gguf.GGMLQuantizationType.Q8_0)
    return QuantLinear(torch.from_numpy(blocks), "Q8_0", linear.in_features, linear.bias)


def scaled(linear: nn.Linear) -> nn.Module:
    scale = linear.weight.abs().max() / 448
    stored = (linear.weight / scale).to(torch.float8_e4m3fn)
    return ScaledLinear(stored, linear.bias, scale)


PACK = {"Q8_0": quantized, "fp8": scaled}


def packed(flux: Flux, form: str) -> tuple[Flux, Flux]:
    """The network with its block layers packed, and a plain one of the same decoded weights."""
    plain = make_flux()
    for name, module in list(flux.named_modules()):
        if isinstance(module, nn.Linear) and "blocks" in name:
            layer = PACK[form](module)
            parent, _, child = name.rpartition(".")
            setattr(flux.get_submodule(parent), child, layer)
            with torch.no_grad():
                plain.get_submodule(name).weight.copy_(plain_weight(layer))  # pyright: ignore
    return flux, plain


@pytest.mark.parametrize("pack", sorted(PACK))
@pytest.mark.parametrize("form", FORMS)
def test_a_branch_on_packed_layers(
    form: str,
    pack: str,
    made: dict[str, Made],
    flux: Flux,
    file: Path,
    inputs: tuple[Tensor, ...],
) -> None:
    network, plain = packed(flux, pack)
    bytes_before = [p.clone() for p in network.parameters()]
    without = network(*inputs)
    reference = made[form].merged(plain, 0.8)(*inputs)
    set_loras(network, [(load_lora(made[form].write(file)), 0.8)])
    size = reference.abs().max()
    assert (reference - without).abs().max() > 0.02 * size
    assert (network(*inputs) - reference).abs().max() < FORWARD * size
    for old, new in zip(bytes_before, network.parameters(), strict=True):
        assert torch.equal(old.view(torch.uint8), new.view(torch.uint8))


@pytest.mark.parametrize("pack", sorted(PACK))
def test_merging_into_packed_layers_is_refused(
    pack: str, made: dict[str, Made], flux: Flux, file: Path
) -> None:
    network, _ = packed(flux, pack)
    before = network.img_in.weight.clone()
    with pytest.raises(InputError, match="branch"):
        merge_lora(network, [(load_lora(made["kohya"].write(file)), 1.0)])
    # Nothing was half done: plain layers come before packed ones.
    assert torch.equal(network.img_in.weight, before)


def test_a_host_layer_gives_its_own_weight(
    made: dict[str, Made], flux: Flux, file: Path, inputs: tuple[Tensor, ...]
) -> None:
    """DoRA needs the weight; a host's packed layer has a method for it."""

    class Hosted(nn.Module):
        in_features, out_features = 96, 96

        def __init__(self, weight: Tensor, bias: Tensor) -> None:
            super().__init__()
            self.hidden_weight, self.bias = weight, nn.Parameter(bias, requires_grad=False)

        def plain_weight(self) -> Tensor:
            return self.hidden_weight

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, self.hidden_weight, self.bias)

    reference = made["DoRA on rows"].merged(flux)(*inputs)
    proj = flux.get_submodule("double_blocks.0.img_attn.proj")
    flux.get_submodule("double_blocks.0.img_attn").proj = Hosted(proj.weight, proj.bias)  # pyright: ignore
    set_loras(flux, [(load_lora(made["DoRA on rows"].write(file)), 1.0)])
    assert (flux(*inputs) - reference).abs().max() < FORWARD * reference.abs().max()
