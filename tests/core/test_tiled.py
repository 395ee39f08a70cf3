"""Tiles: exact ones beside the whole picture, feathered ones beside their definition."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from small_models import draw, make_autoencoder
from torch import Tensor, nn

from kontext_core import AutoEncoder, InputError
from kontext_core.models import autoencoder as autoencoder_module
from kontext_core.models import autoencoder_layers
from kontext_core.models.autoencoder_layers import Upsample, attend
from kontext_core.models.feathered import feathered, starts
from kontext_core.models.tiled import Moments


def distance(found: Tensor, wanted: Tensor) -> float:
    """Largest difference, in units of the largest value."""
    return float((found.double() - wanted.double()).abs().max() / wanted.abs().max())


@pytest.fixture(scope="module")
def networks() -> list[AutoEncoder]:
    return [make_autoencoder(1), make_autoencoder(2, num_res_blocks=2, ch=12, ch_mult=(1, 2, 3))]


# Sides that tiles don't divide, a tile of one cell, tiles that only one side is larger than.
@pytest.mark.parametrize(
    ("height", "width", "tile"), [(56, 72, 24), (40, 64, 16), (24, 16, 8), (32, 88, 40)]
)
@pytest.mark.parametrize("which", [0, 1])
def test_exact_tiles_give_the_whole_picture(
    networks: list[AutoEncoder], which: int, height: int, width: int, tile: int
) -> None:
    network = networks[which]
    unit = network.params.downscale
    # Far from zero mean, unlike at both ends: a norm of a tile alone would show.
    slope = torch.linspace(-2, 3, width)
    raw = draw(3, 2, 16, height // unit, width // unit) + slope[:: width // (width // unit)]
    picture = draw(4, 2, 3, height, width) + slope
    for run, x in ((network.decode, raw), (network.encode, picture)):
        whole = run(x)
        # Measured 7e-7 to 1.8e-6: sums in another order, raised by the norms.
        assert distance(run(x, tile=tile), whole) < 5e-6
        # The test itself can tell: tiles apart are something else, 0.4 to 1.2 away.
        assert distance(run(x, tile=tile, overlap=0), whole) > 1e-2


def test_exact_tiles_hold_no_large_map_on_the_device(
    networks: list[AutoEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No convolution sees more than a tile and its border."""
    sizes: list[int] = []
    plain = torch.nn.functional.conv2d

    def watched(x: Tensor, *args: object, **options: object) -> Tensor:
        sizes.append(max(x.shape[-2:]))
        return plain(x, *args, **options)  # type: ignore[arg-type]

    def of_layer(self: nn.Conv2d, x: Tensor) -> Tensor:
        return watched(x, self.weight, self.bias, self.stride, self.padding)

    monkeypatch.setattr(torch.nn.functional, "conv2d", watched)
    monkeypatch.setattr(nn.Conv2d, "forward", of_layer)
    networks[0].decode(draw(1, 1, 16, 12, 12), tile=32)
    assert max(sizes) == 34  # 32 and a pixel on both sides
    sizes.clear()
    networks[0].encode(draw(1, 1, 3, 96, 96), tile=32)
    assert max(sizes) == 34
    sizes.clear()
    networks[0].decode(draw(1, 1, 16, 12, 12))
    assert max(sizes) == 96


def test_a_flat_picture_is_exact_too(networks: list[AutoEncoder]) -> None:
    """Its variance is nothing but the border's: sums of squares would drown it."""
    flat = torch.full((1, 3, 64, 64), 0.7)
    whole = networks[0].encode(flat)
    # Measured 7e-7.
    assert distance(networks[0].encode(flat, tile=16), whole) < 2e-5


