"""Patcher, layers, LoRAs, MODEL, CLIP and VAE as ComfyUI calls them, beside a stand-in for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_encoders import make_pair
from small_models import WORDS, draw, make_autoencoder, make_text_encoder
from stand_in_comfy import CONDConstant, Interrupt, ModelPatcher
from torch import Tensor

# Outputs of order one; float32 rounding in another order. Measured: 2.4e-6.
SAME = 1e-5
LAYER = "double_blocks.0.img_attn.proj"


@pytest.fixture(scope="module")
def lora(inside: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A LoRA on one layer, loaded by the pack's own core."""
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("lora") / "one.safetensors"
    tensors = {
        f"diffusion_model.{LAYER}.lora_A.weight": draw(1, 4, 96) / 10,
        f"diffusion_model.{LAYER}.lora_B.weight": draw(2, 96, 4),
    }
    save_file(tensors, path)
    return inside.module("kontext_core.lora.load").load_lora(path)


def change() -> Tensor:
    """What it adds to the layer's weight at strength 1."""
    return draw(2, 96, 4) @ (draw(1, 4, 96) / 10)


def patcher(inside: Any, *, packed: bool = False) -> Any:
    """A MODEL; `packed` puts Q8_0 blocks into the LoRA's layer."""
    flux = inside.flux()
    if packed:
        layer = flux.get_submodule(LAYER)
        blocks = inside.module("kontext_core.quant.encode").quantize_blocks(layer.weight, "Q8_0")
        kind = inside.module("kontext_core.quant.linear").QuantLinear
        flux.double_blocks[0].img_attn.proj = kind(blocks, "Q8_0", 96, layer.bias)
    return inside.module("nodes.native.wrapper").wrap(flux)


def out(model: Any) -> Tensor:
    """What the LoRA's layer gives, once the MODEL is loaded as the host loads it."""
    model.patch_model()
    result = model.model.diffusion_model.get_submodule(LAYER)(draw(9, 1, 3, 96))
    model.unpatch_model()
    return result


@pytest.mark.parametrize("packed", [False, True])
def test_a_model_has_its_own_loras_whatever_ran_before(
    inside: Any, lora: Any, packed: bool
) -> None:
    """Clones share a network; none may keep what another has set."""
    with_loras = inside.module("nodes.native.patcher").with_loras
    plain = patcher(inside, packed=packed)
    before = out(plain)
    half, whole = with_loras(plain, [(lora, 0.5)]), with_loras(plain, [(lora, 1.0)])
    added = draw(9, 1, 3, 96) @ change().T
    assert added.abs().max() > 0.3
    for model, strength in ((half, 0.5), (whole, 1.0), (plain, 0.0), (half, 0.5), (plain, 0.0)):
        assert (out(model) - before - strength * added).abs().max() < SAME
    assert inside.module("nodes.native.patcher").loras_of(half) == ((lora, 0.5),)


@pytest.mark.parametrize("packed", [False, True])
def test_patches_of_the_hosts_act_while_loaded_and_no_longer(inside: Any, packed: bool) -> None:
    plain = patcher(inside, packed=packed)
    before = out(plain)
    other = plain.clone()
    difference = draw(4, 96, 96) / 10
    other.add_patches({f"diffusion_model.{LAYER}.weight": (difference,)}, 0.5)
    expected = before + 0.5 * draw(9, 1, 3, 96) @ difference.T
    for _ in range(2):
        assert (out(other) - expected).abs().max() < SAME
        assert torch.equal(out(plain), before)
    # Two sets of patches in turn, without unloading between.
    third = plain.clone()
    third.add_patches({f"diffusion_model.{LAYER}.weight": (difference,)}, -1.0)
    if packed:
        other.patch_model()
        assert (out(third) - before + draw(9, 1, 3, 96) @ difference.T).abs().max() < SAME
        other.patch_model()
        assert torch.equal(out(plain), before)


def test_modulations_kept_for_other_weights_are_forgotten(inside: Any) -> None:
    model = patcher(inside)
    tables = model.model.diffusion_model.modulated._tables
    for change_weights in (
        model.patch_model,
        model.unpatch_model,
        model.cleanup,
        lambda: model.patch_hooks(None),
        lambda: model.unpatch_hooks(),
    ):
        tables[("row",)] = None
        change_weights()
        assert not tables


