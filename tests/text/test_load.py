"""Text encoders from every form of file: features equal those of the stored weights in float32."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from files import FP8_FORMS, write_all_in_one, write_bfl, write_diffusers, write_fp8, write_gguf
from small_encoders import make_clip, make_t5, openai_clip, openai_name
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from kontext_core import CheckpointError, InputError, ModelNotFoundError
from kontext_core.models.t5 import T5Encoder
from kontext_core.text.load import load_clip_l, load_flux_text_encoders, load_t5

State = dict[str, Tensor]
# llama.cpp's names, written out here once more so that a wrong one in the key map shows.
GGML_LAYERS = {
    "layer.0.SelfAttention.q": "attn_q",
    "layer.0.SelfAttention.k": "attn_k",
    "layer.0.SelfAttention.v": "attn_v",
    "layer.0.SelfAttention.o": "attn_o",
    "layer.0.SelfAttention.relative_attention_bias": "attn_rel_b",
    "layer.0.layer_norm": "attn_norm",
    "layer.1.DenseReluDense.wi_0": "ffn_gate",
    "layer.1.DenseReluDense.wi_1": "ffn_up",
    "layer.1.DenseReluDense.wo": "ffn_down",
    "layer.1.layer_norm": "ffn_norm",
}
GGML_TOP = {
    "shared.weight": "token_embd.weight",
    "encoder.final_layer_norm.weight": "enc.output_norm.weight",
}
# Rows of 256 numbers, which K-quants need, and few words, for speed.
SMALL: dict[str, Any] = {
    "vocab_size": 300, "d_model": 256, "d_kv": 64, "d_ff": 512, "num_layers": 2, "num_heads": 4,
}  # fmt: skip


def ggml_name(name: str) -> str:
    if name in GGML_TOP:
        return GGML_TOP[name]
    _, _, number, layer = name.removesuffix(".weight").split(".", 3)
    return f"enc.blk.{number}.{GGML_LAYERS[layer]}.weight"


def gguf_kind(kind: str) -> Callable[[str, Tensor], str]:
    """Types as published T5 files have them: vectors and positions stay as they are."""
    return lambda name, tensor: "F32" if tensor.ndim == 1 or "attn_rel_b" in name else kind


def t5_features(state: State) -> Tensor:
    """Of the plain float32 network."""
    network = make_t5(**SMALL)
    network.load_state_dict(state)
    with torch.no_grad():
        return network(ids())


def ids() -> Tensor:
    return torch.randint(0, 300, (2, 40), generator=torch.Generator().manual_seed(5))


def check_t5(loaded: T5Encoder, worth: State) -> None:
    with torch.no_grad():
        # Measured 7.5e-6 for scaled float8 (scaled after the sum), else 0, on features up to 7.2.
        torch.testing.assert_close(loaded(ids()), t5_features(worth), atol=2e-5, rtol=0)


@pytest.fixture(scope="module")
def t5() -> State:
    return make_t5(3, **SMALL).state_dict()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("pack", [False, True])
def test_t5_safetensors(dtype: torch.dtype, pack: bool, t5: State, tmp_path: Path) -> None:
    path = tmp_path / "t5xxl.safetensors"
    worth = write_bfl(path, t5, dtype=dtype)
    loaded = load_t5(path, dtype=torch.float32, pack=pack)
    assert loaded.params == make_t5(**SMALL).params
    wanted = dtype if pack else torch.float32
    assert loaded.encoder.block[0].layer[0].SelfAttention.q.weight.dtype == wanted  # type: ignore[union-attr]
    check_t5(loaded, worth)


@pytest.mark.parametrize("form", FP8_FORMS)
def test_t5_fp8(form: str, t5: State, tmp_path: Path) -> None:
    path = tmp_path / "t5xxl_fp8.safetensors"
    worth = write_fp8(path, t5, form, keep=lambda name: "relative_attention_bias" in name)
    check_t5(load_t5(path), worth)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q5_K", "Q4_K", "Q3_K", "Q4_0", "IQ4_XS"])
def test_t5_gguf(kind: str, t5: State, tmp_path: Path) -> None:
    """The word table is packed like the rest, as published files have it."""
    path = tmp_path / "t5-v1_1-xxl-encoder.gguf"
    renamed = {ggml_name(name): tensor for name, tensor in t5.items()}
    stored = write_gguf(path, renamed, gguf_kind(kind), architecture="t5encoder")
    worth = {name: stored[ggml_name(name)] for name in t5}
    loaded = load_t5(path)
    if kind not in ("F16", "BF16"):
        assert loaded.shared.weight.dtype == torch.uint8
    assert isinstance(loaded.get_submodule(T5Encoder.keep_plain[0]), nn.Embedding)
    check_t5(loaded, worth)


def test_t5_gguf_without_architecture(t5: State, tmp_path: Path) -> None:
    path = tmp_path / "t5.gguf"
    renamed = {ggml_name(name): tensor for name, tensor in t5.items()}
    stored = write_gguf(path, renamed, gguf_kind("Q8_0"), architecture=None)
    check_t5(load_t5(path), {name: stored[ggml_name(name)] for name in t5})


def test_float16_is_computed_in_float32(t5: State, tmp_path: Path) -> None:
    """T5-XXL's features do not fit into float16."""
    path = tmp_path / "t5.safetensors"
    worth = write_bfl(path, t5, dtype=torch.float16)
    loaded = load_t5(path, dtype=torch.float16, pack=True)
    assert loaded.shared.weight.dtype == torch.float16
    check_t5(loaded, worth)


