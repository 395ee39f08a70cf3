"""The network that a LoRA is trained on, beside a stand-in for ComfyUI: the MODEL's own tensors, outside
inference mode, in the core's layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from packed_flux import pack as packed
from small_models import draw
from torch import nn


def arguments() -> tuple[Any, ...]:
    return (
        draw(1, 2, 10, 64), draw(2, 1, 10, 3), draw(3, 2, 4, 40), torch.zeros(1, 4, 3),
        torch.tensor([0.3, 0.8]), draw(4, 2, 24), torch.tensor([1.0, 1.0]),
    )  # fmt: skip


def pack(inside: Any, flux: Any, kind: str) -> None:
    """Every block's layers packed, as the pack's own copies of the classes."""
    linear = inside.module("kontext_core.quant.linear")
    for name, module in list(flux.named_modules()):
        if isinstance(module, nn.Linear) and "blocks" in name:
            made: Any = packed(module, kind)
            if kind == "fp8":
                layer = linear.ScaledLinear(made.weight.detach(), module.bias, made.scale)
            else:
                layer = linear.QuantLinear(
                    made.weight.detach(), made.kind, module.in_features, module.bias
                )
            parent, _, leaf = name.rpartition(".")
            setattr(flux.get_submodule(parent), leaf, layer)


@pytest.mark.parametrize("kind", ["plain", "Q8_0", "fp8"])
def test_it_computes_the_same_over_the_same_memory(inside: Any, kind: str) -> None:
    # As the host's executor runs loaders.
    with torch.inference_mode():
        flux = inside.flux()
        if kind != "plain":
            pack(inside, flux, kind)
        expected = flux(*arguments())
        model = inside.module("nodes.native.wrapper").wrap(flux)
        twin = inside.module("nodes.native.training").training_network(model)
    network = model.model.diffusion_model
    shared = dict(network.named_parameters())
    for name, parameter in twin.named_parameters():
        theirs = shared.get(name, shared.get(name.removesuffix("scale") + "weight"))
        assert theirs is not None and parameter.data_ptr() == theirs.data_ptr(), name
        assert not parameter.is_inference() and not parameter.requires_grad
    img, *rest = arguments()
    img.requires_grad_(True)
    out = twin(img, *rest)
    # Measured: 3e-6 of outputs of order 3, where training attends in another order of sums.
    torch.testing.assert_close(out, expected.clone(), rtol=0, atol=2e-5)
    out.sum().backward()
    assert img.grad is not None and float(img.grad.abs().max()) > 1e-3
    # The MODEL's own layers are still the host's.
    assert type(network.double_blocks[0].img_attn.qkv).__module__ != "torch.nn.modules.linear"


def test_what_it_can_not_train_on_is_refused(inside: Any) -> None:
    training = inside.module("nodes.native.training").training_network
    error = inside.module("kontext_core.errors").InputError
    model = inside.module("nodes.native.wrapper").wrap(inside.flux())
    model.patches["diffusion_model.img_in.weight"] = [()]
    with pytest.raises(error, match="Kontext: Load LoRA"):
        training(model)
    model.patches.clear()
    model.model.diffusion_model = nn.Linear(2, 2)
    with pytest.raises(error, match="Kontext: Load Model"):
        training(model)
