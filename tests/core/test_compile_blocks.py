"""Blocks through `torch.compile`, by backends that need no C++ compiler: the same numbers, few graphs."""

from __future__ import annotations

import pytest
import torch
from small_models import draw, make_flux
from torch import Tensor
from torch._dynamo.utils import counters

from kontext_core import Flux, InputError
from kontext_core.models.kept import KeptContext

TEXT, TARGET, REFERENCE = 70, 150, 150


def velocity(model: Flux, kept: KeptContext | None = None) -> Tensor:
    count = TARGET + REFERENCE
    with torch.no_grad():
        return model(
            draw(1, 1, count, 64), draw(2, 1, count, 3).mul(9).round(), draw(3, 1, TEXT, 40),
            torch.zeros(1, TEXT, 3), torch.full((1,), 0.7), draw(5, 1, 24), torch.full((1,), 2.5),
            target_tokens=TARGET, kept=kept,
        )  # fmt: skip


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_blocks_give_the_same(backend: str) -> None:
    model, kept = make_flux(), KeptContext()
    kept.keeps_target = True
    plain = velocity(model)
    torch.compiler.reset()
    counters.clear()
    model.compile_blocks(backend)
    # Measured: 2.3e-6, of outputs of order one: oneDNN's products are PyTorch's own here.
    assert (velocity(model, kept) - plain).abs().max() < 1e-5
    # Before and after the attention of a double, a single and the last block, whatever their number.
    assert counters["stats"]["unique_graphs"] == 6
    rows = torch.tensor([0, 3, 4])
    kept.focus(rows, TARGET)
    kept.reuse = kept.regional = True
    # Measured: 1.5e-6.
    assert (velocity(model, kept) - plain[:, rows]).abs().max() < 1e-5
    model.compile_blocks(None)
    assert velocity(model).equal(plain)


def test_unknown_compilers() -> None:
    with pytest.raises(InputError, match="can't compile by 'fast'; this PyTorch has .*inductor"):
        make_flux().compile_blocks("fast")