def test_word_table_under_its_other_name(t5: State, tmp_path: Path) -> None:
    """T5 files have `shared`, `encoder.embed_tokens`, or both."""
    other = "encoder.embed_tokens.weight"
    alone = {other if name == "shared.weight" else name: t for name, t in t5.items()}
    for number, state in enumerate((alone, {**t5, other: t5["shared.weight"].clone()})):
        path = tmp_path / f"{number}.safetensors"
        write_bfl(path, state)
        check_t5(load_t5(path), t5)


@pytest.mark.parity
def test_folders_of_transformers(tmp_path: Path) -> None:
    """What `save_pretrained` of the published classes writes."""
    config = T5Config(**{**SMALL, "num_layers": 2}, feed_forward_proj="gated-gelu", pad_token_id=0)
    oracle = T5EncoderModel(config).eval()
    oracle.save_pretrained(tmp_path / "t5", max_shard_size="2MB")
    assert (tmp_path / "t5" / "model.safetensors.index.json").is_file()
    with torch.no_grad():
        wanted = oracle(ids()).last_hidden_state
        # Measured 1.4e-6.
        torch.testing.assert_close(load_t5(tmp_path / "t5")(ids()), wanted, atol=1e-5, rtol=0)
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    clip = CLIPTextModel(CLIPTextConfig(**sizes, num_attention_heads=4)).eval()
    clip.save_pretrained(tmp_path / "clip")
    row = torch.tensor([[49406, 320, 2368, 49407, 49407]])
    for path in (tmp_path / "clip", tmp_path / "clip" / "model.safetensors"):
        loaded = load_clip_l(path)
        assert loaded.params.num_heads == 4
        with torch.no_grad():
            pooled = clip(row).pooler_output
            # Measured 5e-7.
            torch.testing.assert_close(loaded(row)[1], pooled, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn])
