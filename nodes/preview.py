"""Pictures of a run in progress: model-space estimates to small Pillow images.

For FLUX.1's latents the TAEF1 decoder makes them, where the host has the file; else, and for models
with latents of their own, the linear figures of the latent format.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..kontext_core.errors import KontextError
from .host import get_host

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from ..kontext_core.latents import LatentFormat
    from ..kontext_core.models.taef1 import TinyDecoder

logger = logging.getLogger(__name__)

# ComfyUI's folder and name for it. Pickles (.pth) are never opened.
FOLDER, NAME = "vae_approx", "taef1"
SUFFIXES = (".safetensors", ".sft")
THUMBNAIL_SIDE = 112

# Pixels of a preview's longer side, at most.
PREVIEW_SIDE = 512
# The last decoder, with its file, that file's time, and its device; None if it was unusable.
_loaded: tuple[tuple[Any, ...], TinyDecoder | None] | None = None


def picture_of(
    x0: Tensor, latent_format: LatentFormat, decoder: TinyDecoder | None = None
) -> Image | None:
    """The first picture of a batch [b, c, h, w] in the size of what it will become, up to 512 pixels
    at its longer side, as nodes show small pictures small and write their size below; None where no
    preview was fitted to the model."""
    from PIL import Image

    from ..kontext_core.images import to_pil

    rgb = None if decoder is None else _decoded(x0[:1], decoder)
    if rgb is None:
        rgb = latent_format.preview(x0[:1])
    if rgb is None:
        return None
    small = to_pil(rgb)
    side = min(PREVIEW_SIDE, latent_format.downscale * max(x0.shape[-2:]))
    scale = side / max(small.size)
    size = (max(1, round(small.width * scale)), max(1, round(small.height * scale)))
    return small.resize(size, Image.Resampling.BICUBIC)


def thumbnail(image: Tensor) -> str:
    """The first picture of a batch [b, h, w, 3] in 0..1 as a small JPEG in a data URL: about 3 KB,
    so that it can travel with what a node reports and live as long as that."""
    import base64
    import io

    from ..kontext_core.images import to_pil

    small = to_pil(image[:1])
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    data = io.BytesIO()
    small.convert("RGB").save(data, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def tiny_decoder(latent_format: LatentFormat, device: Any) -> TinyDecoder | None:
    """TAEF1's decoder, if the host has its file and the latents are FLUX.1's. A file that is
    unusable is told of once and then passed over: no run fails for its preview."""
    from ..kontext_core.latents import FLUX_LATENT
    from ..kontext_core.weights.load_taef1 import load_taef1_decoder

    global _loaded
    if latent_format != FLUX_LATENT:
        return None
    path = _file()
    if path is None:
        return None
    key = (path, path.stat().st_mtime_ns, str(device))
    if _loaded is None or _loaded[0] != key:
        decoder = None
        try:
            decoder = load_taef1_decoder(path, device=device)
        except KontextError as error:
            logger.warning("no previews by TAEF1: %s", error)
        _loaded = (key, decoder)
    return _loaded[1]


def _file() -> Path | None:
    """`taef1_decoder.safetensors` or diffusers' `taef1.safetensors`, or the same in a folder."""
    for root in get_host().model_folders(FOLDER):
        if not root.is_dir():
            continue
        names = sorted(path for path in root.iterdir() if path.name.lower().startswith(NAME))
        found = [p for p in names if p.suffix.lower() in SUFFIXES and "encoder" not in p.stem]
        for folder in (path for path in names if path.is_dir()):
            found += [p for p in sorted(folder.iterdir()) if p.suffix.lower() in SUFFIXES]
        # One half alone before the whole of diffusers, which is larger to look through.
        found.sort(key=lambda path: "decoder" not in path.stem)
        if found:
            return found[0]
    return None


def _decoded(x0: Tensor, decoder: TinyDecoder) -> Tensor | None:
    """[1, 8h, 8w, 3] in 0..1, or None when there is no memory for it."""
    import torch

    from ..kontext_core.models.autoencoder import out_of_memory

    weight = next(decoder.parameters())
    try:
        with torch.no_grad():
            rgb = decoder(x0.to(weight.device, weight.dtype))
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        logger.warning("no memory for a preview by TAEF1")
        return None
    return rgb.float().clamp(0, 1).movedim(1, -1)


def reporter(
    total: int, latent_format: LatentFormat
) -> tuple[Callable[[int, int, Tensor], None], Callable[[], bool]]:
    """(callback, should_stop) for the core's sampler: progress and preview to the host, and whether
    the host wants the run stopped. The core then raises `Cancelled`; `check_interrupt` gives it the
    host's own form."""
    host = get_host()
    bar = host.progress(total)
    # Some hosts know beforehand that nobody will look.
    wanted: Callable[[], bool] = getattr(bar, "wanted", lambda: True)
    decoder = tiny_decoder(latent_format, host.device())

    def callback(step: int, steps: int, x0: Tensor) -> None:
        bar.update(step, picture_of(x0, latent_format, decoder) if wanted() else None)

    return callback, host.is_interrupted
