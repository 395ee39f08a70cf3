"""Several LoRAs, other strengths, taking off, copies, dtypes."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from lora_files import lora_files
from lora_writer import Made
from small_models import make_flux
from torch import Tensor

from kontext_core import Flux
from kontext_core.errors import CheckpointError, InputError
from kontext_core.lora import Lora, load_lora, merge_lora, release_factors, set_loras

# Of a forward, next to its largest output. Measured: 2e-6.
FORWARD = 2e-5
STACK = ("kohya", "diffusers with alpha", "SimpleTuner LoKr, second split", "LoHa of high rank",
         "XLabs", "full differences", "DoRA of parts", "OFT")  # fmt: skip


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Lora]:
    folder = tmp_path_factory.mktemp("loras")
    files = lora_files(make_flux())
    return {n: load_lora(files[n].write(folder / f"{i}.safetensors")) for i, n in enumerate(STACK)}


def summed(flux: Flux, parts: list[tuple[Made, float]]) -> Flux:
    """Reference: weight + sum of strength * change, each change from the original weight."""
    original = flux.state_dict()
    total = {key: value.double() for key, value in original.items()}
    for made, strength in parts:
        for key, value in made.merged(flux, strength).state_dict().items():
            total[key] = total[key] + (value.double() - original[key].double())
    other = make_flux()
    other.load_state_dict({key: value.float() for key, value in total.items()})
    return other


def test_all_at_once_in_any_order(
    loras: dict[str, Lora], made: dict[str, Made], flux: Flux, inputs: tuple[Tensor, ...]
) -> None:
    strengths = dict(zip(STACK, (1.0, 0.5, -0.3, 2.0, 0.7, 0.2, 0.4, 0.6), strict=True))
    reference = summed(flux, [(made[name], s) for name, s in strengths.items()])(*inputs)
    for names in (STACK, STACK[::-1]):
        report = set_loras(flux, [(loras[name], strengths[name]) for name in names])
        assert [part.strength for part in report.loras] == [strengths[name] for name in names]
        assert (flux(*inputs) - reference).abs().max() < FORWARD * reference.abs().max()


@pytest.mark.parametrize("first, second", list(itertools.combinations(STACK[1:7], 2)))
def test_pairs_merge_like_branches(
    first: str, second: str, loras: dict[str, Lora], flux: Flux, inputs: tuple[Tensor, ...]
) -> None:
    merged = make_flux()
    pair = [(loras[first], 0.8), (loras[second], -0.5)]
    merge_lora(merged, pair)
    set_loras(flux, pair)
    reference = merged(*inputs)
    assert (flux(*inputs) - reference).abs().max() < FORWARD * reference.abs().max()


def test_another_strength_rebuilds_nothing(
    loras: dict[str, Lora], made: dict[str, Made], flux: Flux, inputs: tuple[Tensor, ...]
) -> None:
    def hooks() -> list[int]:
        return [id(h) for m in flux.modules() for h in m._forward_hooks.values()]

    set_loras(flux, [(loras["kohya"], 1.0)])
    flux(*inputs)
    layer = flux.get_submodule("single_blocks.0.linear1")
    (branch,) = layer._forward_hooks.values()
    before, factors = hooks(), branch._down  # pyright: ignore
    report = set_loras(flux, [(loras["kohya"], -0.4)])
    assert report.loras[0].strength == -0.4
    reference = made["kohya"].merged(flux, -0.4)(*inputs)
    assert (flux(*inputs) - reference).abs().max() < FORWARD * reference.abs().max()
    assert hooks() == before
    assert branch._down is factors  # pyright: ignore


def test_modulations_made_beforehand_have_it(
    loras: dict[str, Lora], flux: Flux, inputs: tuple[Tensor, ...]
) -> None:
    """A sampler makes the modulations of all steps at once; their layers have branches too."""
    img, img_ids, txt, txt_ids, _, y, guidance = inputs
    times = torch.tensor([0.3, 0.3])
    without = flux.modulations(times[:1], y, guidance).at(0, 2)
    set_loras(flux, [(loras["kohya"], 0.5)])
    expected = flux(img, img_ids, txt, txt_ids, times, y, guidance)
    made = flux.modulations(times[:1], y, guidance).at(0, 2)
    rest = (img, img_ids, txt, txt_ids, times, y, guidance)
    size = expected.abs().max()
    assert (flux(*rest, modulation=made) - expected).abs().max() < 1e-5 * size
    assert (flux(*rest, modulation=without) - expected).abs().max() > 0.01 * size


def test_factors_can_be_let_go(
    loras: dict[str, Lora], flux: Flux, inputs: tuple[Tensor, ...]
) -> None:
    set_loras(flux, [(loras["kohya"], 1.0), (loras["OFT"], 0.5)])
    changed = flux(*inputs)
    release_factors(flux)
    hooks: list[Any] = [h for m in flux.modules() for h in m._forward_hooks.values()]
    assert all(h._down is None and not any(term.t for term in h.terms) for h in hooks)
    assert torch.equal(flux(*inputs), changed)


def test_setting_replaces_and_taking_off_leaves_nothing(
    loras: dict[str, Lora], made: dict[str, Made], flux: Flux, inputs: tuple[Tensor, ...]
) -> None:
    plain, state = flux(*inputs), copy.deepcopy(flux.state_dict())
    set_loras(flux, [(loras["kohya"], 1.0), (loras["full differences"], 1.0)])
    set_loras(flux, [(loras["XLabs"], 1.0)])
    reference = made["XLabs"].merged(flux)(*inputs)
    assert (flux(*inputs) - reference).abs().max() < FORWARD * reference.abs().max()
    assert flux.state_dict().keys() == state.keys()
    set_loras(flux, [(loras["XLabs"], 0.0)])
    assert torch.equal(flux(*inputs), plain)
    set_loras(flux, [])
    assert not any(module._forward_hooks for module in flux.modules())
    assert all(torch.equal(value, state[key]) for key, value in flux.state_dict().items())


def test_a_copied_model_has_its_own(
    loras: dict[str, Lora], flux: Flux, inputs: tuple[Tensor, ...]
) -> None:
    plain = flux(*inputs)
    set_loras(flux, [(loras["kohya"], 1.0)])
    changed = flux(*inputs)
    twin = copy.deepcopy(flux)
    set_loras(twin, [(loras["kohya"], 0.5)])
    assert torch.equal(flux(*inputs), changed)
    assert not torch.equal(twin(*inputs), changed)
    set_loras(twin, [])
    assert torch.equal(twin(*inputs), plain)
    assert torch.equal(flux(*inputs), changed)


def test_a_bad_one_leaves_what_was_set(
    loras: dict[str, Lora], flux: Flux, inputs: tuple[Tensor, ...], tmp_path: Path
) -> None:
    wide = lora_files(make_flux(hidden_size=120, axes_dim=(8, 16, 16)))["kohya"]
    other = load_lora(wide.write(tmp_path / "wide.safetensors"))
    set_loras(flux, [(loras["kohya"], 1.0)])
    changed = flux(*inputs)
    with pytest.raises(CheckpointError, match=r"wide\.safetensors: lora_unet_.* changes"):
        set_loras(flux, [(loras["kohya"], 1.0), (other, 1.0)])
    with pytest.raises(InputError, match="finite"):
        set_loras(flux, [(loras["kohya"], float("nan"))])
    assert torch.equal(flux(*inputs), changed)
    for apply in (set_loras, merge_lora):
        with pytest.raises(InputError, match="number"):
            apply(flux, [(loras["kohya"], "1")])  # pyright: ignore


@pytest.mark.parametrize("name", ["kohya", "SimpleTuner LoKr, second split", "DoRA on rows"])
def test_bfloat16(
    name: str, loras: dict[str, Lora], made: dict[str, Made], flux: Flux, tmp_path: Path,
    inputs: tuple[Tensor, ...],
) -> None:  # fmt: skip
    """A bf16 network with a branch is as far from exact as one with merged bf16 weights."""
    lora = load_lora(made[name].write(tmp_path / "lora.safetensors"))
    exact = made[name].merged(flux, 0.5)
    reference = exact(*inputs)
    half = [x if i in (1, 3) else x.bfloat16() for i, x in enumerate(inputs)]
    merged = exact.bfloat16()(*half).float()
    flux.bfloat16()
    set_loras(flux, [(lora, 0.5)])
    # Measured: branch 0.6 to 1.3 times the error of merged.
    ours = (flux(*half).float() - reference).norm()
    assert ours < 2 * (merged - reference).norm()


def test_first_forward_in_inference_mode_then_gradients(
    loras: dict[str, Lora], flux: Flux, inputs: tuple[Tensor, ...]
) -> None:
    set_loras(flux, [(loras["kohya"], 1.0)])
    with torch.inference_mode():
        expected = flux(*inputs).clone()
    img = inputs[0].clone().requires_grad_(True)
    out = flux(img, *inputs[1:])
    out.sum().backward()
    assert img.grad is not None and img.grad.abs().max() > 0
    assert torch.allclose(out.detach(), expected, atol=1e-5 * float(expected.abs().max()))
