"""The invisible watermark of the reference repository: 48 bits by DWT and DCT (black-forest-labs/flux,
src/flux/util.py), by the package invisible-watermark (MIT), imported when it is needed.

It says no more than that a picture comes from such a pipeline, and resizing may take it away.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError

# The reference repository's own bits, so that what looks for its pictures finds ours.
BITS = 0b001010101111111010000111100111001111010100101110
LENGTH = 48
METHOD = "dwtDct"
# The package marks nothing smaller (pixels in all).
SMALLEST = 256 * 256


def _bits() -> list[int]:
    return [int(bit) for bit in f"{BITS:0{LENGTH}b}"]


def _package() -> tuple[type, type]:
    try:
        from imwatermark import WatermarkDecoder, WatermarkEncoder
    except ImportError as error:
        raise InputError(
            "the watermark needs a package: pip install invisible-watermark"
        ) from error
    return WatermarkEncoder, WatermarkDecoder


def watermarked(images: Tensor) -> Tensor:
    """Pictures [b, h, w, 3] in 0..1 with the mark, in 8-bit steps.

    Raises:
        InputError: the package is missing, or a picture has fewer than 256 x 256 pixels.
    """
    encoder_type, _ = _package()
    height, width = images.shape[1:3]
    if height * width < SMALLEST:
        raise InputError(
            f"a picture of {width} x {height} is too small for the watermark; it needs {SMALLEST} pixels"
        )
    encoder = encoder_type()
    encoder.set_watermark("bits", _bits())
    made = []
    for image in images:
        pixels = (image.float().cpu().clamp(0, 1) * 255).round().byte().numpy()
        # The package works on blue, green, red.
        marked = encoder.encode(np.ascontiguousarray(pixels[..., ::-1]), METHOD)
        made.append(torch.from_numpy(np.ascontiguousarray(marked[..., ::-1])).float() / 255)
    return torch.stack(made)


def share_of_mark(image: Tensor) -> float:
    """Share of the mark's 48 bits that a picture [1, h, w, 3] shows: about 0.5 without it, near 1 with it.

    Raises:
        InputError: the package is missing.
    """
    _, decoder_type = _package()
    pixels = (image[0].float().cpu().clamp(0, 1) * 255).round().byte().numpy()
    found = decoder_type("bits", LENGTH).decode(np.ascontiguousarray(pixels[..., ::-1]), METHOD)
    return float(np.mean([bool(a) == bool(b) for a, b in zip(found, _bits(), strict=True)]))
