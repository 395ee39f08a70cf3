"""What an autoencoder loses on a folder of pictures: the table of FLUX.1 Kontext's report (PDist, SSIM, PSNR).

PDist is a learned perceptual distance; it is LPIPS here, where its weights are given. 1 - MS-SSIM, which is not
learned, stands beside it always.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kontext_core.checks import check_whole
from kontext_core.errors import InputError
from kontext_core.images import load_image, resize, to_model, to_picture
from kontext_core.metrics import ms_ssim, psnr, ssim
from kontext_core.models.autoencoder import AutoEncoder
from kontext_core.tables.names import PICTURE_SUFFIXES, natural

from ..bench.tables import Table
from .lpips import Lpips

# A cell of a latent, and with it the unit of sizes.
UNIT = 16


def pictures_of(folder: str | Path) -> list[Path]:
    """The pictures of a folder and of those in it, in natural order.

    Raises:
        InputError: there are none.
    """
    place = Path(folder)
    found = [
        path
        for path in place.rglob("*")
        if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file()
    ]
    if not found:
        raise InputError(f"there are no pictures in {place}; put PNG, JPEG or WebP files there")
    return sorted(found, key=lambda path: natural(str(path.relative_to(place))))


@torch.no_grad()
def reconstruct(
    autoencoder: AutoEncoder,
    files: list[Path],
    *,
    size: int | None = 256,
    lpips: Lpips | None = None,
    tick: Callable[[int], object] = lambda count: None,
) -> dict[str, Any]:
    """Every picture there and back.

    Args:
        size: the middle square, scaled to so many pixels a side, a multiple of 16, as ImageNet is measured; None
            keeps pictures whole, but for what is beyond a multiple of 16.

    Returns:
        By file: psnr (dB), ssim, distance (1 - MS-SSIM) and, with lpips, pdist; "all": the mean of each, and
        its standard error.

    Raises:
        InputError: a size that can't be, or a picture that can't be read.
    """
    if size is not None and check_whole(size, "size", UNIT, 4096) % UNIT:
        raise InputError(f"size is {size}; expected a multiple of {UNIT}")
    rows: dict[str, dict[str, float]] = {}
    for path in files:
        image = _cut(load_image(path)[:1], size)
        put = to_model(image).to(autoencoder.device, autoencoder.dtype)
        back = to_picture(autoencoder.decode(autoencoder.encode(put))).cpu().movedim(-1, 1)
        right = image.movedim(-1, 1)
        row = {
            "psnr": float(psnr(back, right)),
            "ssim": float(ssim(back, right)),
            "distance": float(1 - ms_ssim(back, right)),
        }
        if lpips is not None:
            row["pdist"] = float(lpips.distance(back, right))
        rows[str(path)] = row
        tick(1)
    values = {
        name: torch.tensor([row[name] for row in rows.values()])
        for name in next(iter(rows.values()))
    }
    every = {name: round(float(value.mean()), 4) for name, value in values.items()}
    if len(rows) > 1:
        every |= {f"{n}_error": round(float(v.std() / len(v) ** 0.5), 4) for n, v in values.items()}
    return {"all": every, "pictures": len(rows), "files": rows}


def _cut(image: Tensor, size: int | None) -> Tensor:
    height, width = image.shape[1:3]
    if size is None:
        return image[:, : height // UNIT * UNIT, : width // UNIT * UNIT]
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    return resize(image, size, size, (left, top, left + side, top + side))


def table(found: dict[str, dict[str, Any]]) -> Table:
    """A row an autoencoder, by name."""

    def cell(row: dict[str, Any], name: str, digits: int) -> str:
        if name not in row:
            return "-"
        error = f" ± {row[f'{name}_error']:.{digits}f}" if f"{name}_error" in row else ""
        return f"{row[name]:.{digits}f}{error}"

    return Table(
        "Autoencoders: pictures there and back",
        ["autoencoder", "pictures", "PDist", "SSIM", "PSNR", "1 - MS-SSIM"],
        [
            [
                name, str(one["pictures"]), cell(one["all"], "pdist", 4), cell(one["all"], "ssim", 4),
                cell(one["all"], "psnr", 2), cell(one["all"], "distance", 4),
            ]
            for name, one in found.items()
        ],
        "Means and their standard errors. PDist: LPIPS; PSNR in dB.",
    )  # fmt: skip
