"""Pictures of a run in progress: model-space estimates to small Pillow images."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .host import PREVIEW_SIDE, get_host

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from ..kontext_core.latents import LatentFormat

__all__ = ["picture_of", "reporter"]


def picture_of(x0: Tensor, latent_format: LatentFormat) -> Image | None:
    """The first picture of a batch [b, c, h, w], its longer side 512 pixels, as nodes show small
    pictures small; None where no preview was fitted to the model."""
    from PIL import Image

    from ..kontext_core.images import to_pil

    rgb = latent_format.preview(x0[:1])
    if rgb is None:
        return None
    small = to_pil(rgb)
    scale = PREVIEW_SIDE / max(small.size)
    size = (max(1, round(small.width * scale)), max(1, round(small.height * scale)))
    return small.resize(size, Image.Resampling.BICUBIC)


def reporter(
    total: int, latent_format: LatentFormat
) -> tuple[Callable[[int, int, Tensor], None], Callable[[], bool]]:
    """(callback, should_stop) for the core's sampler: progress and preview to the host, and the
    host's interrupt, which it raises itself, from the host."""
    host = get_host()
    bar = host.progress(total)

    def callback(step: int, steps: int, x0: Tensor) -> None:
        bar.update(step, picture_of(x0, latent_format))

    def should_stop() -> bool:
        host.check_interrupt()
        return False

    return callback, should_stop