def test_a_hook_acts_on_packed_weights_and_goes(inside: Any) -> None:
    model = patcher(inside, packed=True)
    model.current_hooks = None
    layer = model.model.diffusion_model.get_submodule(LAYER)
    x, difference = draw(9, 1, 3, 96), draw(4, 96, 96) / 10
    before, key = layer(x), f"diffusion_model.{LAYER}.weight"
    patches = {key: [(0.5, (difference,), 1.0, None, None)]}
    model.patch_hook_weight_to_device(None, patches, key, {}, None)
    assert (layer(x) - before - 0.5 * x @ difference.T).abs().max() < SAME
    model.unpatch_hooks()
    assert torch.equal(layer(x), before)


def test_packed_weights_are_not_saved_raw(inside: Any) -> None:
    error = inside.module("kontext_core.errors").InputError
    with pytest.raises(error, match="packed weights"):
        patcher(inside, packed=True).model_state_dict_for_saving()


def test_a_lora_as_patches_of_the_hosts(inside: Any, lora: Any) -> None:
    """On a MODEL that the host has loaded: the same formula, merged."""
    native = inside.module("nodes.native.lora")
    network = torch.nn.Module()
    flux = inside.flux()
    for name, child in flux.named_children():
        network.add_module(name, child)
    base = inside.module("nodes.native.wrapper").comfy.model_base.Flux
    config = SimpleNamespace(latent_format=None)
    model = ModelPatcher(base(config, None, unet_model=lambda: network))
    other, report, notes = native.add_lora(model, lora, 0.5)
    assert report.matched == 1 and "merged" in notes[0]
    x, layer = draw(9, 1, 3, 96), network.get_submodule(LAYER)
    before = layer(x)
    other.patch_model()
    assert (layer(x) - before - 0.5 * x @ change().T).abs().max() < SAME
    other.unpatch_model()
    assert torch.equal(layer(x), before)


def test_a_packed_layer_streams_and_hears_an_interrupt(inside: Any) -> None:
    model = patcher(inside, packed=True)
    layer, x = model.model.diffusion_model.get_submodule(LAYER), draw(9, 1, 3, 96)
    expected, casts = layer(x), inside.state.casts
    layer.comfy_cast_weights = True
    assert torch.equal(layer(x), expected) and inside.state.casts == casts + 1
    inside.state.interrupted = True
    try:
        with pytest.raises(Interrupt):
            layer(x)
    finally:
        inside.state.interrupted = False


def test_references_of_two_texts_are_sampled_together_only_when_equal(inside: Any) -> None:
    conds, chain = inside.module("nodes.native.conds"), inside.module("nodes.conditioning")
    make = inside.module("kontext_core.stitcher").Reference

    def one(**values: Any) -> Any:
        reference = make(draw(1, 1, 16, 4, 4), **values)
        return conds.CONDReferences(chain.ReferenceChain((reference,)))

    assert one().can_concat(one())
    assert not one().can_concat(one(strength=0.5))
    assert not one().can_concat(CONDConstant(None))
    both = one().concat([one()])
    assert both == one().cond and one().size() == [1]


def test_what_a_conditioning_carries_to_the_model(inside: Any) -> None:
    """Latents in model space, without those of strength 0, with chain and method."""
    model = patcher(inside).model
    make = inside.module("kontext_core.stitcher").Reference
    chain = inside.module("nodes.conditioning").ReferenceChain
    first, second = make(draw(1, 1, 16, 4, 4), strength=0.5), make(draw(2, 1, 16, 4, 4), strength=0)
    given = {
        "cross_attn": draw(3, 1, 5, 40),
        "pooled_output": draw(4, 1, 24),
        "kontext_references": chain((first, second)),
        "reference_latents_method": "uxo",
    }
    made = model.extra_conds(**given)
    [latent] = made["ref_latents"].cond
    assert torch.equal(latent, model.process_latent_in(first.latent))
    assert tuple(made["kontext_references"].cond.items) == (first, second)
    assert made["ref_latents_method"].cond == "uxo"
    error = inside.module("kontext_core.errors").ShapeError
    with pytest.raises(error, match="another text encoder"):
        model.extra_conds(**given | {"cross_attn": draw(3, 1, 5, 41)})


