"""The tiled calls that ComfyUI's nodes make on our VAE: a tile's memory, the whole's numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch


def seen_sides(vae: Any) -> list[int]:
    """Sides of what the last convolutions of both halves take in."""
    sides: list[int] = []
    network = vae.first_stage_model
    for layer in (network.encoder.down[0].block[0].conv1, network.decoder.conv_out):
        layer.register_forward_hook(lambda m, args, out: sides.append(max(args[0].shape[2:])))
    return sides


def test_tiles_of_the_asked_size_and_the_whole_result(vae: Any, image: Any) -> None:
    one = image(1, height=96, width=80)
    sides = seen_sides(vae)
    raw = vae.encode(one)
    picture = vae.decode(raw)
    assert sides == [96, 96]
    sides.clear()
    # As the nodes call them: pixels to encode, latent cells to decode.
    tiled = vae.encode_tiled(one, tile_x=32, tile_y=64, overlap=8, tile_t=64, overlap_t=8)
    assert max(sides) == 34
    sides.clear()
    back = vae.decode_tiled(raw, tile_x=4, tile_y=8, overlap=1, tile_t=None, overlap_t=None)
    assert max(sides) == 34
    # Measured 2.9e-6 of the largest latent, 2.1e-6 on pictures in 0..1.
    assert (tiled - raw).abs().max() < 1e-5 * raw.abs().max()
    assert (back - picture).abs().max() < 1e-5
    assert tiled.dtype == back.dtype == torch.float32


def test_without_a_size_tiles_are_512(vae: Any, image: Any) -> None:
    sides = seen_sides(vae)
    raw = vae.encode_tiled(image(1, height=64, width=520))
    assert max(sides) == 513
    sides.clear()
    vae.decode_tiled(raw)
    assert max(sides) == 513


@pytest.mark.parametrize("half", ["encode_tiled", "decode_tiled"])
def test_an_interrupt_comes_between_tiles(
    vae: Any, image: Any, host: Any, interrupted: type[Exception], half: str
) -> None:
    one = image(1, height=64, width=64)
    given = one if half == "encode_tiled" else vae.encode(one)
    side = 16 if half == "encode_tiled" else 2
    asked = interrupt_at(3, host, interrupted)
    with pytest.raises(interrupted):
        getattr(vae, half)(given, tile_x=side, tile_y=side)
    # Once for the picture, then for every tile.
    assert asked == [1, 2, 3]


@pytest.mark.parametrize("half", ["encode", "decode"])
def test_an_interrupt_comes_between_pictures(
    vae: Any, image: Any, host: Any, interrupted: type[Exception], half: str
) -> None:
    batch = image(1, height=32, width=32, batch=3)
    given = batch if half == "encode" else vae.encode(batch)
    sides = seen_sides(vae)
    interrupt_at(2, host, interrupted)
    with pytest.raises(interrupted):
        getattr(vae, half)(given)
    assert len(sides) == 1


def interrupt_at(time: int, host: Any, interrupted: type[Exception]) -> list[int]:
    """Interrupts at the n-th time the host is asked; gives the list of those times."""
    asked: list[int] = []

    def check() -> None:
        asked.append(len(asked) + 1)
        if len(asked) == time:
            raise interrupted

    host.check_interrupt = check
    return asked
