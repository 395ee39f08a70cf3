"""Weights from a file land in a network as they should: packed, plain, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_models import draw
from torch import Tensor, nn

from kontext_core.errors import CheckpointError
from kontext_core.quant.decode import dequantize
from kontext_core.quant.linear import QuantEmbedding, QuantLinear, ScaledEmbedding, ScaledLinear
from kontext_core.quant.types import row_bytes
from kontext_core.weights.install import install
from kontext_core.weights.state import Weight

SOURCE = Path("model.gguf")


class Small(nn.Module):
    """An embedding, a norm, a convolution and three linear layers."""

    keep_plain = ("first",)

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 32)
        self.first = nn.Linear(32, 64)
        self.block = nn.ModuleList([nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 32))])
        self.conv = nn.Conv2d(2, 3, 1)
        self.last = nn.Linear(32, 5, bias=False)
        self.register_buffer("steps", torch.arange(3))

    def forward(self, ids: Tensor) -> Tensor:
        return self.last(self.block[0](self.first(self.table(ids))))


def empty() -> Small:
    with torch.device("meta"):
        return Small()


KINDS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float8_e4m3fn: "F8_E4M3"}


def number(tensor: Tensor, scale: Tensor | None = None) -> Weight:
    return Weight((tensor,), KINDS.get(tensor.dtype, "I64"), tuple(tensor.shape), scale)


def q8(rows: int, columns: int, seed: int = 0) -> Weight:
    generator = torch.Generator().manual_seed(seed)
    size = (rows, row_bytes("Q8_0", columns))
    data = torch.randint(0, 48, size, dtype=torch.uint8, generator=generator)
    return Weight((data,), "Q8_0", (rows, columns))


def plain_state(dtype: torch.dtype = torch.float32) -> dict[str, Weight]:
    torch.manual_seed(0)
    return {
        key: number(value.to(dtype) if value.is_floating_point() else value)
        for key, value in Small().state_dict().items()
    }


def test_plain_weights_are_cast_and_owned() -> None:
    state = plain_state(torch.bfloat16)
    network = empty()
    install(network, state, SOURCE, dtype=torch.float32)
    for key, value in network.state_dict().items():
        assert torch.equal(value, state[key].data().to(value.dtype)), key
        assert value.dtype == (torch.int64 if key == "steps" else torch.float32)
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    same = empty()
    install(same, plain_state(), SOURCE, dtype=torch.float32)
    assert type(same.last) is nn.Linear


def test_a_parameter_does_not_lie_in_the_file() -> None:
    state = plain_state()
    network = empty()
    install(network, state, SOURCE, dtype=torch.float32)
    pointers = {weight.data().data_ptr() for weight in state.values()}
    assert not any(p.data_ptr() in pointers for p in network.parameters())


def test_packed_weights_stay_packed() -> None:
    state = plain_state()
    state["table.weight"] = q8(10, 32, 1)
    state["first.weight"] = q8(64, 32, 2)
    state["block.0.1.weight"] = q8(32, 64, 3)
    state["block.0.0.weight"] = Weight(q8(1, 64, 4).parts, "Q8_0", (64,))
    state["last.weight"] = number(draw(5, 5, 32).to(torch.float8_e4m3fn), torch.tensor(0.25))
    network = empty()
    install(network, state, SOURCE, dtype=torch.float32)
    assert isinstance(network.table, QuantEmbedding)
    assert type(network.first) is nn.Linear, "kept plain"
    assert isinstance(network.get_submodule("block.0.1"), QuantLinear)
    assert isinstance(network.last, ScaledLinear)
    assert network.get_submodule("block.0.0").weight.shape == (64,)
    twin = empty()
    full = {
        key: number(
            dequantize(w.data().reshape(-1), w.kind).reshape(w.shape)
            if w.kind == "Q8_0"
            else w.data().float() * (1 if w.scale is None else w.scale)
            if w.data().is_floating_point()
            else w.data()
        )
        for key, w in state.items()
    }
    install(twin, full, SOURCE, dtype=torch.float32)
    ids = torch.arange(10)
    # Measured 2e-7 of the largest output: only the order of the sums and the scale's place differ.
    torch.testing.assert_close(network(ids), twin(ids), rtol=1e-5, atol=1e-5)


def test_joined_parts() -> None:
    state = plain_state()
    whole = q8(32, 64)
    state["block.0.1.weight"] = Weight(whole.data().split(8), "Q8_0", (32, 64))
    network = empty()
    install(network, state, SOURCE, dtype=torch.float32)
    assert torch.equal(network.state_dict()["block.0.1.weight"], whole.data())


def test_packing_of_numbers() -> None:
    state = plain_state(torch.bfloat16)
    network = empty()
    install(network, state, SOURCE, dtype=torch.float32, pack=True)
    assert isinstance(network.table, ScaledEmbedding) and isinstance(network.last, ScaledLinear)
    assert network.last.weight.data_ptr() == state["last.weight"].data().data_ptr()
    assert network.last.weight.dtype == torch.bfloat16
    assert network.first.weight.dtype == torch.float32 and type(network.first) is nn.Linear
    plain = empty()
    install(plain, state, SOURCE, dtype=torch.float32)
    assert torch.equal(network(torch.arange(10)), plain(torch.arange(10)))
    mapped = empty()
    install(mapped, state, SOURCE, dtype=torch.bfloat16, pack=True)
    assert type(mapped.last) is nn.Linear
    assert mapped.last.weight.data_ptr() == state["last.weight"].data().data_ptr()


def test_progress_ends_at_the_total() -> None:
    seen: list[tuple[int, int]] = []
    install(
        empty(), plain_state(), SOURCE, dtype=torch.float32, progress=lambda *at: seen.append(at)
    )
    assert seen == sorted(seen) and seen[-1] == (len(plain_state()), len(plain_state()))


def test_what_does_not_fit_is_named() -> None:
    state = plain_state()
    del state["last.weight"]
    state["more.bias"] = number(torch.zeros(3))
    state["first.weight"] = number(torch.zeros(64, 31))
    with pytest.raises(CheckpointError) as caught:
        install(empty(), state, SOURCE, dtype=torch.float32)
    message = str(caught.value)
    assert "model.gguf: does not fit Small" in message
    assert "1 missing (last.weight)" in message and "more.bias" not in message
    assert "first.weight is (64, 31), expected (64, 32)" in message