def test_clip_with_all_that_files_carry(dtype: torch.dtype, tmp_path: Path) -> None:
    """Position numbers, projection and scale are in some files and not used."""
    model = make_clip(4)
    extra = {
        "text_model.embeddings.position_ids": torch.arange(77)[None],
        "text_projection.weight": torch.ones(128, 128),
        "logit_scale": torch.tensor(4.6),
    }
    path = tmp_path / "clip_l.safetensors"
    worth = write_bfl(path, model.state_dict(), dtype=dtype, extra=extra)
    row = torch.tensor([[49406, 320, 2368, 49407]])
    model.load_state_dict(worth)
    with torch.no_grad():
        wanted, got = model(row), load_clip_l(path)(row)
    for one, other in zip(got, wanted, strict=True):
        # Measured 0: the same numbers in the same network.
        torch.testing.assert_close(one, other, atol=2e-5, rtol=0)


def hf_clip(model: nn.Module, stored: State) -> State:
    """What is stored under OpenAI's names, under transformers'."""
    state: State = {}
    for ours in model.state_dict():
        name, third = openai_name(ours)
        state[ours] = stored[name] if third is None else stored[name].chunk(3)[third]
    return state


@pytest.mark.parametrize("form", ["alone", "whole", "prefix", "float8", "GGUF"])
def test_clip_under_openais_names(form: str, tmp_path: Path) -> None:
    """The same numbers as under transformers' names."""
    model = make_clip(4, mlp=128)
    path = tmp_path / "ViT-L-14.safetensors"
    state = openai_clip(model.state_dict())
    assert state["transformer.resblocks.2.attn.in_proj_weight"].shape == (384, 128)
    picture_half = {
        "visual.transformer.resblocks.0.attn.in_proj_weight": torch.ones(12, 4),
        "visual.class_embedding": torch.ones(4),
        "text_projection": torch.ones(128, 128),
        "logit_scale": torch.tensor(4.6),
    }
    if form == "GGUF":
        worth = write_gguf(path, state, gguf_kind("Q8_0"), architecture=None)
    else:
        dtype = torch.float8_e4m3fn if form == "float8" else torch.float32
        prefix = "cond_stage_model.model." if form == "prefix" else ""
        extra = picture_half if form == "whole" else None
        worth = write_bfl(path, state, prefix=prefix, dtype=dtype, extra=extra)
    model.load_state_dict(hf_clip(model, worth))
    row = torch.tensor([[49406, 320, 2368, 49407]])
    loaded = load_clip_l(path)
    assert loaded.params == model.params and not getattr(loaded, "left_over", ())
    with torch.no_grad():
        for one, other in zip(loaded(row), model(row), strict=True):
            # Measured 0.
            torch.testing.assert_close(one, other, atol=2e-6, rtol=0)


