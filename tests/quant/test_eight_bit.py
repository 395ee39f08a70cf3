"""8-bit products: what they are off by, on which layers, and when they step aside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import draw
from torch import Tensor, nn

from kontext_core import edit
from kontext_core.errors import InputError
from kontext_core.models.flux import Flux
from kontext_core.pipeline import load_pipeline
from kontext_core.quant import eight_bit
from kontext_core.quant.encode import quantize_blocks
from kontext_core.quant.linear import QuantLinear, ScaledLinear, plain_weight
from kontext_core.weights.eight_bit import large_layers, layer_errors, use_eight_bit
from kontext_core.weights.load import load_model


def test_rows_are_rounded_to_half_a_scale() -> None:
    x = draw(0, 700, 513) * torch.logspace(-6, 6, 700)[:, None]
    x[3] = 0
    numbers, scale = eight_bit.quantize_rows(x, "int8")
    assert numbers.dtype == torch.int8 and scale.shape == (700, 1)
    # Half a step, and what float32 rounds of the division.
    assert bool(((numbers * scale - x).abs() <= scale * 0.500001).all())
    assert bool((numbers.abs().amax(1)[x.abs().amax(1) > 0] == 127).all())
    assert not numbers[3].any()


def test_float8_rows_reach_the_end_of_the_range() -> None:
    x = draw(0, 40, 64)
    numbers, scale = eight_bit.quantize_rows(x, "fp8")
    assert float(numbers.float().abs().max()) == 448
    # Three bits of fraction: a sixteenth of a number, or of the smallest normal one's step.
    close = (numbers.float() * scale - x).abs() <= torch.maximum(x.abs() / 16, scale * 2**-10)
    assert bool(close.all())


def test_chunks_of_rows_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    x = draw(0, 50, 64)
    whole = eight_bit.quantize_rows(x, "int8")
    monkeypatch.setattr(eight_bit, "CHUNK", 64 * 7)
    for one, other in zip(eight_bit.quantize_rows(x, "int8"), whole, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_product_is_its_plain_twin(dtype: torch.dtype) -> None:
    x, weight, bias = draw(0, 70, 512), draw(1, 48, 512), draw(2, 48).to(dtype)
    given = *eight_bit.quantize_rows(x, "int8"), *eight_bit.quantize_rows(weight, "int8"), bias
    # Sums are exact, scales are multiplied in float32: measured 9e-8 of the largest in float32,
    # 0.0024 in bfloat16, one rounding of the result.
    plain = eight_bit.multiply_plain(*given, torch.float32)
    off = (eight_bit.multiply(*given, dtype).float() - plain).abs().max() / plain.abs().max()
    assert float(off) < (1e-6 if dtype == torch.float32 else 2**-8)


def made(kind: str, weight: Tensor, bias: Tensor) -> QuantLinear | ScaledLinear:
    if kind in ("Q8_0", "Q4_K"):
        return QuantLinear(quantize_blocks(weight, kind), kind, weight.shape[1], bias)
    if kind == "int8":
        numbers, scale = eight_bit.quantize_rows(weight, "int8")
        return ScaledLinear(numbers, bias, scale)
    return ScaledLinear(weight.to(getattr(torch, kind)), bias, torch.tensor(0.5))


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K", "int8", "float8_e4m3fn", "bfloat16"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows_at_once", [512, 1024])
def test_every_stored_form_multiplies(
    kind: str, dtype: torch.dtype, rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kontext_core.quant.linear.MIN_ROWS", rows_at_once)
    monkeypatch.setattr("kontext_core.quant.linear.CHUNK", 1)
    layer = made(kind, draw(0, 700, 256), draw(1, 700).to(dtype))
    x = draw(2, 2, 33, 256).to(dtype)
    exact = x.float() @ plain_weight(layer).t() + draw(1, 700)
    layer.products = "int8"
    out = layer(x)
    assert out.dtype == dtype and out.shape == (2, 33, 700)
    error = float((out.float() - exact).norm() / exact.norm())
    # Measured 0.0070 to 0.0099: two roundings of normal numbers to 254 steps of a row's range.
    assert 0.005 < error < 0.015
    # By rows of its own, not by a scale for all: one row a thousand times another changes nothing.
    x[0, 0] *= 1000
    assert torch.equal(layer(x)[1], out[1])


def test_few_rows_and_gradients_are_multiplied_as_ever() -> None:
    layer = made("Q4_K", draw(0, 48, 256), draw(1, 48))
    few, many = draw(2, eight_bit.ROWS - 1, 256), draw(2, eight_bit.ROWS, 256)
    plain = layer(few), layer(many)
    layer.products = "int8"
    assert torch.equal(layer(few), plain[0])
    assert not torch.equal(layer(many), plain[1])
    many.requires_grad_()
    torch.testing.assert_close(layer(many), plain[1])
    with torch.no_grad():
        assert not torch.equal(layer(many), plain[1])


@pytest.fixture
def model() -> Flux:
    return load_model("tiny")


def test_only_the_large_layers_of_the_blocks(model: Flux) -> None:
    names = [name for name, _ in large_layers(model)]
    double, single = len(model.double_blocks), len(model.single_blocks)
    assert len(names) == 8 * double + 2 * single
    assert use_eight_bit(model, "int8") == len(names)
    packed = [n for n, m in model.named_modules() if isinstance(m, ScaledLinear)]
    assert sorted(packed) == sorted(names)
    assert all(model.get_submodule(name).weight.dtype == torch.int8 for name in names)
    kept = ("img_in", "txt_in", "final_layer.linear", "time_in.in_layer")
    assert all(type(model.get_submodule(name)) is nn.Linear for name in kept)


def test_bytes_a_weight_do_not_grow(model: Flux) -> None:
    block: Any = model.single_blocks[0]
    stored = {
        "linear1": quantize_blocks(block.linear1.weight.detach(), "Q4_0"),
        "linear2": quantize_blocks(block.linear2.weight.detach(), "Q8_0"),
    }
    for name, kind in (("linear1", "Q4_0"), ("linear2", "Q8_0")):
        plain = getattr(block, name)
        setattr(block, name, QuantLinear(stored[name], kind, plain.in_features, plain.bias))
    use_eight_bit(model, "int8")
    assert block.linear1.weight is not None and block.linear1.products == "int8"
    assert torch.equal(block.linear1.weight, stored["linear1"])
    assert isinstance(block.linear2, ScaledLinear)
    assert block.linear2.weight.nbytes < stored["linear2"].nbytes


def test_off_again(model: Flux) -> None:
    use_eight_bit(model, "int8")
    assert use_eight_bit(model, "off") == 0
    assert all(layer.products is None for _, layer in large_layers(model))  # type: ignore[union-attr]


def test_what_is_refused(model: Flux) -> None:
    with pytest.raises(InputError, match="unknown eight_bit 'int4'"):
        load_model("tiny", eight_bit="int4")
    with pytest.raises(InputError, match="cpu has no fp8 products; take int8, auto, or off"):
        use_eight_bit(model, "fp8")
    layer: Any = model.double_blocks[0]
    layer.img_attn.qkv.register_forward_hook(lambda *_: None)
    with pytest.raises(InputError, match=r"double_blocks\.0\.img_attn\.qkv carries a LoRA"):
        use_eight_bit(model, "int8")


def test_auto_is_what_the_device_gains_by(model: Flux, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cpu._is_vnni_supported", lambda: False)
    assert eight_bit.best_products("cpu") is None
    assert use_eight_bit(model, "auto") == 0
    monkeypatch.setattr("torch.cpu._is_vnni_supported", lambda: True)
    assert use_eight_bit(model, "auto") > 0


def test_errors_of_layers_are_told(model: Flux) -> None:
    pipeline = load_pipeline("tiny", eight_bit="int8")
    picture = draw(0, 1, 64, 64, 3).abs().clamp(0, 1)

    errors = layer_errors(pipeline.model, lambda: edit(pipeline, "make it red", [picture], steps=1))
    names = {name for name, _ in large_layers(model)}
    assert set(errors) <= names and len(errors) > len(names) // 2
    # Measured 0.016 for the worst; layers that see text alone have too few rows, and so no error.
    assert 0.002 < max(errors.values()) < 0.03
    assert errors["double_blocks.0.txt_mlp.0"] == 0


@pytest.mark.parametrize("extra", [[], ["--eight-bit", "int8"]])
def test_by_the_command_line(extra: list[str], tmp_path: Path) -> None:
    from kontext_core.__main__ import main
    from kontext_core.commands.settings import recall

    out = tmp_path / "a.png"
    main(["edit", "--prompt", "a red circle", "--steps", "1", "--out", str(out), *extra])
    assert recall(str(out))["eight_bit"] == (extra[1] if extra else "off")
