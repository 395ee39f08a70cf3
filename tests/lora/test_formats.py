"""Every form of file against formulas written out apart: merged weights, and branches beside them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lora_files import lora_files
from lora_writer import Made
from small_models import make_flux
from torch import Tensor

from kontext_core import Flux
from kontext_core.lora import load_lora, merge_lora, set_loras

FORMS = sorted(lora_files(make_flux()))
STRENGTHS = (1.0, -0.7)
# Float32 sums next to double ones. Measured: 5e-7 at most, on weights up to 2.
MERGED = 1e-5
# Of a forward, next to its largest output. Measured: 3e-6 at most.
FORWARD = 2e-5

WRITERS = {
    "kohya": "kohya (bfl names): LoRA",
    "diffusers": "diffusers (diffusers names): LoRA",
    "generic": "ComfyUI (bfl names): LoRA",
    "fal": "PEFT (bfl names): LoRA",
    "peft folder": "PEFT (diffusers names): LoRA",
    "OneTrainer": "OneTrainer (diffusers names): LoRA",
    "XLabs": "XLabs / USO: LoRA",
    "DiffSynth": "DiffSynth: LoRA",
    "SimpleTuner LoKr": "LyCORIS (diffusers names): LoKr",
    "LoHa": "kohya (bfl names): LoHa",
    "DoRA on rows": "kohya (bfl names): LoRA, DoRA",
    "full differences": "ComfyUI (bfl names): full difference, bias difference",
    "OFT": "kohya (bfl names): OFT",
    "GLoRA": "kohya (bfl names): GLoRA",
}


def close(ours: Tensor, reference: Tensor, plain: Tensor) -> None:
    """Equal as far as float32 goes; and the LoRA did something."""
    size = reference.abs().max()
    assert (reference - plain).abs().max() > 0.02 * size
    assert (ours - reference).abs().max() < FORWARD * size


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("form", FORMS)
def test_merged_weights_are_the_formulas(
    form: str, strength: float, made: dict[str, Made], flux: Flux, file: Path
) -> None:
    reference = made[form].merged(flux, strength).state_dict()
    before = {key: value.clone() for key, value in flux.state_dict().items()}
    report = merge_lora(flux, [(load_lora(made[form].write(file)), strength)])
    assert not report.unmatched
    changed = 0
    for key, value in flux.state_dict().items():
        assert (value - reference[key]).abs().max() < MERGED, key
        changed += int(not torch.equal(value, before[key]))
    touched = {module for module, _, _ in made[form].changes}
    assert changed == len(touched) + len(made[form].biases) + len(made[form].gains)


@pytest.mark.parametrize("form", FORMS)
def test_a_branch_is_the_merged_network(
    form: str, made: dict[str, Made], flux: Flux, file: Path, inputs: tuple[Tensor, ...]
) -> None:
    plain, strength = flux(*inputs), -0.7
    reference = made[form].merged(flux, strength)(*inputs)
    report = set_loras(flux, [(load_lora(made[form].write(file)), strength)])
    assert report.matched and not report.unmatched
    close(flux(*inputs), reference, plain)
    set_loras(flux, [])
    assert torch.equal(flux(*inputs), plain)


@pytest.mark.parametrize("form", sorted(WRITERS))
def test_the_form_is_named(form: str, made: dict[str, Made], file: Path) -> None:
    assert load_lora(made[form].write(file)).format == WRITERS[form]


def test_a_fused_file_with_split_blocks_stays_split(
    made: dict[str, Made], flux: Flux, file: Path
) -> None:
    """Zeros outside the blocks are not multiplied: parts on a third of the rows, a third of the rank."""
    set_loras(flux, [(load_lora(made["kohya split blocks"].write(file)), 1.0)])
    layer = flux.get_submodule("single_blocks.0.linear1")
    (branch,) = layer._forward_hooks.values()
    assert [(part.rows, part.up.shape[1]) for part in branch.parts] == [  # pyright: ignore
        ((0, 96), 4),
        ((96, 192), 4),
        ((192, 288), 4),
        ((288, 672), 4),
    ]