def test_clip_under_openais_names_that_does_not_divide(tmp_path: Path) -> None:
    state = openai_clip(make_clip(4).state_dict())
    name = "transformer.resblocks.1.attn.in_proj_weight"
    write_bfl(tmp_path / "bad.safetensors", {**state, name: state[name][:-1]})
    with pytest.raises(CheckpointError, match=rf"'{name}' has 383 rows; expected 3 equal parts"):
        load_clip_l(tmp_path / "bad.safetensors")
    for bad in (torch.tensor(1.0), torch.zeros(0, 128)):
        write_bfl(tmp_path / "none.safetensors", {**state, name: bad})
        with pytest.raises(CheckpointError, match=rf"'{name}' has 0 rows; expected 3 equal parts"):
            load_clip_l(tmp_path / "none.safetensors")
    wide = {name: t for name, t in openai_clip(make_clip(4, width=1024).state_dict()).items()}
    write_bfl(tmp_path / "wide.safetensors", wide)
    with pytest.raises(CheckpointError, match="another CLIP than CLIP-L"):
        load_clip_l(tmp_path / "wide.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensor, Tensor]:
    """A folder with both files, an all-in-one file and a pipeline folder; and the features."""
    from kontext_core.text.pair import FluxTextEncoders

    folder = tmp_path_factory.mktemp("encoders")
    t5, clip = make_t5(6), make_clip(7)
    write_bfl(folder / "t5xxl.safetensors", t5.state_dict())
    write_bfl(folder / "clip_l.safetensors", clip.state_dict())
    write_all_in_one(folder / "all.safetensors", {}, None, t5.state_dict(), clip.state_dict())
    (folder / "pipe").mkdir()
    (folder / "pipe" / "model_index.json").write_text("{}", encoding="utf-8")
    write_diffusers(folder / "pipe" / "text_encoder", clip.state_dict(), stem="model")
    write_diffusers(folder / "pipe" / "text_encoder_2", t5.state_dict(), shards=2, stem="model")
    return folder, *FluxTextEncoders(t5, clip).encode(["a (red:1.2) cat"])


@pytest.mark.parametrize(
    "names",
    [
        ("t5xxl.safetensors", "clip_l.safetensors"),
        ("clip_l.safetensors", "t5xxl.safetensors"),
        ("all.safetensors", "all.safetensors"),
        ("all.safetensors",),
        ("pipe",),
    ],
    ids=["two files", "the other way round", "all-in-one twice", "all-in-one", "pipeline"],
)
def test_the_pair(names: tuple[str, ...], whole: tuple[Path, Tensor, Tensor]) -> None:
    folder, txt, vec = whole
    done: list[tuple[int, int]] = []
    pair = load_flux_text_encoders(
        *(folder / name for name in names), progress=lambda *at: done.append(at)
    )
    got = pair.encode(["a (red:1.2) cat"])
    # The same numbers in the same network.
    assert torch.equal(got[0], txt) and torch.equal(got[1], vec)
    assert done[-1][0] == done[-1][1] > 0
    assert not any(parameter.requires_grad for parameter in pair.parameters())


def test_the_pair_with_published_padding(whole: tuple[Path, Tensor, Tensor]) -> None:
    folder = whole[0]
    files = folder / "t5xxl.safetensors", folder / "clip_l.safetensors"
    pair = load_flux_text_encoders(*files, max_length=512, weights=False, dtype=torch.bfloat16)
    txt, vec = pair.encode(["a (red:1.2) cat"])
    assert txt.shape == (1, 512, 64) and txt.dtype == vec.dtype == torch.bfloat16
    with pytest.raises(InputError, match="max_length is 100"):
        load_flux_text_encoders(*files, max_length=100)


def test_wrong_files(whole: tuple[Path, Tensor, Tensor], t5: State, tmp_path: Path) -> None:
    folder = whole[0]
    t5_file, clip_file = folder / "t5xxl.safetensors", folder / "clip_l.safetensors"
    with pytest.raises(CheckpointError, match=r"clip_l\.safetensors: holds .*t5xxl"):
        load_t5(clip_file)
    with pytest.raises(CheckpointError, match=r"t5xxl\.safetensors: holds .*clip_l"):
        load_clip_l(t5_file)
    with pytest.raises(CheckpointError, match="clip_l"):
        load_flux_text_encoders(t5_file, t5_file)
    with pytest.raises(ModelNotFoundError):
        load_flux_text_encoders(t5_file, folder / "missing.safetensors")
    key = "encoder.block.1.layer.0.SelfAttention.o.weight"
    write_bfl(tmp_path / "cut.safetensors", {k: v for k, v in t5.items() if k != key})
    with pytest.raises(CheckpointError, match=rf"cut\.safetensors.*1 missing \({key}\)"):
        load_t5(tmp_path / "cut.safetensors")
    bias = "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"
    write_bfl(tmp_path / "umt5.safetensors", {**t5, bias: torch.zeros(32, 4)})
    with pytest.raises(CheckpointError, match="UMT5"):
        load_t5(tmp_path / "umt5.safetensors")


def test_a_config_that_is_no_json(tmp_path: Path) -> None:
    write_bfl(tmp_path / "model.safetensors", make_clip().state_dict())
    (tmp_path / "config.json").write_text("<html>", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config\.json: can't be read"):
        load_clip_l(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}), encoding="utf-8")
    assert load_clip_l(tmp_path).params.num_heads == 2
