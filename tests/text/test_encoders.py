"""T5 and CLIP-L against transformers on random weights, and their sizes off the tensors' shapes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_encoders import make_clip, make_t5
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel
from transformers.models.t5.modeling_t5 import T5Attention

from kontext_core import CheckpointError
from kontext_core.models.clip import ClipParams, ClipTextModel, clip_params
from kontext_core.models.t5 import T5Encoder, T5Params, position_buckets, t5_params


def draw_ids(seed: int, *shape: int, high: int) -> torch.Tensor:
    return torch.randint(3, high, shape, generator=torch.Generator().manual_seed(seed))


def t5_oracle(mine: T5Encoder) -> T5EncoderModel:
    p = mine.params
    config = T5Config(
        vocab_size=p.vocab_size,
        d_model=p.d_model,
        d_kv=p.d_kv,
        d_ff=p.d_ff,
        num_layers=p.num_layers,
        num_heads=p.num_heads,
        feed_forward_proj="gated-gelu",
    )
    oracle = T5EncoderModel(config).eval()
    left = oracle.load_state_dict(mine.state_dict(), strict=False)
    assert not left.unexpected_keys
    assert set(left.missing_keys) <= {"encoder.embed_tokens.weight"}
    return oracle


def clip_oracle(mine: ClipTextModel) -> CLIPTextModel:
    p = mine.params
    config = CLIPTextConfig(
        vocab_size=p.vocab_size,
        hidden_size=p.width,
        intermediate_size=p.mlp,
        num_hidden_layers=p.num_layers,
        num_attention_heads=p.num_heads,
        max_position_embeddings=p.max_positions,
    )
    oracle = CLIPTextModel(config).eval()
    bare = "embeddings.token_embedding.weight" in oracle.state_dict()
    state = mine.state_dict()
    # transformers 5 leaves `text_model.` out.
    renamed = {k.removeprefix("text_model.") if bare else k: v for k, v in state.items()}
    oracle.load_state_dict(renamed, strict=not bare)
    return oracle


@pytest.mark.parity
@pytest.mark.parametrize("length", [1, 2, 77, 300])
def test_t5_is_transformers(length: int) -> None:
    mine = make_t5(1)
    ids = draw_ids(length, 2, length, high=mine.params.vocab_size)
    ids[1, length // 2 :] = 0
    with torch.no_grad():
        wanted = t5_oracle(mine)(ids).last_hidden_state
        got = mine(ids)
    # Measured at most 2.8e-6, on features up to 4.9.
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)


@pytest.mark.parity
@pytest.mark.parametrize("length", [2, 77, 248])
def test_clip_is_transformers(length: int) -> None:
    mine = make_clip(2, max_positions=248)
    ids = draw_ids(length, 3, length, high=49406)
    ids[0, -1] = ids[1, length // 2 :] = ids[2, -2:] = 49407
    with torch.no_grad():
        wanted = clip_oracle(mine)(ids)
        features, pooled = mine(ids)
    # Measured 0, on features up to 5.4; other builds of torch may order sums differently.
    torch.testing.assert_close(features, wanted.last_hidden_state, atol=1e-5, rtol=0)
    torch.testing.assert_close(pooled, wanted.pooler_output, atol=1e-5, rtol=0)


@pytest.mark.parity
def test_position_buckets_are_transformers() -> None:
    places = torch.arange(700)
    wanted = T5Attention._relative_position_bucket(
        places[None, :] - places[:, None], bidirectional=True, num_buckets=32, max_distance=128
    )
    assert torch.equal(position_buckets(700, 32, 128), wanted)


def test_position_buckets() -> None:
    table = position_buckets(200, 32, 128)
    assert table[0, :9].tolist() == [0, 17, 18, 19, 20, 21, 22, 23, 24]
    assert [int(table[0, d]) for d in (11, 12, 15, 16, 127, 128, 199)] == [
        24,
        25,
        25,
        26,
        31,
        31,
        31,
    ]
    assert [int(table[d, 0]) for d in (1, 8, 16, 128, 199)] == [1, 8, 10, 15, 15]


def test_pooled_is_at_the_first_end_token() -> None:
    mine = make_clip()
    ids = torch.tensor([[49406, 320, 49407, 2368, 49407], [49406, 320, 2368, 2368, 320]])
    with torch.no_grad():
        features, pooled = mine(ids)
    assert torch.equal(pooled[0], features[0, 2])
    assert torch.equal(pooled[1], features[1, 4])


def test_sizes_off_the_shapes() -> None:
    params = T5Params(vocab_size=40, d_model=16, d_kv=4, d_ff=24, num_layers=3, num_heads=2)
    assert t5_params(make_t5(**vars(params)).state_dict(), "a file") == params
    clip = ClipParams(vocab_size=40, width=128, mlp=48, num_layers=2, num_heads=2, max_positions=9)
    state = make_clip(**vars(clip)).state_dict()
    assert clip_params(state, "a file") == clip
    assert clip_params(state, "a file", num_heads=8).num_heads == 8


def test_published_sizes() -> None:
    """The parameter counts of the published files: t5xxl 4,762,310,656 and clip_l 123,060,480."""
    with torch.device("meta"):
        networks: tuple[Any, Any] = (T5Encoder(T5Params()), ClipTextModel(ClipParams()))
    counts = [sum(p.numel() for p in network.parameters()) for network in networks]
    assert counts == [4_762_310_656, 123_060_480]
    t5, clip = (network.state_dict() for network in networks)
    assert t5_params(t5, "a file") == T5Params() and clip_params(clip, "a file") == ClipParams()
    assert len(t5) == 219 and len(clip) == 196


def test_what_is_no_t5() -> None:
    state = make_t5().state_dict()
    with pytest.raises(CheckpointError, match=r"a file: tensor shared.weight is missing.*t5xxl"):
        t5_params({k: v for k, v in state.items() if k != "shared.weight"}, "a file")
    extra = "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"
    with pytest.raises(CheckpointError, match=r"block\.1.*UMT5"):
        t5_params({**state, extra: torch.zeros(32, 4)}, "a file")
    query = "encoder.block.0.layer.0.SelfAttention.q.weight"
    with pytest.raises(CheckpointError, match=r"33 rows.*4 heads"):
        t5_params({**state, query: torch.zeros(33, 48)}, "a file")


def test_what_is_no_clip() -> None:
    state = make_clip().state_dict()
    places = "text_model.embeddings.position_embedding.weight"
    with pytest.raises(CheckpointError, match=r"a file: tensor .*position_embedding.* missing"):
        clip_params({k: v for k, v in state.items() if k != places}, "a file")
    with pytest.raises(CheckpointError, match="128 does not divide into 3 heads"):
        clip_params(state, "a file", num_heads=3)
