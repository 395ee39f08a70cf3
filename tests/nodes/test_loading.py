"""The loaders read every form their lists offer, and the graph runs on what they give."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from model_folders import EXACT, LORA, ROUNDED, write_models


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(autouse=True)
def models(host: Any, folders: Path) -> Iterator[Path]:
    host.models = folders
    return folders


def clip_of(pack: Any, t5: str = "t5.safetensors", clip_l: str = "clip_l.safetensors") -> Any:
    return pack.run("KontextLoadTextEncoders", t5_name=t5, clip_l_name=clip_l)[0]


def edit(pack: Any, model: Any, clip: Any, vae: Any) -> torch.Tensor:
    """The latent of one step of all of it."""
    inputs = {"model": model, "clip": clip, "vae": vae, "steps": 1, "width": 64, "height": 64}
    return pack.run("KontextEdit", prompt="make the (star:1.3) red", **inputs)[1]["samples"]


def options(pack: Any, node: str, name: str) -> list[str]:
    types = pack.nodes[node].INPUT_TYPES()
    return {**types["required"], **types.get("optional", {})}[name][1]["options"]


def test_every_form_is_listed(pack: Any) -> None:
    assert set(options(pack, "KontextLoadModel", "model_name")) == {
        "embedded: tiny", *EXACT, *ROUNDED
    }  # fmt: skip
    shared = ["checkpoints: all.safetensors", "diffusers: kontext"]
    assert options(pack, "KontextLoadVAE", "model_name")[1:] == ["ae.safetensors", *shared]
    encoders = ["clip_l.safetensors", "t5.safetensors", *shared]
    for name in ("t5_name", "clip_l_name"):
        assert options(pack, "KontextLoadTextEncoders", name)[1:] == encoders
    assert options(pack, "KontextLoadLora", "lora_file") == [LORA, "embedded: tiny-turbo-2-steps"]
    assert options(pack, "KontextQuantize", "model_name") == options(
        pack, "KontextLoadModel", "model_name"
    )[1:]  # fmt: skip


def test_the_same_weights_in_every_form_give_the_same_picture(pack: Any) -> None:
    vae = pack.run("KontextLoadVAE", model_name="ae.safetensors")[0]
    clip = clip_of(pack)
    expected = edit(pack, pack.run("KontextLoadModel", model_name=EXACT[0])[0], clip, vae)
    assert expected.std() > 0.1
    for name in EXACT[1:]:
        model = pack.run("KontextLoadModel", model_name=name)[0]
        assert torch.equal(edit(pack, model, clip, vae), expected), name
    for name in ROUNDED:
        model = pack.run("KontextLoadModel", model_name=name)[0]
        error = (edit(pack, model, clip, vae) - expected).abs().mean()
        # Rounding alone: measured 0.022 (Q8_0) and 0.090 (fp8), latents deviate by 4.7.
        assert 0 < error < 0.25, name


@pytest.mark.parametrize("shared", ["checkpoints: all.safetensors", "diffusers: kontext"])
def test_whole_checkpoints_serve_all_three_loaders(pack: Any, image: Any, shared: str) -> None:
    own = (clip_of(pack), pack.run("KontextLoadVAE", model_name="ae.safetensors")[0])
    clip = clip_of(pack, shared, shared)
    vae = pack.run("KontextLoadVAE", model_name=shared)[0]
    for ours, theirs in zip(_encoded(own[0]), _encoded(clip), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(own[1].encode(image(1)), vae.encode(image(1)))


def _encoded(clip: Any) -> tuple[torch.Tensor, torch.Tensor]:
    [[features, extra]] = clip.encode_from_tokens_scheduled(clip.tokenize("a (red:0.5) star"))
    return features, extra["pooled_output"]


def test_padding_is_comfyuis_or_the_published(pack: Any) -> None:
    inputs = {"t5_name": "t5.safetensors", "clip_l_name": "clip_l.safetensors"}
    for padding, length in (("256", 256), ("512", 512)):
        clip = pack.run("KontextLoadTextEncoders", **inputs, padding=padding)[0]
        tokens = clip.tokenize("a star")
        assert len(tokens["t5xxl"][0]) == length
        assert len(tokens["l"][0]) == 77
        assert _encoded(clip)[0].shape == (1, length, 64)
        assert _encoded(clip)[1].shape == (1, 128)
    long = clip_of(pack).tokenize("star " * 300)
    assert len(long["t5xxl"][0]) > 300


def test_clip_answers_comfyuis_own_encode_nodes(pack: Any) -> None:
    """What CLIPTextEncodeFlux and T5TokenizerOptions do."""
    clip = clip_of(pack)
    tokens = clip.tokenize("a star")
    tokens["t5xxl"] = clip.tokenize("a blue circle")["t5xxl"]
    [[features, extra]] = clip.encode_from_tokens_scheduled(tokens, add_dict={"guidance": 3.0})
    words, _ = clip.encode_from_tokens(clip.tokenize("a blue circle"), return_pooled=True)
    _, sentence = clip.encode_from_tokens(clip.tokenize("a star"), return_pooled=True)
    assert torch.equal(features, words)
    assert torch.equal(extra["pooled_output"], sentence)
    assert extra["guidance"] == 3.0
    shorter = clip.clone()
    shorter.set_tokenizer_option("t5xxl_min_length", 8)
    assert len(shorter.tokenize("a star")["t5xxl"][0]) == 8
    assert len(clip.tokenize("a star")["t5xxl"][0]) == 256
    assert all(len(token) == 3 for token in clip.tokenize("a", return_word_ids=True)["l"][0])


def test_comfyuis_clip_works_in_our_nodes(pack: Any) -> None:
    """Of a CLIP our nodes call these two, as ComfyUI's own encode nodes do."""
    ours = clip_of(pack)

    class Foreign:
        def tokenize(self, text: str) -> Any:
            return ours.tokenize(text)

        def encode_from_tokens_scheduled(self, tokens: Any) -> Any:
            return ours.encode_from_tokens_scheduled(tokens)

    model = pack.run("KontextLoadModel", model_name=EXACT[0])[0]
    vae = pack.run("KontextLoadVAE", model_name="ae.safetensors")[0]
    assert torch.equal(edit(pack, model, Foreign(), vae), edit(pack, model, ours, vae))


