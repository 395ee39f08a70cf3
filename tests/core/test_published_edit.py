"""A whole edit from published files: every network from a file of its own, and from one for all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from files import (
    flux_to_diffusers,
    published_autoencoder,
    published_flux,
    write_all_in_one,
    write_bfl,
    write_diffusers,
    write_gguf,
)
from safetensors.torch import save_file
from small_encoders import make_clip, make_t5
from small_models import draw
from torch import Tensor

from kontext_core import CheckpointError, Pipeline, edit, load_image, load_pipeline
from kontext_core.__main__ import main
from kontext_core.commands.edit import lora
from kontext_core.text.pair import FluxTextEncoders

PROMPT = "make the (red:1.2) star blue"
SETTINGS = {"steps": 2, "seed": 5, "width": 64, "height": 48}


@dataclass(frozen=True)
class Files:
    """Small networks that fit each other, and the files they are in."""

    pipeline: Pipeline
    model: Path
    vae: Path
    t5: Path
    clip_l: Path
    checkpoint: Path
    diffusers: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("published")
    flux = published_flux(4, context_in_dim=64, vec_in_dim=128, depth=1, depth_single_blocks=1)
    autoencoder = published_autoencoder(5, num_res_blocks=1)
    t5, clip = make_t5(6), make_clip(7)
    parts = [network.state_dict() for network in (flux, autoencoder, t5, clip)]
    made = Files(
        Pipeline(flux, autoencoder, FluxTextEncoders(t5, clip)),
        folder / "flux.gguf",
        folder / "ae.safetensors",
        folder / "t5.safetensors",
        folder / "clip_l.safetensors",
        folder / "all.safetensors",
        folder / "pipeline",
    )
    write_gguf(made.model, parts[0], lambda *_: "F32")
    for path, part in zip((made.vae, made.t5, made.clip_l), parts[1:], strict=True):
        write_bfl(path, part)
    write_all_in_one(made.checkpoint, *parts)
    write_diffusers(made.diffusers / "transformer", flux_to_diffusers(parts[0]), shards=2)
    write_diffusers(made.diffusers / "vae", parts[1])
    write_diffusers(made.diffusers / "text_encoder", parts[3], stem="model")
    write_diffusers(made.diffusers / "text_encoder_2", parts[2], stem="model")
    (made.diffusers / "model_index.json").write_text("{}", encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def wanted(files: Files) -> Tensor:
    """From words alone: a loaded model would make a reference a megapixel large."""
    return edit(files.pipeline, PROMPT, **SETTINGS)


def test_a_file_for_each(files: Files, wanted: Tensor) -> None:
    pipeline = load_pipeline(files.model, vae=files.vae, t5=files.t5, clip_l=files.clip_l)
    # Measured: 0.
    assert (edit(pipeline, PROMPT, **SETTINGS) - wanted).abs().max() < 1e-4
    assert wanted.std() > 0.05
    # With a reference, at the small networks' sizes.
    assert len(pipeline.model.resolutions) == 17
    pipeline.model.resolutions = files.pipeline.model.resolutions
    picture = draw(1, 1, 48, 64, 3).mul(0.2).add(0.5).clamp(0, 1)
    found, wanted = (edit(p, PROMPT, [picture], **SETTINGS) for p in (pipeline, files.pipeline))
    assert (found - wanted).abs().max() < 1e-4


@pytest.mark.parametrize("form", ["checkpoint", "diffusers"])
def test_one_for_all(form: str, files: Files, wanted: Tensor) -> None:
    result = edit(getattr(files, form), PROMPT, **SETTINGS)
    assert (result - wanted).abs().max() < 1e-4


def test_padding_of_512(files: Files) -> None:
    pipeline = load_pipeline(files.checkpoint, max_length=512)
    assert pipeline.text_encoder.encode([PROMPT])[0].shape[1] == 512
    assert files.pipeline.text_encoder.encode([PROMPT])[0].shape[1] == 256


def test_what_a_lone_transformer_lacks(files: Files) -> None:
    with pytest.raises(CheckpointError, match=r"flux.gguf: .*ae\.safetensors"):
        load_pipeline(files.model)
    with pytest.raises(CheckpointError, match=r"flux.gguf: .*t5xxl"):
        load_pipeline(files.model, vae=files.vae)
    with pytest.raises(CheckpointError, match=r"t5.safetensors: .*clip_l"):
        load_pipeline(files.model, vae=files.vae, t5=files.t5)


# LoRAs


@pytest.fixture(scope="module")
def adapter(files: Files) -> Path:
    """A LoRA of rank 2 on a layer of each kind, modulation included."""
    flux = files.pipeline.model
    tensors: dict[str, Tensor] = {}
    for i, name in enumerate(
        ("double_blocks.0.img_mod.lin", "double_blocks.0.txt_attn.qkv", "single_blocks.0.linear2")
    ):
        layer = flux.get_submodule(name)
        tensors[f"{name}.lora_A.weight"] = draw(80 + i, 2, layer.in_features) / 8  # type: ignore[operator]
        tensors[f"{name}.lora_B.weight"] = draw(90 + i, layer.out_features, 2) / 8  # type: ignore[operator]
    path = files.model.parent / "style.safetensors"
    save_file({f"diffusion_model.{n}": t for n, t in tensors.items()}, path)
    return path


def merged(files: Files, adapter: Path, strength: float) -> Pipeline:
    """The pipeline with the LoRA added to its weights by hand."""
    from copy import deepcopy

    from safetensors.torch import load_file

    flux = deepcopy(files.pipeline.model)
    tensors = {n.removeprefix("diffusion_model."): t for n, t in load_file(adapter).items()}
    with torch.no_grad():
        for name in {n.split(".lora_")[0] for n in tensors}:
            change = tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]
            flux.get_submodule(name).weight += strength * change  # type: ignore[operator]
    return Pipeline(flux, files.pipeline.autoencoder, files.pipeline.text_encoder)


def test_a_lora_for_one_run(files: Files, adapter: Path, wanted: Tensor) -> None:
    by_hand = edit(merged(files, adapter, 0.8), PROMPT, **SETTINGS)
    branch = edit(files.pipeline, PROMPT, loras=[(adapter, 0.8)], **SETTINGS)
    # Measured: 1.4e-6.
    assert (branch - by_hand).abs().max() < 1e-4
    assert (branch - wanted).abs().max() > 1e-2
    twice = [(adapter, 0.5), (str(adapter), 0.3)]
    assert (edit(files.pipeline, PROMPT, loras=twice, **SETTINGS) - by_hand).abs().max() < 1e-4
    # Nothing is left on the model.
    assert edit(files.pipeline, PROMPT, **SETTINGS).equal(wanted)


def test_a_lora_goes_even_if_the_run_fails(files: Files, adapter: Path, wanted: Tensor) -> None:
    with pytest.raises(RuntimeError, match="told so"):

        def fail(*_: object) -> None:
            raise RuntimeError("told so")

        edit(files.pipeline, PROMPT, loras=[(adapter, 1.0)], callback=fail, **SETTINGS)
    hooks = [m for m in files.pipeline.model.modules() if m._forward_hooks]
    assert hooks == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("style.safetensors", ("style.safetensors", 1.0)),
        ("style.safetensors:0.5", ("style.safetensors", 0.5)),
        ("style.safetensors:-1", ("style.safetensors", -1.0)),
        ("C:\\loras\\style.safetensors", ("C:\\loras\\style.safetensors", 1.0)),
        ("C:\\loras\\style.safetensors:0.5", ("C:\\loras\\style.safetensors", 0.5)),
        (":0.5", (":0.5", 1.0)),
    ],
)
def test_lora_options(text: str, found: tuple[str, float]) -> None:
    assert lora(text) == found


def test_a_file_whose_name_ends_like_a_strength(tmp_path: Path) -> None:
    odd = tmp_path / "style:2"
    odd.touch()
    assert lora(str(odd)) == (str(odd), 1.0)


def test_command_line(files: Files, adapter: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    options = {
        "model": files.model, "vae": files.vae, "t5": files.t5, "clip-l": files.clip_l,
        "lora": f"{adapter}:0.8", "prompt": PROMPT, "steps": 2, "seed": 5,
        "width": 64, "height": 48, "out": out,
    }  # fmt: skip
    assert main(["edit", *(w for n, v in options.items() for w in (f"--{n}", str(v)))]) == 0
    expected = edit(files.pipeline, PROMPT, loras=[(adapter, 0.8)], **SETTINGS)
    # Measured: 0.5 / 255, the rounding to 8 bits.
    assert (load_image(out) - expected).abs().max() < 1.6 / 255


def test_a_lora_that_fits_nothing(files: Files, tmp_path: Path, capsys) -> None:
    options = ["--model", str(files.checkpoint), "--prompt", PROMPT, "--steps", "1"]
    options += ["--lora", str(files.vae), "--out", str(tmp_path / "out.png")]
    assert main(["edit", *options]) == 1
    assert "ae.safetensors" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out.png").exists()
