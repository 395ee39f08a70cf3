"""Names that are neither BFL's nor diffusers', and LoRAs of the text encoders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lora_writer import Writer, diffusers_names, linears
from safetensors.torch import save_file
from small_encoders import make_pair
from small_models import draw
from torch import Tensor, nn

from kontext_core import Flux
from kontext_core.errors import CheckpointError
from kontext_core.lora import load_lora, merge_lora, set_loras, set_text_loras
from kontext_core.lora.text import text_loras_for_now

PARTS = {
    "to_q": ".0", "to_k": ".1", "to_v": ".2", "proj_mlp": ".3",
    "add_q_proj": ".0", "add_k_proj": ".1", "add_v_proj": ".2",
}  # fmt: skip


def mixture(network: Flux) -> dict[str, tuple[str, Tensor]]:
    """OneTrainer's names: BFL's, with the rows of fused layers numbered, and `img_in.proj`."""
    names = {}
    for name, (module, rows) in diffusers_names(network).items():
        stem = module + PARTS.get(name.rpartition(".")[2], "")
        if module == "final_layer.adaLN_modulation.1":
            rows = rows.sort().values
        names["img_in.proj" if module == "img_in" else stem] = (module, rows)
    return names


Names = Callable[[Flux], dict[str, tuple[str, Tensor]]]
SPELLINGS: dict[str, tuple[Names, Callable[[str], str]]] = {
    "OneTrainer's mixture": (mixture, lambda name: f"transformer.{name}"),
    "OneTrainer's mixture, flat": (mixture, lambda name: "lora_unet_" + name.replace(".", "_")),
    "trailing underscores": (
        diffusers_names, lambda name: "lora_transformer_" + name.replace(".", "_") + "_",
    ),
    "sd-scripts on diffusers' names": (
        diffusers_names, lambda name: "lora_unet_" + name.replace(".", "_") + "_",
    ),
}  # fmt: skip


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_layer_is_found(spelling: str, flux: Flux, file: Path) -> None:
    names, spelled = SPELLINGS[spelling]
    writer, sizes = Writer(3), linears(flux)
    for name, (module, rows) in names(flux).items():
        writer.lora(spelled(name), module, rows, sizes[module][1], alpha=2.0)
    reference = writer.made.merged(flux).state_dict()
    report = merge_lora(flux, [(load_lora(writer.made.write(file)), 1.0)])
    assert not report.unmatched and report.loras[0].layers == len(sizes)
    for key, value in flux.state_dict().items():
        # As test_formats: float32 sums next to double ones.
        assert (value - reference[key]).abs().max() < 1e-5, key


T5, CLIP = (
    "encoder.block.1.layer.1.DenseReluDense.wi_0",
    "text_model.encoder.layers.2.self_attn.q_proj",
)
TEXT_NAMES = {
    "kohya": ("lora_te3_" + T5.replace(".", "_"), "lora_te1_" + CLIP.replace(".", "_")),
    "OneTrainer": (f"t5.{T5}", f"clip_l.{CLIP}"),
    "diffusers": (f"text_encoder_2.{T5}", f"text_encoder.{CLIP}"),
    "ComfyUI": (f"text_encoders.t5xxl.transformer.{T5}", f"text_encoders.clip_l.transformer.{CLIP}"),
    "OneTrainer, flat": ("lora_te2_" + T5.replace(".", "_"), "lora_te1_" + CLIP.replace(".", "_")),
    "trailing": ("lora_te2_" + T5.replace(".", "_") + "_", "lora_te_" + CLIP.replace(".", "_") + "_"),
}  # fmt: skip


def text_lora(path: Path, stems: tuple[str, str], rows: int = 96) -> dict[str, Tensor]:
    """A LoRA on one layer of T5 and one of CLIP; the changes of their weights at strength 1."""
    t5_up, t5_down = draw(1, rows, 4), draw(2, 4, 64)
    clip_up, clip_down = draw(3, 128, 4), draw(4, 4, 128)
    tensors = {
        f"{stems[0]}.lora_up.weight": t5_up, f"{stems[0]}.lora_down.weight": t5_down,
        f"{stems[1]}.lora_up.weight": clip_up, f"{stems[1]}.lora_down.weight": clip_down,
        f"{stems[1]}.alpha": torch.tensor(2.0),
    }  # fmt: skip
    save_file(tensors, path)
    return {T5: t5_up @ t5_down, CLIP: 0.5 * clip_up @ clip_down}


@pytest.mark.parametrize("writer", TEXT_NAMES)
def test_text_encoders_are_changed_and_changed_back(writer: str, file: Path) -> None:
    changes = text_lora(file, TEXT_NAMES[writer])
    encoders, expected = make_pair(1), make_pair(1)
    before = encoders.encode(["a red star"])
    for network, name in ((expected.t5, T5), (expected.clip_l, CLIP)):
        layer = network.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        with torch.no_grad():
            layer.weight += 0.3 * changes[name]
    wanted = expected.encode(["a red star"])
    lora = load_lora(file)
    with text_loras_for_now(encoders, [(lora, 0.3)]) as report:
        found = encoders.encode(["a red star"])
        assert report.matched == 2
    for ours, theirs, plain in zip(found, wanted, before, strict=True):
        # Measured: 4e-6 at most, of features up to 3.
        assert (ours - theirs).abs().max() < 5e-5
        assert (ours - plain).abs().max() > 1e-3
    assert all(map(torch.equal, encoders.encode(["a red star"]), before))
    set_text_loras(encoders, [(lora, 0.3)])
    assert all(map(torch.equal, encoders.encode(["a red star"]), found))


def test_a_text_lora_of_other_sizes_is_refused(file: Path, flux: Flux) -> None:
    text_lora(file, TEXT_NAMES["kohya"], rows=95)
    lora = load_lora(file)
    with pytest.raises(CheckpointError, match="changes 95 x 64"):
        set_text_loras(make_pair(1), [(lora, 1.0)])
    # On a transformer they are told of, and change nothing.
    report = set_loras(flux, [(lora, 1.0)])
    assert (report.matched, len(report.text_encoder), len(report.unmatched)) == (0, 5, 0)
