"""The Flux autoencoder: pictures in -1..1 to 16-channel latents at an eighth of the size, and back.

Architecture and state-dict names are the published ones (black-forest-labs/flux,
src/flux/modules/autoencoder.py). Latents are RAW means: scale and shift belong to `LatentFormat`.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from ..config import AutoEncoderParams
from ..errors import InputError, ShapeError
from .autoencoder_layers import (
    Downsample,
    Level,
    Middle,
    ResnetBlock,
    Upsample,
    group_norm,
    silu,
    tracked,
)
from .feathered import feathered
from .tiled import Tick, decode_exact, encode_exact

logger = logging.getLogger(__name__)

# Tiles taken when the device runs out of memory, in pixels: about 1 GB for the published network.
FALLBACK_TILE = 512
# Cells that neighbouring tiles of a limited decoder share (see AutoEncoderParams.decoder_side).
FEATHER_CELLS = 2


class Encoder(nn.Module):
    """Picture [b, 3, H, W] to moments [b, 2 * z_channels, H/8, W/8]."""

    def __init__(self, p: AutoEncoderParams, **factory: Any) -> None:
        super().__init__()
        widths = [p.ch * m for m in p.ch_mult]
        self.conv_in = nn.Conv2d(p.in_channels, p.ch, 3, padding=1, **factory)
        self.down = nn.ModuleList()
        width = p.ch
        for level, out in enumerate(widths):
            blocks = []
            for _ in range(p.num_res_blocks):
                blocks.append(ResnetBlock(width, out, p, **factory))
                width = out
            last = level == len(widths) - 1
            self.down.append(Level(blocks, down=None if last else Downsample(width, **factory)))
        self.mid = Middle(width, p, **factory)
        self.norm_out = group_norm(width, p, **factory)
        self.conv_out = nn.Conv2d(width, 2 * p.z_channels, 3, padding=1, **factory)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        return self.conv_out(silu(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    """Latent [b, z_channels, h, w] to picture [b, 3, 8h, 8w]."""

    def __init__(self, p: AutoEncoderParams, **factory: Any) -> None:
        super().__init__()
        widths = [p.ch * m for m in p.ch_mult]
        width = widths[-1]
        self.conv_in = nn.Conv2d(p.z_channels, width, 3, padding=1, **factory)
        self.mid = Middle(width, p, **factory)
        levels: list[Level] = []
        for level in reversed(range(len(widths))):
            blocks = []
            for _ in range(p.num_res_blocks + 1):
                blocks.append(ResnetBlock(width, widths[level], p, **factory))
                width = widths[level]
            levels.append(Level(blocks, up=Upsample(width, **factory) if level > 0 else None))
        # Published keys count levels from the finest, so the list is stored back to front.
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out = group_norm(width, p, **factory)
        self.conv_out = nn.Conv2d(width, p.out_ch, 3, padding=1, **factory)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        return self.conv_out(silu(self.norm_out(h)))


class AutoEncoder(nn.Module):
    """Encoder and decoder. Inference takes the posterior's mean, never a sample.

    Args:
        params: sizes; the default is the published autoencoder.
        device, dtype: for the parameters.
    """

    def __init__(
        self,
        params: AutoEncoderParams | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.params = params or AutoEncoderParams()
        self.encoder = Encoder(self.params, device=device, dtype=dtype)
        self.decoder = Decoder(self.params, device=device, dtype=dtype)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return self.encoder.conv_in.weight.dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.encoder.conv_in.weight.device

    def encode(
        self,
        x: Tensor,
        *,
        tile: int | None = None,
        overlap: int | None = None,
        storage: torch.device | str | None = None,
        tick: Tick | None = None,
    ) -> Tensor:
        """Raw latent mean.

        Args:
            x: [b, 3, H, W] in -1..1; H and W multiples of 8.
            tile: None takes the whole picture at once, and in tiles of 512 when the device has
                not enough memory for that. Else the side of tiles in pixels, without gradients:
                alone exact (models/tiled.py), with `overlap` independent (models/feathered.py).
            overlap: pixels that neighbouring independent tiles share.
            storage: where exact tiles keep whole maps; None is the device of the weights.
            tick: called before every tile; may raise to stop.

        Returns:
            [b, z_channels, H/8, W/8] in the weights' dtype, unscaled.

        Raises:
            ShapeError: not three channels, or a side that 8 does not divide.
            InputError: `tile` smaller than a cell, or `overlap` not smaller than `tile`.
        """
        p = self.params
        if x.ndim != 4 or x.shape[1] != p.in_channels:
            raise ShapeError(
                f"picture tensor has shape {tuple(x.shape)}; expected "
                f"[batch, {p.in_channels}, height, width] in -1..1"
            )
        if x.shape[2] % p.downscale or x.shape[3] % p.downscale or 0 in x.shape:
            raise ShapeError(
                f"picture is {x.shape[3]}x{x.shape[2]} px; both sides must be multiples of "
                f"{p.downscale}. Crop or resize it first (kontext_core.resize does)"
            )
        cells, shared = self._cells(tile, overlap)
        moments = self._run(self.encoder, x, cells, shared, storage, tick)
        return moments.chunk(2, dim=1)[0]

    def decode(
        self,
        raw: Tensor,
        *,
        tile: int | None = None,
        overlap: int | None = None,
        storage: torch.device | str | None = None,
        tick: Tick | None = None,
    ) -> Tensor:
        """Picture [b, 3, 8h, 8w], about -1..1 and not clamped, from a raw latent.

        Arguments as `encode`; `tile` and `overlap` count pixels of the picture. A decoder made for
        pictures up to `params.decoder_side` takes larger ones in independent tiles of that size.

        Raises:
            ShapeError: not [b, z_channels, h, w].
            InputError: as `encode`.
        """
        p = self.params
        if raw.ndim != 4 or raw.shape[1] != p.z_channels or 0 in raw.shape:
            raise ShapeError(
                f"latent has shape {tuple(raw.shape)}; expected "
                f"[batch, {p.z_channels}, height, width]"
            )
        cells, shared = self._cells(tile, overlap)
        if p.decoder_side and max(raw.shape[2:]) * p.downscale > p.decoder_side:
            most = p.decoder_side // p.downscale
            cells = min(cells or most, most)
            shared = min(FEATHER_CELLS if shared is None else shared, cells - 1)
        return self._run(self.decoder, raw, cells, shared, storage, tick)

    def working_memory(self, height: int, width: int, *, decode: bool) -> int:
        """Bytes that one picture or tile of this many pixels takes beside the weights.

        Measured with the published sizes in float32 at 256x256: 8.1 times `ch` numbers a pixel to
        decode and 6.0 to encode, at the finest level, where everything else is smaller.
        """
        per_pixel = (8 if decode else 6) * self.params.ch
        return per_pixel * height * width * self.dtype.itemsize

    def _cells(self, tile: int | None, overlap: int | None) -> tuple[int | None, int | None]:
        """Pixels to whole cells."""
        unit = self.params.downscale
        if tile is None:
            if overlap is not None:
                raise InputError(f"overlap is {overlap}, but without a tile; give both, or neither")
            return None, None
        if tile < unit:
            raise InputError(f"tile is {tile} pixels; expected at least {unit}, one latent cell")
        if overlap is not None and not 0 <= overlap // unit < tile // unit:
            raise InputError(
                f"overlap is {overlap} pixels of tiles of {tile}; expected 0 to {tile - unit}"
            )
        return tile // unit, None if overlap is None else overlap // unit

    def _run(
        self,
        network: Encoder | Decoder,
        x: Tensor,
        cells: int | None,
        shared: int | None,
        storage: torch.device | str | None,
        tick: Tick | None,
    ) -> Tensor:
        """Whole, exactly tiled, or in independent tiles; on less memory when there is too little."""
        unit = self.params.downscale
        inside, outside = (unit, 1) if isinstance(network, Encoder) else (1, unit)
        if cells is not None and cells * inside >= max(x.shape[2:]):
            cells = shared = None  # One tile is the whole picture.
        if tracked(x, network.conv_in.weight):
            whole = x.to(self.device, self.dtype)
            if shared is None:
                return network(whole)
            return feathered(network, whole, cells or 1, shared, inside, outside, tick)
        with torch.no_grad():
            x, network = self._ready(x, network)
            if shared is not None:
                out = feathered(network, x, cells or 1, shared, inside, outside, tick)
                return out.to(self.dtype)

            def exact(cells: int, storage: torch.device | str) -> Tensor:
                walk = encode_exact if isinstance(network, Encoder) else decode_exact
                options = {"inside": inside, "storage": storage, "tick": tick}
                return torch.cat([walk(network, one[None], cells, **options) for one in x])

            if cells is None:
                first = partial(network, x)
            else:
                first = partial(exact, cells, storage or self.device)
            second = partial(exact, cells or max(1, FALLBACK_TILE // unit), "cpu")
            return or_else(first, second).to(self.device, self.dtype)

    def _ready(self, x: Tensor, network: Encoder | Decoder) -> tuple[Tensor, Encoder | Decoder]:
        """Input and network in the dtype and layout that are fastest."""
        dtype = self.dtype
        if self.device.type == "cpu":
            if not fast_on_cpu(dtype):
                # 16-bit convolutions take 60 times as long on such a processor (measured, AVX2).
                return x.to(self.device, torch.float32), copy.deepcopy(network).float()
            if dtype.itemsize == 2:
                # With 16-bit units channels last is the layout that reaches the matrix rate.
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
                x = x.contiguous(memory_format=torch.channels_last)
        return x.to(self.device, dtype), network


@cache
def fast_on_cpu(dtype: torch.dtype) -> bool:
    """Whether the processor has convolutions of this dtype, or they are emulated."""
    if dtype.itemsize > 2:
        return True
    name = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(dtype)
    check = getattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported", None)
    return check is not None and bool(check())


def or_else(first: Callable[[], Tensor], second: Callable[[], Tensor]) -> Tensor:
    """`first`, or `second` when the device ran out of memory."""
    try:
        return first()
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
    # Outside of the handler, which still holds what the failed call had made.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    tell_once()
    return second()


@cache
def tell_once() -> None:
    """A whole day's pictures of one size would all say it."""
    logger.warning(
        "the autoencoder ran out of memory and goes on in tiles, with whole maps in main memory; "
        "the picture is the same. It will do so without a word from now on"
    )


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that a device's memory is full: not all backends have the type."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or "out of memory" in str(error).lower()
