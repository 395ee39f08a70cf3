"""Parts of the transformer against formulas spelled out, and its published names."""

from __future__ import annotations

import hashlib
import math

import pytest
import torch
from small_models import draw, make_flux
from torch import Tensor, nn

from kontext_core import AutoEncoder, Flux, InputError, Reference, ShapeError, stitch
from kontext_core.config import FluxParams
from kontext_core.errors import CheckpointError
from kontext_core.models.attention import attention
from kontext_core.models.layers import timestep_embedding
from kontext_core.models.rope import rope_table


def digest(network: nn.Module) -> str:
    """Fingerprint of all names and shapes."""
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    lines = [f"{name} {'x'.join(map(str, shapes[name]))}\n" for name in sorted(shapes)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


# Fingerprints of the published files' tensor lists (flux1-kontext-dev, ae).
PUBLISHED = {
    Flux: (
        780,
        11_901_408_320,
        "95bdb57298d07abf77f2c3aeaf7a08004b60488f182d588bdb1da0f440bd6b56",
    ),
    AutoEncoder: (
        244,
        83_819_683,
        "a7a23e66b94002cf3e9b14f5a6b4b2b36227cbec03d203dd1d1f45f3f4780830",
    ),
}


@pytest.mark.parametrize("kind", PUBLISHED, ids=lambda kind: kind.__name__)
def test_published_names_and_shapes(kind: type[nn.Module]) -> None:
    count, size, fingerprint = PUBLISHED[kind]
    with torch.device("meta"):
        network = kind()
    tensors = network.state_dict()
    assert len(tensors) == count
    assert sum(value.numel() for value in tensors.values()) == size
    assert digest(network) == fingerprint


# Embeddings


def test_timestep_embedding_formula() -> None:
    out = timestep_embedding(torch.tensor([0.25]))[0].double()
    freqs = [math.exp(-math.log(10_000) * i / 128) for i in range(128)]
    expected = [math.cos(250 * f) for f in freqs] + [math.sin(250 * f) for f in freqs]
    # Measured: 9.6e-6, float32 angles of up to 250.
    assert (out - torch.tensor(expected, dtype=torch.float64)).abs().max() < 5e-5


def test_embedding_multiplies_in_the_dtype_given() -> None:
    """Guidance 2.5 in bfloat16 is 2496 after the factor of 1000; the angles are float32."""
    low = timestep_embedding(torch.tensor([2.5], dtype=torch.bfloat16))
    assert low.dtype == torch.float32
    assert low.equal(timestep_embedding(torch.tensor([2.496])))
    assert (low - timestep_embedding(torch.tensor([2.5]))).abs().max() > 0.1


def test_rope_depends_on_the_difference_of_places_only() -> None:
    """The same shift of every token, far beyond what half precision could hold, changes nothing."""
    ids = torch.tensor([[[0.0, 0, 0], [1, 3, 2], [2, 300, 511]]])
    q, k, v = (draw(i, 1, 2, 3, 32) for i in range(3))
    here = attention(q, k, v, rope_table(ids, (8, 12, 12), 10_000))
    there = attention(q, k, v, rope_table(ids + 1000, (8, 12, 12), 10_000))
    # Measured: 3.6e-7.
    assert (here - there).abs().max() < 1e-5
    assert (here - attention(q, k, v, rope_table(ids * 2, (8, 12, 12), 10_000))).abs().max() > 1e-2


def by_hand(q: Tensor, k: Tensor, v: Tensor, ids: Tensor, bias: Tensor | None) -> Tensor:
    """Rotary attention as it is written in papers: complex turns, explicit softmax, float64."""

    def turn(x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.double().reshape(*x.shape[:-1], -1, 2))
        angles = []
        for axis, dim in enumerate((8, 12, 12)):
            omega = 10_000.0 ** -(torch.arange(0, dim, 2).double() / dim)
            angles.append(ids[:, :, axis : axis + 1].double() * omega)
        angle = torch.cat(angles, -1)[:, None]
        return torch.view_as_real(pairs * torch.exp(1j * angle)).flatten(-2)

    logits = turn(q) @ turn(k).transpose(-1, -2) / math.sqrt(q.shape[-1])
    if bias is not None:
        logits = logits + bias[:, None, None, :].double()
    weights = logits.exp() / logits.exp().sum(-1, keepdim=True)
    return (weights @ v.double()).permute(0, 2, 1, 3).flatten(2)


@pytest.mark.parametrize("biased", [False, True])
def test_attention_by_hand(biased: bool) -> None:
    q, k, v = (draw(i, 2, 3, 7, 32) for i in range(3))
    ids = draw(4, 2, 7, 3) * 20
    bias = (
        torch.tensor([[0, 0, 0, math.log(0.3), math.log(0.3), math.log(4), 0]]) if biased else None
    )
    out = attention(q, k, v, rope_table(ids, (8, 12, 12), 10_000), bias)
    # Measured: 4e-7.
    assert (out - by_hand(q, k, v, ids, bias)).abs().max() < 1e-5
    if biased:
        assert (out - by_hand(q, k, v, ids, None)).abs().max() > 0.05


@pytest.mark.parametrize("copies", [2, 3])
def test_strength_equals_copies(copies: int, small_flux: Flux) -> None:
    """Through the whole network, a reference of strength n is the same one shown n times."""
    target, raw = draw(1, 1, 16, 6, 6), draw(2, 1, 16, 4, 4)
    at = (1.0, 0.0, 0.0)

    def velocity(references: list[Reference]) -> Tensor:
        context = stitch(target.shape, references)
        return small_flux(
            torch.cat([draw(3, 1, 9, 64), context.tokens], dim=1),
            context.img_ids, draw(4, 1, 5, 40), torch.zeros(1, 5, 3), torch.tensor([0.7]),
            draw(5, 1, 24), torch.tensor([2.5]), attn_bias=context.bias, target_tokens=9,
        )  # fmt: skip

    strong = velocity([Reference(raw, strength=copies)])
    repeated = velocity([Reference(raw, position=at)] * copies)
    # Measured: 1.4e-6, where one copy differs by 0.3.
    assert (strong - repeated).abs().max() < 1e-5
    assert (strong - velocity([Reference(raw)])).abs().max() > 1e-2


# What the forward pass refuses


def inputs() -> dict[str, Tensor]:
    return {
        "img": draw(1, 1, 4, 64),
        "img_ids": torch.zeros(1, 4, 3),
        "txt": draw(2, 1, 3, 40),
        "txt_ids": torch.zeros(1, 3, 3),
        "timesteps": torch.tensor([0.5]),
        "y": draw(3, 1, 24),
    }


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("img", draw(1, 1, 4, 16), r"img has shape \(1, 4, 16\); expected \[batch, tokens, 64\]"),
        ("txt", draw(1, 3, 40), "txt has shape"),
        ("img_ids", torch.zeros(1, 5, 3), "4 image and 3 text tokens came with 5 and 3 ids"),
        ("img_ids", torch.zeros(1, 4, 3, dtype=torch.bfloat16), "rounds positions above 256"),
        ("timesteps", torch.tensor([0.5, 0.5]), "timesteps has shape"),
        ("y", draw(3, 1, 25), "pooled text y"),
        ("attn_bias", torch.zeros(1, 5), "attn_bias covers 5 tokens; expected 4"),
    ],
)
def test_unusable_inputs(name: str, value: Tensor, message: str, small_flux: Flux) -> None:
    with pytest.raises(InputError, match=message):
        small_flux(**{**inputs(), name: value})