def test_moments_are_those_of_the_whole() -> None:
    x = draw(1, 1, 12, 20, 14) * 3 + 40
    moments = Moments(4)
    for top, bottom, left, right in ((0, 8, 0, 14), (8, 20, 0, 5), (8, 20, 5, 14)):
        moments.add(x[..., top:bottom, left:right])
    groups = x.double().view(4, -1)
    assert torch.allclose(moments.mean, groups.mean(1), rtol=1e-6, atol=0)
    variance = moments.squares / moments.count
    # Measured 2e-7 with a mean of 13 deviations; E[x^2] - E[x]^2 in float32 would be 1e-4 off.
    assert torch.allclose(variance, groups.var(1, correction=0), rtol=2e-6, atol=0)


def test_doubling_by_four_kernels_is_the_plain_one() -> None:
    step = Upsample(6)
    x = draw(1, 2, 6, 5, 7)
    with torch.no_grad():
        found, wanted = step(x), step.plain(x)
    assert found.shape == (2, 6, 10, 14)
    assert distance(found, wanted) < 2e-6  # measured 3e-7
    # Where gradients are wanted it is the plain one, to the bit.
    assert torch.equal(step(x), wanted) and step(x).requires_grad


def test_attention_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = draw(1, 3, 2, 1, 30, 8).unbind(0)
    whole = attend(q, k, v)
    monkeypatch.setattr(autoencoder_layers, "SCORES", 2 * 30 * 7)
    assert distance(attend(q, k, v), whole) < 2e-6  # measured 2e-7


@pytest.mark.parametrize(
    ("length", "side", "shared"), [(5, 8, 2), (8, 8, 2), (9, 8, 2), (40, 8, 3)]
)
def test_tiles_cover_everything(length: int, side: int, shared: int) -> None:
    found = starts(length, side, shared)
    assert found[0] == 0 and found[-1] == max(length - side, 0)
    for before, after in zip(found, found[1:], strict=False):
        assert 0 < after - before <= side - shared


def test_feathered_tiles_of_a_local_function_are_the_whole() -> None:
    """What looks at single cells is blended with itself: weights add up to one everywhere."""
    x = draw(1, 2, 3, 23, 17)

    def twice(part: Tensor) -> Tensor:
        return (part * 3 + 1).repeat_interleave(2, 2).repeat_interleave(2, 3)

    found = feathered(twice, x, 8, 3, 1, 2)
    assert distance(found, twice(x)) < 5e-7  # measured 9e-8
    halved = feathered(lambda part: part[..., ::2, ::2], x[..., :22, :16], 4, 1, 2, 1)
    assert distance(halved, x[..., :22:2, :16:2]) < 1e-6


def test_a_seam_is_a_ramp() -> None:
    """Two tiles that disagree by one: nothing jumps by more than a step of the ramp."""
    calls = []

    def number(part: Tensor) -> Tensor:
        values = torch.arange(len(calls), len(calls) + len(part), dtype=torch.float32)
        calls.extend(part)
        return values[:, None, None, None].expand(-1, 1, part.shape[2] * 8, part.shape[3] * 8)

    row = feathered(number, torch.zeros(1, 16, 6, 10), 6, 2, 1, 8)[0, 0, 0]
    assert float(row[0]) == 0 and float(row[-1]) == 1
    assert float(row.diff().max()) < 1 / 15 and float(row.diff().min()) > -1e-6


def test_a_limited_decoder_tiles_by_itself() -> None:
    limited = make_autoencoder(1, decoder_side=32)
    free = make_autoencoder(1)
    small, large = draw(1, 1, 16, 4, 3), draw(2, 1, 16, 9, 6)
    assert torch.equal(limited.decode(small), free.decode(small))
    by_hand = free.decode(large, tile=32, overlap=16)
    assert torch.equal(limited.decode(large), by_hand)
    assert torch.equal(limited.decode(large, tile=512), by_hand)
    assert torch.equal(
        limited.decode(large, tile=24, overlap=8), free.decode(large, tile=24, overlap=8)
    )
    picture = draw(3, 1, 3, 64, 64)
    assert torch.equal(limited.encode(picture), free.encode(picture))