def of_the_pack(inside: Any, network: Any, module: str, kind: str, *more: Any) -> Any:
    """A network of the tests' core as the pack's own class, same weights."""
    made = getattr(inside.module(module), kind)(network.params, *more)
    made.load_state_dict(network.state_dict())
    return made.eval().requires_grad_(False)


def test_clip_is_the_cores_encoders(inside: Any) -> None:
    pair, host_clip = make_pair(), inside.module("nodes.native.host_clip")
    clip = host_clip.host_clip(pair, "pair")
    tokens = clip.tokenizer.tokenize_with_weights("put the red (star:1.3) on it")
    tokens["t5xxl"] = clip.tokenizer.tokenize_with_weights("another text")["t5xxl"]
    encoders = clip.cond_stage_model
    features, pooled, notes = encoders.encode_token_weights(tokens)
    expected = pair.encode_halves(tokens)
    assert torch.equal(features, expected[0]) and torch.equal(pooled, expected[1])
    assert notes == {}
    encoders.set_clip_options({"layer": -2})
    earlier, _, _ = encoders.encode_token_weights(tokens)
    assert torch.equal(earlier, pair.encode_halves(tokens, layer=-2)[0])
    assert not torch.equal(earlier, features)
    # One beyond the first means all, and a reset forgets it.
    encoders.set_clip_options({"layer": -30})
    assert torch.equal(encoders.encode_token_weights(tokens)[0], features)
    encoders.set_clip_options({"layer": -2})
    encoders.reset_clip_options()
    assert torch.equal(encoders.encode_token_weights(tokens)[0], features)
    # Three matrices of logits, twice the maps of a layer, its largest matrix; float32.
    numbers = 3 * 4 * 256**2 + 2 * 256 * (2 * 96 + 5 * 64) + 96 * 64
    assert encoders.memory_estimation_function({"t5xxl": [[0] * 256]}) == 4 * numbers
    inside.state.interrupted = True
    try:
        with pytest.raises(Interrupt):
            encoders.encode_token_weights(tokens)
    finally:
        inside.state.interrupted = False


def test_clip_of_the_embedded_encoder(inside: Any) -> None:
    plain = make_text_encoder()
    encoder = of_the_pack(inside, plain, "kontext_core.models.text", "TextEncoder", WORDS)
    clip = inside.module("nodes.native.host_clip").host_clip(encoder, "tiny")
    tokens = clip.tokenizer.tokenize_with_weights("put the red star")
    assert sorted(tokens) == ["l", "t5xxl"]
    features, pooled, notes = clip.cond_stage_model.encode_token_weights(tokens)
    expected = plain.encode(["put the red star"])
    assert torch.equal(features, expected[0]) and torch.equal(pooled, expected[1])
    assert notes == {}
    *_, notes = clip.cond_stage_model.encode_token_weights(clip.tokenizer.tokenize_with_weights(""))
    assert "instruction is empty" in notes["kontext_text_notes"][0]


def test_vae_is_the_cores_autoencoder(inside: Any) -> None:
    network = make_autoencoder()
    vae = inside.module("nodes.native.host_vae").host_vae(network, "ae", ((64, 64),))
    picture = torch.rand(2, 38, 45, 3, generator=torch.Generator().manual_seed(1))
    latent = vae.encode(picture)
    cut = picture[:, 3:35, 2:42].movedim(-1, 1)
    assert latent.shape == (2, 16, 4, 5)
    assert (latent - network.encode(cut * 2 - 1)).abs().max() < SAME
    shown = vae.decode(latent)
    expected = (network.decode(latent) / 2 + 0.5).clamp(0, 1).movedim(1, -1)
    assert (shown - expected).abs().max() < SAME
    # Room for one picture was asked for, of its own size.
    loaded = inside.state.loaded
    needed = [more["memory_required"] for _, more in loaded[-2:]]
    assert needed == [
        network.working_memory(32, 40, decode=False),
        network.working_memory(32, 40, decode=True),
    ]
    assert vae.memory_used_encode((1, 3, 32, 40), torch.float32) == needed[0]
    assert vae.memory_used_decode((1, 16, 4, 5), torch.float32) == needed[1]
    raw = torch.tensor([-3.0, -1.0, 0.0, 1.0, 2.0])
    assert vae.process_input(torch.tensor([0.0, 0.5, 1.0])).tolist() == [-1, 0, 1]
    assert vae.process_output(raw.clone()).tolist() == [0, 0, 0.5, 1, 1]
