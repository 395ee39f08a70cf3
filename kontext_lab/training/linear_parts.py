"""Parts of an autoencoder whose weights are written down: channels, linear maps, fixed entries.

See `linear_encoder.py` and `linear_decoder.py`.
"""

from __future__ import annotations

from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from kontext_core.models.autoencoder_layers import Level, ResnetBlock


@torch.no_grad()
def clear(layer: nn.Conv2d) -> None:
    """Make a convolution that gives zeros."""
    layer.weight.zero_()
    if layer.bias is not None:
        layer.bias.zero_()


def bias_of(layer: nn.Conv2d | nn.GroupNorm) -> nn.Parameter:
    """Its bias. torch says it may be None; every convolution and norm here has one."""
    return cast(nn.Parameter, layer.bias)


def levels_of(part: nn.ModuleList) -> list[Level]:
    """An encoder's `down` or a decoder's `up`: a `ModuleList` doesn't say what it holds."""
    return [cast(Level, level) for level in part]


def blocks_of(level: Level) -> list[ResnetBlock]:
    """The residual blocks of a level, for the same reason."""
    return [cast(ResnetBlock, block) for block in level.block]


class Fixed:
    """Entries of parameters that training must not move: what knows places, and the constants.

    Muon moves every direction of a matrix alike, however small its gradient, and would wear them
    away.
    """

    def __init__(self) -> None:
        self._entries: list[tuple[nn.Parameter, Tensor, Tensor]] = []

    def add(self, parameter: nn.Parameter, mask: Tensor) -> None:
        """Keep the entries where `mask`, which broadcasts, is true."""
        mask = mask.expand_as(parameter).clone()
        self._entries.append((parameter, mask, parameter.detach().clone()))

    def take(self) -> None:
        """From now on keep what is there now: after a checkpoint was read."""
        self._entries = [(p, mask, p.detach().clone()) for p, mask, _ in self._entries]

    @torch.no_grad()
    def restore(self) -> None:
        """Undo what an optimizer did to them."""
        for parameter, mask, value in self._entries:
            parameter.copy_(torch.where(mask, value, parameter))


class ChannelLayout:
    """Which channels of a width do what: the last of each norm group is the constant.

    `pairs`: [n, 2] channels of the same group, for content and its negative or two switches.
    `single`: every channel that isn't a constant.
    """

    def __init__(self, width: int, groups: int) -> None:
        size = width // groups
        channels = torch.arange(width)
        self.constant = channels % size == size - 1
        self.single = channels[~self.constant]
        starts = [g * size + k for g in range(groups) for k in range(0, size - 2, 2)]
        self.pairs = torch.tensor([(k, k + 1) for k in starts])

    def mask(self, *channels: Tensor) -> Tensor:
        """True at the constants and at these channels."""
        out = self.constant.clone()
        for one in channels:
            out[one.flatten()] = True
        return out


class Maps:
    """How a cell's content gives its pixels, and that of its quarters.

    pixels [3 * n * n] = `back` @ content + `mean`; content of quarter q = `step[q]` @ content +
    `offset[q]`, with q = 2 * lower + right.
    """

    def __init__(self, back: Tensor, mean: Tensor, samples: Tensor) -> None:
        self.back, self.mean, self.samples = back, mean, samples

    def split(self, keep: int) -> Maps:
        """The quarters' maps, with at most `keep` values of content, the ones that vary most."""
        n = round((len(self.mean) / 3) ** 0.5)
        pattern = "(c i p j q) ... -> (i j) (c p q) ..."
        sizes = {"c": 3, "i": 2, "j": 2, "p": n // 2, "q": n // 2}
        back = rearrange(self.back, pattern, **sizes)
        mean = rearrange(self.mean, pattern, **sizes)
        pixels = torch.cat([self.samples @ b.T + m for b, m in zip(back, mean, strict=True)])
        centre = pixels.mean(0)
        if n == 2:
            forth = torch.eye(3)
            centre = torch.zeros(3)
        else:
            varies = (pixels - centre).T @ (pixels - centre) / len(pixels)
            values, vectors = torch.linalg.eigh(varies.double())
            keep = min(keep, len(centre))
            std = values.flip(0)[:keep].clamp(min=1e-8).sqrt().float()
            # Faint directions are louder inside, so that rounding and training treat them alike.
            forth = vectors.flip(1)[:, :keep].T.float() / (std * std.max())[:, None].sqrt()
        self.step = forth @ back
        self.offset = (mean - centre) @ forth.T
        return Maps(torch.linalg.pinv(forth), centre, (pixels - centre) @ forth.T)