def test_out_of_memory_goes_on_in_tiles(
    small_autoencoder: AutoEncoder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(autoencoder_module, "FALLBACK_TILE", 16)
    autoencoder_module.tell_once.cache_clear()
    raw, picture = draw(1, 2, 16, 5, 6), draw(2, 2, 3, 40, 48)
    wanted, latent = small_autoencoder.decode(raw), small_autoencoder.encode(picture)

    def fail(error: Exception) -> None:
        def forward(self: nn.Module, x: Tensor) -> Tensor:
            raise error

        for network in (autoencoder_module.Encoder, autoencoder_module.Decoder):
            monkeypatch.setattr(network, "forward", forward)

    for error in (torch.cuda.OutOfMemoryError("full"), RuntimeError("MPS backend out of memory")):
        fail(error)
        with caplog.at_level(logging.WARNING):
            assert distance(small_autoencoder.decode(raw), wanted) < 5e-6
            assert distance(small_autoencoder.encode(picture), latent) < 5e-6
    # Once in a process, not for each of a day's pictures.
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "in tiles" in caplog.text
    fail(RuntimeError("something else"))
    with pytest.raises(RuntimeError, match="something else"):
        small_autoencoder.decode(raw)


def test_a_tick_stops_between_tiles(small_autoencoder: AutoEncoder) -> None:
    class Stop(Exception):
        pass

    count = [0]

    def tick() -> None:
        count[0] += 1
        if count[0] == 5:
            raise Stop

    forms: tuple[dict[str, Any], ...] = ({"tile": 16}, {"tile": 16, "overlap": 8})
    for options in forms:
        count[0] = 0
        with pytest.raises(Stop):
            small_autoencoder.decode(draw(1, 300, 16, 8, 8), tick=tick, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 7}, "tile is 7 pixels; expected at least 8"),
        ({"tile": 16, "overlap": 16}, "overlap is 16 pixels of tiles of 16; expected 0 to 8"),
        ({"tile": 16, "overlap": -8}, "expected 0 to 8"),
        ({"overlap": 8}, "without a tile"),
    ],
)
def test_unusable_tiles(
    small_autoencoder: AutoEncoder, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        small_autoencoder.decode(torch.zeros(1, 16, 4, 4), **options)
    with pytest.raises(InputError, match=message):
        small_autoencoder.encode(torch.zeros(1, 3, 32, 32), **options)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bits_on_a_processor_without_them(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights stay as they are, and the arithmetic is float32."""
    network = make_autoencoder(1).to(dtype)
    monkeypatch.setattr(autoencoder_module, "fast_on_cpu", lambda dtype: False)
    seen = []
    network.decoder.conv_out.register_forward_hook(lambda m, args, out: seen.append(out.dtype))
    raw = draw(1, 1, 16, 4, 4)
    found = network.decode(raw)
    assert seen == [torch.float32]
    assert found.dtype == network.dtype == dtype
    assert torch.equal(found, make_autoencoder(1).to(dtype).float().decode(raw).to(dtype))


def test_16_bits_stay_near_in_every_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """On processors with 16-bit units: channels last and 16-bit maps, whole and in tiles."""
    plain = make_autoencoder(1)
    network = make_autoencoder(1).bfloat16()
    monkeypatch.setattr(autoencoder_module, "fast_on_cpu", lambda dtype: True)
    raw, picture = draw(1, 1, 16, 4, 6), draw(2, 1, 3, 32, 48)
    for run, twin, x in (
        (network.decode, plain.decode, raw),
        (network.encode, plain.encode, picture),
    ):
        for options in ({}, {"tile": 16}):
            found = run(x, **options)
            assert found.dtype == torch.bfloat16
            # Measured 0.008 to 0.028, the rounding of weights and maps to 8 bits of mantissa.
            assert distance(found, twin(x)) < 0.05
    weight = network.decoder.conv_out.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
