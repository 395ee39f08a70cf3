"""LoRAs that change the gains of norms act in every forward, with gradients asked for and without."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_models import draw, make_flux

from kontext_core.lora import load_lora, merge_lora, set_loras
from kontext_core.models.flux import Flux

NORMS = ("double_blocks.0.img_attn.norm.query_norm", "single_blocks.1.norm.key_norm")


def velocity(model: Flux) -> torch.Tensor:
    p = model.params
    ids = torch.zeros(1, 6, 3)
    ids[..., 1] = torch.arange(6)
    return model(
        draw(1, 1, 6, p.in_channels), ids, draw(2, 1, 5, p.context_in_dim), torch.zeros(1, 5, 3),
        torch.tensor([0.5]), draw(3, 1, p.vec_in_dim), torch.tensor([2.5]), target_tokens=4,
    )  # fmt: skip


@pytest.mark.parametrize("gradients", [False, True])
def test_a_gain_acts_as_when_merged(tmp_path: Path, gradients: bool) -> None:
    model, merged = make_flux(), make_flux()
    size = model.params.hidden_size // model.params.num_heads
    changes = {f"diffusion_model.{n}.scale.diff": draw(i, size) for i, n in enumerate(NORMS)}
    path = tmp_path / "gains.safetensors"
    save_file(changes, path)
    with torch.set_grad_enabled(gradients):
        before = velocity(model)
        set_loras(model, [(load_lora(path), 0.7)])
        merge_lora(merged, [(load_lora(path), 0.7)])
        wanted = velocity(merged)
        found = velocity(model)
        assert float((wanted - before).abs().max()) > 0.01
        # Measured 0, and 1e-6 with gradients, of outputs up to 3.1: sums in another order.
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
        set_loras(model, [(load_lora(path), 0.0)])
        assert torch.equal(velocity(model), before)
