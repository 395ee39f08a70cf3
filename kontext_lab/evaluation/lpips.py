"""LPIPS, the perceptual distance of Zhang et al. 2018 (arXiv 1801.03924), on AlexNet or VGG-16.

Needs two files in one folder, as they are published: the network of torchvision (alexnet-owt-*.pth or
vgg16-*.pth, BSD-3-Clause) and the weights of its layers from richzhang/PerceptualSimilarity,
lpips/weights/v0.1 (alex.pth or vgg.pth, BSD-2-Clause).
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from kontext_core.errors import CheckpointError, InputError, ShapeError, UnscoredError
from kontext_core.framing import same_shape
from kontext_core.images import resize

from .answer import Answer, Scorer

# How pictures in -1..1 are scaled, per channel (the published ScalingLayer).
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
# Per network: convolutions by their number in torchvision's `features`, (number, stride, padding); "M" is
# max pooling; "T" a place whose activations count. AlexNet pools 3x3 by 2, VGG 2x2 by 2.
_NETWORKS: dict[str, tuple[int, tuple[object, ...]]] = {
    "alex": (3, ((0, 4, 2), "T", "M", (3, 1, 2), "T", "M", (6, 1, 1), "T", (8, 1, 1), "T", (10, 1, 1), "T")),
    "vgg": (
        2,
        (
            (0, 1, 1), (2, 1, 1), "T", "M", (5, 1, 1), (7, 1, 1), "T", "M",
            (10, 1, 1), (12, 1, 1), (14, 1, 1), "T", "M", (17, 1, 1), (19, 1, 1), (21, 1, 1), "T", "M",
            (24, 1, 1), (26, 1, 1), (28, 1, 1), "T",
        ),
    ),
}  # fmt: skip
_FILES = {"alex": ("alexnet*.pth", "alex.pth"), "vgg": ("vgg16*.pth", "vgg.pth")}
# AlexNet's three reductions leave nothing of less.
SMALLEST = 32


@dataclass(frozen=True, eq=False)
class Lpips:
    """The distance, with its weights.

    Attributes:
        name: "alex" or "vgg".
        features: weights and biases by torchvision's names, "features.0.weight".
        lines: one [1, c, 1, 1] for each place that counts.
    """

    name: str
    features: Mapping[str, Tensor]
    lines: tuple[Tensor, ...]

    @torch.no_grad()
    def maps(self, a: Tensor, b: Tensor) -> list[Tensor]:
        """Distances of two batches [b, 3, h, w] in 0..1, a map [b, 1, h', w'] for each place.

        Raises:
            ShapeError: shapes that differ, or a side under 32 pixels.
        """
        if a.shape != b.shape or a.ndim != 4 or a.shape[1] != 3 or min(a.shape[-2:]) < SMALLEST:
            raise ShapeError(
                f"pictures have shapes {tuple(a.shape)} and {tuple(b.shape)}; expected two equal "
                f"[batch, 3, height, width] of at least {SMALLEST} pixels a side"
            )
        found = []
        for one, other, line in zip(self._taps(a), self._taps(b), self.lines, strict=True):
            difference = (_unit(one) - _unit(other)).square()
            found.append((difference * line).sum(1, keepdim=True))
        return found

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """[b]: the sum over places of the maps' means, as published."""
        return torch.stack([each.mean((1, 2, 3)) for each in self.maps(a, b)]).sum(0)

    def within(self, a: Tensor, b: Tensor, area: Tensor) -> Tensor:
        """[b]: the same over an area [b or 1, 1, h, w] of 0..1; its maps are enlarged to the pictures."""
        total = torch.zeros(len(a))
        for each in self.maps(a, b):
            large = F.interpolate(each, a.shape[-2:], mode="bilinear", align_corners=False)
            total = total + (large * area).sum((1, 2, 3)) / area.sum((1, 2, 3)).clamp(min=1)
        return total

    def _taps(self, x: Tensor) -> list[Tensor]:
        pool, plan = _NETWORKS[self.name]
        shift, scale = (torch.tensor(values).view(1, 3, 1, 1) for values in (_SHIFT, _SCALE))
        x = (x * 2 - 1 - shift) / scale
        found = []
        for step in plan:
            if step == "T":
                found.append(x)
            elif step == "M":
                x = F.max_pool2d(x, pool, 2)
            else:
                number, stride, padding = step  # type: ignore[misc]
                weight, bias = (
                    self.features[f"features.{number}.{kind}"] for kind in ("weight", "bias")
                )
                x = F.relu(F.conv2d(x, weight, bias, stride, padding))
        return found


def _unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)


def load_lpips(folder: str | Path) -> Lpips:
    """The distance from a folder with the two files; AlexNet where both networks are there.

    Raises:
        InputError: a file is missing; says which, and where it comes from.
        CheckpointError: a file that is damaged or of another network.
    """
    place = Path(folder)
    for name, (network, lines) in _FILES.items():
        files = sorted(place.glob(network)) if place.is_dir() else []
        if files and (place / lines).is_file():
            return _loaded(name, files[0], place / lines)
    raise InputError(
        f"{place} has no LPIPS: expected alexnet-owt-7be5be79.pth of torchvision and alex.pth of "
        "richzhang/PerceptualSimilarity (lpips/weights/v0.1), or vgg16-397923af.pth and vgg.pth"
    )


def _loaded(name: str, network: Path, lines: Path) -> Lpips:
    features, weights = _state(network), _state(lines)
    numbers = [step[0] for step in _NETWORKS[name][1] if isinstance(step, tuple)]
    names = [f"features.{number}.{kind}" for number in numbers for kind in ("weight", "bias")]
    places = [f"lin{i}.model.1.weight" for i in range(5)]
    for path, found, wanted in ((network, features, names), (lines, weights, places)):
        missing = [key for key in wanted if key not in found]
        if missing:
            raise CheckpointError(
                f"{path} has no {missing[0]}; expected the published file of {name}"
            )
    return Lpips(
        name,
        {key: features[key].float() for key in names},
        tuple(weights[p].float() for p in places),
    )


def _state(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} can't be read ({error}); fetch it again") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds a {type(state).__name__}; expected weights by name")
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def lpips_scorer(folder: str | Path) -> Scorer:
    """Distances `input` (image 1; 0 is equal), with a mask `inside` and `outside` it, and `target`."""
    network = load_lpips(folder)

    def score(answer: Answer) -> dict[str, float]:
        before = answer.images[0]
        found: dict[str, float] = {}
        own, made = ((image.shape[2], image.shape[1]) for image in (before, answer.result))
        if same_shape(own, made):
            a, b = _pair(before, answer.result)
            found["input"] = float(network.distance(a, b))
            if answer.mask is not None:
                area = F.interpolate(answer.mask[:, None].float(), a.shape[-2:], mode="bilinear")
                for name, side in (("inside", area), ("outside", 1 - area)):
                    if bool((side >= 0.5).any()):
                        found[name] = float(network.within(a, b, (side >= 0.5).float()))
        if answer.target is not None:
            found["target"] = float(network.distance(*_pair(answer.target, answer.result)))
        if not found:
            raise UnscoredError(f"image 1 is {own}, the answer {made}: another shape")
        return found

    return score


def _pair(to: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
    height, width = to.shape[1:3]
    return to.movedim(-1, 1), resize(given, width, height).movedim(-1, 1)
