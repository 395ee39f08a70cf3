"""Files written by diffusers, transformers, gguf-py and safetensors themselves, with their own weights.

The networks' outputs are compared too: a name that leads to the wrong place of the same shape would
not show in names and shapes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_models import draw, randomise
from torch import Tensor, nn

from kontext_core.models.autoencoder import AutoEncoder
from kontext_core.models.flux import Flux
from kontext_core.weights.detect import Contents, detect, require
from kontext_core.weights.install import install
from kontext_core.weights.sizes import autoencoder_params, flux_params
from kontext_core.weights.source import open_weights
from kontext_core.weights.state import read_state


def load_flux(path: Path) -> Flux:
    file = open_weights(path)
    state = read_state(file, require(file, "transformer"))
    with torch.device("meta"):
        flux = Flux(flux_params(state))
    install(flux, state, path, dtype=torch.float32)
    return flux


def load_autoencoder(path: Path) -> AutoEncoder:
    file = open_weights(path, "autoencoder")
    state = read_state(file, require(file, "autoencoder"))
    with torch.device("meta"):
        autoencoder = AutoEncoder(autoencoder_params(state))
    install(autoencoder, state, path, dtype=torch.float32)
    return autoencoder


def alive(network: nn.Module, seed: int) -> None:
    """Draw every parameter of a network of another library."""
    randomise(network, seed)


def make_diffusers_flux(seed: int) -> Any:
    from diffusers import FluxTransformer2DModel  # pyright: ignore[reportPrivateImportUsage]

    network = FluxTransformer2DModel(
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=128,
        num_attention_heads=2,
        joint_attention_dim=48,
        pooled_projection_dim=32,
        guidance_embeds=True,
    )
    alive(network, seed)
    return network


@pytest.fixture(scope="module")
def diffusers_flux() -> Any:
    return make_diffusers_flux(5)


def velocities(diffusers_flux: Any, ours: Flux) -> tuple[Tensor, Tensor]:
    img, txt, y = draw(1, 1, 12, 64), draw(2, 1, 5, 48), draw(3, 1, 32)
    img_ids = torch.zeros(12, 3)
    img_ids[:, 1], img_ids[:, 2] = torch.arange(12) // 4, torch.arange(12) % 4
    txt_ids, t, guidance = torch.zeros(5, 3), torch.tensor([0.7]), torch.tensor([2.5])
    with torch.no_grad():
        theirs = diffusers_flux(
            hidden_states=img,
            encoder_hidden_states=txt,
            pooled_projections=y,
            timestep=t,
            img_ids=img_ids,
            txt_ids=txt_ids,
            guidance=guidance,
            return_dict=False,
        )[0]
        mine = ours(img, img_ids[None], txt, txt_ids[None], t, y, guidance)
    return theirs, mine


@pytest.mark.parametrize("shard_size", ["10GB", "4MB"])
def test_diffusers_transformer(tmp_path: Path, diffusers_flux: Any, shard_size: str) -> None:
    folder = tmp_path / "transformer"
    diffusers_flux.save_pretrained(folder, max_shard_size=shard_size)
    shards = len(list(folder.glob("*.safetensors")))
    assert (shards > 1) == (shard_size == "4MB")
    theirs, mine = velocities(diffusers_flux, load_flux(folder))
    # Measured: no difference at all; other processors may add up in another order.
    assert torch.allclose(mine, theirs, atol=2e-5)


def test_diffusers_transformer_with_joined_projections(tmp_path: Path, diffusers_flux: Any) -> None:
    """The whole pipeline folder, half precision, and without the index of its shards."""
    folder = tmp_path / "pipeline"
    diffusers_flux.save_pretrained(folder / "transformer", max_shard_size="4MB")
    (folder / "model_index.json").write_text("{}")
    (folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json").unlink()
    theirs, mine = velocities(diffusers_flux, load_flux(folder))
    assert torch.allclose(mine, theirs, atol=2e-5)


def test_diffusers_autoencoder(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL  # pyright: ignore[reportPrivateImportUsage]

    network = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 64, 96, 96),
        layers_per_block=2,
        latent_channels=16,
        norm_num_groups=32,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    alive(network, 6)
    network.save_pretrained(tmp_path / "pipeline" / "vae")
    (tmp_path / "pipeline" / "model_index.json").write_text("{}")
    ours = load_autoencoder(tmp_path / "pipeline")
    assert ours.params.ch_mult == (1, 2, 3, 3)
    picture, latent = draw(7, 1, 3, 32, 32), draw(8, 1, 16, 4, 4)
    with torch.no_grad():
        mean = network.encode(picture).latent_dist.mean  # pyright: ignore
        decoded = network.decode(latent, return_dict=False)[0]  # pyright: ignore
        # Measured: 0 and 4.6e-6 at outputs of about 0.7.
        assert torch.allclose(ours.encode(picture), mean, atol=3e-5)
        assert torch.allclose(ours.decode(latent), decoded, atol=3e-5)


def test_transformers_text_encoders(tmp_path: Path) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    t5 = T5EncoderModel(
        T5Config(
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=3,
            num_heads=4,
            vocab_size=100,
            feed_forward_proj="gated-gelu",
        )  # fmt: skip
    )
    clip = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            vocab_size=100,
            bos_token_id=1,
            eos_token_id=2,
        )  # fmt: skip
    )
    t5.save_pretrained(tmp_path / "text_encoder_2", max_shard_size="20KB")
    clip.save_pretrained(tmp_path / "text_encoder")
    (tmp_path / "model_index.json").write_text("{}")
    for role, network, start in (("t5", t5, ""), ("clip_l", clip, "text_model.")):
        file = open_weights(tmp_path, role)
        state = read_state(file, require(file, role))
        wanted = {
            # transformers 5 dropped the first level of names, its older versions write it.
            start + name.removeprefix(start): value
            for name, value in network.state_dict().items()
            if name != "encoder.embed_tokens.weight"
        }
        assert set(state) == set(wanted)
        for name, value in wanted.items():
            assert torch.equal(state[name].data(), value), name


def test_safetensors_every_kind(tmp_path: Path) -> None:
    tensors = {
        str(dtype): torch.arange(12).reshape(3, 4).to(dtype)
        for dtype in (
            torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn,
            torch.float8_e5m2, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8,
            torch.bool,
        )
    }  # fmt: skip
    tensors["scalar"], tensors["empty"] = torch.tensor(3.5), torch.zeros(0, 4)
    save_file(tensors, tmp_path / "a.safetensors", {"key": "text"})
    file = open_weights(tmp_path / "a.safetensors")
    assert file.metadata == {"key": "text"}
    assert set(file.entries) == set(tensors)
    for name, wanted in tensors.items():
        found = file.tensor(name)
        assert found.dtype == wanted.dtype and found.shape == wanted.shape
        assert torch.equal(found.double(), wanted.double()), name


def test_gguf_writer(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "flux")
    words = [f"w{number}" for number in range(500)]
    writer.add_array("tokenizer.ggml.tokens", words)
    writer.add_array("tokenizer.ggml.scores", [float(number) for number in range(500)])
    writer.add_string("general.name", "a model")
    writer.add_float32("some.number", 0.5)
    writer.add_bool("some.truth", True)
    writer.add_uint64("some.count", 1 << 40)
    values = np.arange(3 * 64, dtype=np.float32).reshape(3, 64)
    stored = {}
    for kind in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_1"):
        raw = gguf.quantize(values, gguf.GGMLQuantizationType[kind])
        writer.add_tensor(f"tensor.{kind}", raw, raw_dtype=gguf.GGMLQuantizationType[kind])
        stored[kind] = raw
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = open_weights(tmp_path / "a.gguf")
    assert file.format == "gguf"
    assert file.metadata["general.architecture"] == "flux"
    assert file.metadata["some.count"] == 1 << 40
    assert file.metadata["some.number"] == 0.5
    assert file.metadata["some.truth"] is True
    assert file.array("tokenizer.ggml.tokens") == words
    assert file.array("tokenizer.ggml.scores") == [float(number) for number in range(500)]
    for kind, raw in stored.items():
        name = f"tensor.{kind}"
        assert file.entries[name].shape == (3, 64)
        assert file.entries[name].kind == kind
        found = file.tensor(name).contiguous().view(torch.uint8).flatten()
        assert np.array_equal(found.numpy(), raw.view(np.uint8).flatten())


def test_gguf_folded_tensor(tmp_path: Path) -> None:
    """ComfyUI-GGUF folds tensors with odd rows and notes their shape."""
    import files

    state = {"odd.weight": draw(1, 4, 32, 3, 3), "even.weight": draw(2, 2, 4, 64)}
    folded = {"odd.weight": state["odd.weight"].view(-1, 64), "even.weight": draw(2, 8, 64)}
    worth = files.write_gguf(
        tmp_path / "a.gguf",
        folded,
        "Q8_0",
        orig_shape={name: tuple(tensor.shape) for name, tensor in state.items()},
    )
    file = open_weights(tmp_path / "a.gguf")
    assert file.entries["odd.weight"].shape == (4, 32, 3, 3)
    assert file.entries["odd.weight"].stored_shape == (18, 64)
    assert file.tensor("odd.weight").shape == (18, 2 * 34)
    assert file.tensor("even.weight").shape == (2, 4, 2 * 34)
    read = read_state(file, Contents("autoencoder", "bfl", ""))
    assert read["odd.weight"].kind == "F32"
    assert torch.equal(read["odd.weight"].data(), worth["odd.weight"].view(4, 32, 3, 3))
    assert read["even.weight"].kind == "Q8_0"
    assert detect(file) == ()