@pytest.mark.parametrize("name", ROUNDED)
def test_lora_on_packed_weights_is_a_branch(pack: Any, name: str) -> None:
    model = pack.run("KontextLoadModel", model_name=name)[0]
    made = pack.run("KontextLoadLora", model=model, lora_file=LORA)
    assert "double_blocks.17" in "\n".join(made.ui["kontext_notes"])
    vae = pack.run("KontextLoadVAE", model_name="ae.safetensors")[0]
    clip = clip_of(pack)
    plain, changed = (edit(pack, which, clip, vae) for which in (model, made[0]))
    # Measured 0.84 and more.
    assert (changed - plain).abs().mean() > 0.2
    with pytest.raises(pack.error("InputError"), match="branch"):
        pack.run("KontextLoadLora", model=model, lora_file=LORA, mode="merge")
    assert torch.equal(edit(pack, model, clip, vae), plain)


def test_long_loads_move_the_bar_and_can_be_interrupted(
    pack: Any, host: Any, interrupted: type[Exception]
) -> None:
    pack.run("KontextLoadModel", model_name=EXACT[0])
    shown = [step for step, total in host.steps if total == 100]
    assert shown == sorted(set(shown))
    assert len(shown) > 10
    assert shown[-1] == 100
    host.steps.clear()
    host.interrupt_after = 3
    with pytest.raises(interrupted):
        pack.run("KontextLoadModel", model_name=EXACT[0])


@pytest.mark.parametrize("memory", ["as stored", "converted"])
def test_memory_changes_what_is_kept_and_not_the_result(pack: Any, memory: str) -> None:
    vae = pack.run("KontextLoadVAE", model_name="ae.safetensors")[0]
    usual = pack.run("KontextLoadModel", model_name=EXACT[0], precision="bfloat16")[0]
    model = pack.run(
        "KontextLoadModel", model_name=EXACT[0], precision="bfloat16", memory=memory
    )[0]  # fmt: skip
    layer = model.load().double_blocks[0].img_attn.qkv
    stored = torch.float32 if memory == "as stored" else torch.bfloat16
    assert layer.weight.dtype == stored
    assert model.load().dtype == torch.bfloat16
    clip = clip_of(pack)
    changed, plain = edit(pack, model, clip, vae), edit(pack, usual, clip, vae)
    if memory == "converted":
        assert torch.equal(changed, plain)
    # Where the processor multiplies bfloat16, plain layers take GELU before the sum is rounded:
    # measured 0.0015 of the result's range there, 0 elsewhere.
    assert float((changed - plain).abs().max()) < 0.005 * float(plain.max() - plain.min())


def test_an_embedded_encoder_is_not_mixed_with_a_file(pack: Any) -> None:
    with pytest.raises(pack.error("InputError"), match="a file for each"):
        clip_of(pack, "embedded: tiny")


@pytest.mark.parametrize(
    ("node", "wrong"),
    [
        ("KontextLoadModel", "checkpoints: ae.safetensors"),
        ("KontextLoadVAE", "checkpoints: t5.safetensors"),
        ("KontextLoadModel", "checkpoints: style.safetensors"),
    ],
)
def test_a_file_in_the_wrong_loader_is_told_what_it_is(
    pack: Any, models: Path, node: str, wrong: str
) -> None:
    name = wrong.partition(": ")[2]
    source = next(path for path in models.rglob(name) if "checkpoints" not in path.parts)
    link = models / "checkpoints" / name
    link.symlink_to(source)
    try:
        with pytest.raises(pack.error("CheckpointError"), match=name):
            pack.run(node, model_name=wrong)
    finally:
        link.unlink()
