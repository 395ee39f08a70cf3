"""MODEL, CLIP and VAE answer what ComfyUI's own nodes ask of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch


def test_clip_text_encode(pack: Any, clip: Any, small_folder: Path) -> None:
    [[features, extra]] = clip.encode_from_tokens_scheduled(clip.tokenize("put the red star"))
    encoder = pack.module("kontext_core.weights.load").load_text_encoders(small_folder)
    txt, vec = encoder.encode(["put the red star"])
    assert torch.equal(features, txt)
    assert torch.equal(extra["pooled_output"], vec)


def test_clip_text_encode_flux_mixes_two_texts(clip: Any) -> None:
    """Its way: tokens of one text, with the "t5xxl" half of another."""
    tokens = clip.tokenize("the star")
    tokens["t5xxl"] = clip.tokenize("the blue circle")["t5xxl"]
    [[features, extra]] = clip.encode_from_tokens_scheduled(tokens, add_dict={"guidance": 3.0})
    [[words, _]] = clip.encode_from_tokens_scheduled(clip.tokenize("the blue circle"))
    [[_, sentence]] = clip.encode_from_tokens_scheduled(clip.tokenize("the star"))
    assert torch.equal(features, words)
    assert torch.equal(extra["pooled_output"], sentence["pooled_output"])
    assert extra["guidance"] == 3.0


def test_clip_in_its_older_calls(clip: Any) -> None:
    tokens = clip.tokenize("the star")
    features, pooled = clip.encode_from_tokens(tokens, return_pooled=True)
    both = clip.encode_from_tokens(tokens, return_dict=True)
    assert torch.equal(features, both["cond"])
    assert torch.equal(pooled, both["pooled_output"])
    assert torch.equal(clip.encode("the star"), features)
    assert all(len(token) == 3 for token in clip.tokenize("a", return_word_ids=True)["l"][0])


def test_vae_crops_around_the_middle_and_drops_alpha(pack: Any, vae: Any, image: Any) -> None:
    wide = image(1, 70, 85)
    cut = wide[:, 3:67, 2:82]
    assert torch.equal(vae.encode(wide), vae.encode(cut))
    with_alpha = torch.cat([cut, torch.rand(1, 64, 80, 1)], dim=-1)
    assert torch.equal(vae.encode(with_alpha), vae.encode(cut))
    assert vae.encode(cut).shape == (1, 16, 8, 10)


def test_vae_latents_are_raw_and_pictures_are_in_range(pack: Any, vae: Any, image: Any) -> None:
    network = vae.first_stage_model
    one = image(1)
    with torch.no_grad():
        expected = network.encode(one.movedim(-1, 1) * 2 - 1)
    assert torch.equal(vae.encode(one), expected)
    decoded = vae.decode(expected)
    assert decoded.shape == (1, 64, 64, 3)
    assert 0 <= decoded.min() <= decoded.max() <= 1
    assert torch.equal(vae.decode_tiled(expected, tile_x=64), decoded)
    assert torch.equal(vae.encode_tiled(one, tile_x=64), expected)
    assert vae.spacial_compression_decode() == vae.spacial_compression_encode() == 8


def test_a_batch_is_its_pictures(vae: Any, image: Any) -> None:
    two = image(1, batch=2)
    latents = vae.encode(two)
    assert torch.equal(latents[1:], vae.encode(two[1:]))
    assert torch.equal(vae.decode(latents)[1:], vae.decode(latents[1:]))


def test_a_native_node_learns_why_our_model_does_not_suit_it(pack: Any, model: Any) -> None:
    assert not hasattr(model, "model_options")
    with pytest.raises(pack.error("KontextError"), match="get_model_object.*Kontext: Sampler"):
        model.get_model_object("model_sampling")


def test_the_sampler_refuses_a_model_of_the_hosts(pack: Any, encode: Any) -> None:
    class ModelPatcher:
        pass

    with pytest.raises(pack.error("KontextError"), match="ModelPatcher.*KSampler"):
        pack.run(
            "KontextSampler",
            model=ModelPatcher(),
            positive=encode("a star"),
            latent_image={"samples": torch.zeros(1, 16, 8, 8)},
        )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precision_is_the_networks(pack: Any, precision: str) -> None:
    model = pack.run("KontextLoadModel", precision=precision)[0]
    assert model.load().dtype == getattr(torch, precision)
    vae = pack.run("KontextLoadVAE", precision=precision)[0]
    assert vae.first_stage_model.dtype == getattr(torch, precision)
    assert vae.decode(torch.zeros(1, 16, 8, 8)).dtype == torch.float32


def test_files_of_the_user_are_listed_and_found(
    pack: Any, host: Any, small_folder: Path, tmp_path: Path
) -> None:
    host.models = tmp_path
    (tmp_path / "diffusion_models").mkdir()
    mine = tmp_path / "diffusion_models/mine.safetensors"
    mine.symlink_to(small_folder / "autoencoder.safetensors")
    mine.with_name("old.ckpt").write_bytes(b"")
    options = pack.nodes["KontextLoadModel"].INPUT_TYPES()["required"]["model_name"][1]["options"]
    assert options == ["embedded: tiny", "mine.safetensors"]
    # An autoencoder is not a transformer, and the message says which file it was.
    with pytest.raises(pack.error("CheckpointError"), match="mine.safetensors"):
        pack.run("KontextLoadModel", model_name="mine.safetensors")