def test_without_guidance_is_not_guidance_zero(small_flux: Flux) -> None:
    without = small_flux(**inputs())
    assert (without - small_flux(**inputs(), guidance=torch.zeros(1))).abs().max() > 1e-2


def test_linear_layers_come_from_ops() -> None:
    class Marked(nn.Linear):
        """Stands for a quantized or host-managed layer."""

    class Ops:
        Linear = Marked

    model = Flux(make_flux().params, Ops)
    kinds = {type(m) for m in model.modules() if isinstance(m, nn.Linear)}
    assert kinds == {Marked}


def test_half_precision_runs_and_is_close(small_flux: Flux) -> None:
    low = make_flux().to(torch.bfloat16)
    values = {
        key: value.to(torch.bfloat16) if key in ("img", "txt", "y") else value
        for key, value in inputs().items()
    }
    out = low(**values)
    assert out.dtype == torch.bfloat16
    full = small_flux(**inputs())
    # Measured: 0.02 of a standard deviation of 1.
    assert (out.float() - full).abs().max() < 0.15 * full.std()


@pytest.mark.parametrize(
    "sizes",
    [{"hidden_size": 100, "num_heads": 3}, {"axes_dim": (16, 56, 58)}, {"axes_dim": (15, 57, 56)}],
)
def test_sizes_that_cannot_be(sizes: dict) -> None:
    with pytest.raises(CheckpointError):
        FluxParams(**sizes)


def test_shape_error_is_an_input_error() -> None:
    assert issubclass(ShapeError, InputError)
