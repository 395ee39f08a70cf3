"""An encoder whose weights are written down instead of learned: it computes the linear latents.

The transformer trains on `PatchPCA` latents, so an encoder of the published shape had best give
exactly those. Every layer of it can be made linear:

- residual blocks and attention add nothing (their last convolution is zero);
- a step down moves 2x2 cells into channels with two of the three taps per side, the third being
  the one that sees padding; where channels run short it keeps the directions that the components
  need most, and the last step down applies the components themselves;
- the last norm sees each value beside its negative, so that its mean is zero, and beside large
  constants, so that its deviation hardly depends on the picture;
- silu(u) - silu(-u) = u, so the last convolution recovers what the activation bent.

Shapes: a step's matrix is [out, 4 * in], its columns ordered (channel, row, column).
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from kontext_core.config import AutoEncoderParams
from kontext_core.errors import InputError
from kontext_core.latents import FLUX_LATENT, LatentFormat
from kontext_core.models.autoencoder import Encoder
from kontext_core.models.autoencoder_layers import ResnetBlock

from .linear_parts import bias_of, blocks_of, clear, levels_of
from .patch_pca import PatchPCA

# Of the constants in the last norm; latents are of order 1, and the deviation of a group moves
# by about 1 / CONSTANT ** 2 of itself from picture to picture.
CONSTANT = 256.0
# The posterior's log variance: samplers of it get the mean, as everyone else does.
LOG_VARIANCE = -20.0


def half(x: Tensor) -> Tensor:
    """What is left of x after a file in half precision."""
    return x.to(torch.float16).to(x.dtype)


def quarters(matrix: Tensor) -> Tensor:
    """Maps of a square of cells, [k, c * 2n * 2n], as maps of its 4 quarters, [k * 4, c * n * n].

    Columns are ordered (channel, row, column) on both sides, rows (k, row, column).
    """
    side = 2 * round((matrix.shape[1] / 3) ** 0.5 / 2)
    return rearrange(
        matrix, "k (c i p j q) -> (k i j) (c p q)", c=3, i=2, j=2, p=side // 2, q=side // 2
    )


def joined(basis: Tensor) -> Tensor:
    """What a square of 4 cells knows, [r * 4, c * 2n * 2n], if each knows `basis` [r, c * n * n].

    Rows are ordered (r, row, column), columns (channel, row, column).
    """
    n = round((basis.shape[1] / 3) ** 0.5)
    pixels = basis.view(-1, 3, n, n)
    out = basis.new_zeros(len(basis), 2, 2, 3, 2, n, 2, n)
    for i in range(2):
        for j in range(2):
            out[:, i, j, :, i, :, j, :] = pixels
    return out.reshape(4 * len(basis), -1)


def step_matrices(goal: Tensor, widths: tuple[int, int]) -> list[Tensor]:
    """Three matrices of steps down whose product is nearly `goal` [z, 192], a map of 8x8 patches.

    Args:
        goal: columns ordered (channel, row, column).
        widths: most values per cell after the first and the second step.

    Returns:
        [r1, 4 * 3], [r2, 4 * r1] and [z, 4 * r2] with columns ordered (value, row, column), and
        with the rounding of the first two made up for in the last.
    """
    maps = [goal.double()]  # of 8x8, 4x4 and 2x2 pixels
    for _ in range(2):
        maps.append(quarters(maps[-1]))
    # Rows: what a cell knows of its n * n pixels; at first a pixel its colour.
    basis = torch.eye(3, dtype=torch.float64)
    steps = []
    for wanted, width in zip(reversed(maps), (*widths, len(goal)), strict=True):
        known = joined(basis)
        if width >= len(known):
            wanted = known
        elif width < len(wanted):
            wanted = torch.linalg.svd(wanted, full_matrices=False).Vh[:width]
        step = torch.linalg.lstsq(known.T, wanted.T).solution.T
        steps.append(half(step) if len(steps) < 2 else step)
        basis = steps[-1] @ known
    return [step.float() for step in steps]


@torch.no_grad()
def write_linear_encoder(
    encoder: Encoder,
    pca: PatchPCA,
    params: AutoEncoderParams,
    latent_format: LatentFormat = FLUX_LATENT,
) -> None:
    """Give `encoder` weights that compute `latent_format.process_out(pca.encode(pictures))`.

    Exact up to rounding where ch >= 12 and ch * ch_mult[1] >= 48; nearly so with half of that.

    Raises:
        InputError: not four levels, a last level as wide as the one before, or one too narrow for
            each of its norm groups to hold the latents in pairs and two constants.
    """
    widths = [params.ch * m for m in params.ch_mult]
    latents, groups = params.z_channels, params.norm_groups
    size = widths[-1] // groups
    pairs = -(-latents // groups)
    if len(widths) != 4 or widths[2] == widths[3] or widths[2] < latents or size < 2 * pairs + 2:
        raise InputError(
            f"an encoder of widths {widths} with {groups} norm groups can't carry {latents} linear "
            f"latents: use four levels, the last one wider than the third and of at least "
            f"{groups * (2 * pairs + 2)} channels, the third of at least {latents}"
        )
    for module in encoder.modules():
        if isinstance(module, ResnetBlock):
            clear(module.conv2)
    clear(encoder.mid.attn_1.proj_out)
    for layer in (encoder.conv_in, encoder.conv_out):
        clear(layer)
    for c in range(params.in_channels):
        encoder.conv_in.weight[c, c, 1, 1] = 1
    *finer, coarsest = levels_of(encoder.down)
    for level in finer:
        first = blocks_of(level)[0]
        if first.changes_width:
            clear(first.nin_shortcut)
            for c in range(min(first.nin_shortcut.weight.shape[:2])):
                first.nin_shortcut.weight[c, c] = 1

    goal = pca.components * pca.scale[:, None]
    convs = [level.downsample.conv for level in finer]
    for conv, matrix in zip(convs, step_matrices(goal, (widths[0], widths[1])), strict=True):
        clear(conv)
        kernel = rearrange(matrix, "o (i y x) -> o i y x", y=2, x=2)
        conv.weight[: kernel.shape[0], : kernel.shape[1], :2, :2] = kernel
    offset = -goal @ pca.mean
    bias_of(convs[-1])[:latents] = half(offset)

    # Latent k and its negative are channels `at` and `at + 1` of the last level.
    at = torch.arange(latents) % groups * size + torch.arange(latents) // groups * 2
    spread = blocks_of(coarsest)[0].nin_shortcut
    clear(spread)
    constants = torch.ones(widths[-1], dtype=torch.bool)
    gain = torch.zeros(widths[-1])
    for sign, rows in ((1.0, at), (-1.0, at + 1)):
        spread.weight[rows, torch.arange(latents)] = sign
        bias_of(spread)[rows] = sign * (offset - half(offset))
        constants[rows] = False
    bias_of(spread)[constants] = CONSTANT * (-1.0) ** torch.arange(int(constants.sum()))
    # A group's variance, with latents of variance 1; constants come in pairs in every group.
    share = constants.view(groups, size).float().mean(1).repeat_interleave(size)
    deviation = (share * CONSTANT**2 + (1 - share)).sqrt()
    gain[~constants] = half(deviation)[~constants]
    encoder.norm_out.weight.copy_(gain)
    encoder.norm_out.bias.zero_()
    for sign, rows in ((1.0, at), (-1.0, at + 1)):
        recover = deviation[rows] / half(deviation)[rows] / latent_format.scale_factor
        encoder.conv_out.weight[torch.arange(latents), rows, 1, 1] = sign * recover
    bias_of(encoder.conv_out)[:latents] = latent_format.shift_factor
    bias_of(encoder.conv_out)[latents:] = LOG_VARIANCE
