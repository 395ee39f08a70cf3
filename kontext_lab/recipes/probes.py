"""What a training run reports of itself, on cases that it never trains on.

Judged success comes from `kontext_lab.bench`; these numbers cost seconds and tell early whether a
run goes well: the flow loss at two noise levels, the PSNR of answers in four steps, and whether
the model reads the order of words and references.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from kontext_core.latents import pack
from kontext_core.models.flux import Flux
from kontext_core.models.text import TextEncoder

from ..training.batch import Group, encode_group, token_ids
from ..training.few_steps import euler
from ..training.objective import group_velocity
from ..training.patch_pca import PatchPCA
from ..world.sample import Sample
from ..world.tasks import make_sample
from ..world.wording import swap_images

HELD_SEED = 987_654
LEVELS = (0.9, 0.5)
KINDS = (("t2i", 0), ("edit", 1), ("two", 2))


class Probes:
    """Numbers by name: flow loss at t = 0.9 and 0.5 and PSNR (dB) of answers for text to image,
    edits and two references; loss at 0.9 with scrambled words ("right", "scrambled" over samples
    whose order matters) and with images 1 and 2 exchanged in the words.

    An order-blind model has equal numbers for right, scrambled and exchanged. Same cases and same
    noise at every call. Losses are plain means over tokens.
    """

    def __init__(self, pca: PatchPCA, text: TextEncoder, count: int = 160) -> None:
        self.pca = pca
        self.groups: dict[str, list[Group]] = {}
        self.orders: dict[str, list[Group]] = {}
        rng = random.Random(HELD_SEED)
        for name, references in KINDS:
            samples = [make_sample(rng, references=references, held_out=True) for _ in range(count)]
            samples.sort(key=lambda sample: len(sample.prompt))
            self.groups[name] = _groups(samples, [s.prompt for s in samples], pca, text)
            ordered = [s for s in samples if s.ordered and (references < 2 or s.swapped)]
            prompts = {"right": [s.prompt for s in ordered]}
            prompts["scrambled"] = [
                " ".join(rng.sample(p.split(), len(p.split()))) for p in prompts["right"]
            ]
            if references == 2:
                prompts["exchanged"] = [swap_images(p) for p in prompts["right"]]
            for kind, texts in prompts.items():
                self.orders[f"{name}/{kind}"] = _groups(ordered, texts, pca, text)

    @torch.no_grad()
    def __call__(self, flux: Flux, text: TextEncoder, device: torch.device) -> dict[str, float]:
        out: dict[str, float] = {}
        for name, groups in self.groups.items():
            for t in LEVELS:
                out[f"{name}/{t}"] = self._loss(groups, flux, text, device, t)
            out[f"{name}/psnr"] = round(self._psnr(groups, flux, text, device), 2)
        for name, groups in self.orders.items():
            out[name] = self._loss(groups, flux, text, device, LEVELS[0])
        return out

    def _loss(
        self, groups: Sequence[Group], flux: Flux, text: TextEncoder, device: torch.device, t: float
    ) -> float:
        total = count = 0.0
        for i, held in enumerate(groups):
            group, eps = held.to(device), _noise(held, i).to(device)
            n = len(eps)
            times, guidance = (torch.full((n,), v, device=device) for v in (t, 1.0))
            txt, vec = text(group.ids)
            velocity = group_velocity(flux, txt, vec, group, times, eps, guidance)
            right = pack(eps) - pack(group.target)
            total += float((velocity.float() - right).square().mean()) * n
            count += n
        return round(total / max(1, count), 4)

    def _psnr(
        self, groups: Sequence[Group], flux: Flux, text: TextEncoder, device: torch.device
    ) -> float:
        """Mean over answers of four Euler steps, decoded linearly."""
        found = []
        for i, held in enumerate(groups):
            group, x = held.to(device), _noise(held, i).to(device)
            n = len(x)
            txt, vec = text(group.ids)
            guidance = torch.ones(n, device=device)
            x = euler(flux, txt, vec, x, guidance, group.references, steps=4)
            drawn, right = (self.pca.decode(z.cpu()).clamp(-1, 1) for z in (x, held.target))
            error = ((drawn - right) / 2).square().flatten(1).mean(1).clamp(min=1e-6)
            found += (-10 * error.log10()).tolist()
        return sum(found) / len(found)


def _noise(group: Group, number: int) -> Tensor:
    return torch.randn(group.target.shape, generator=torch.Generator().manual_seed(3 + number))


def _groups(
    samples: Sequence[Sample], texts: Sequence[str], pca: PatchPCA, text: TextEncoder
) -> list[Group]:
    made = []
    for start in range(0, len(samples), 32):
        part, said = samples[start : start + 32], texts[start : start + 32]
        target, latents = encode_group(part, pca, (64, 64))
        ids = token_ids(text.tokenizer, said, text.params.min_length)
        none = torch.zeros(len(part), 16, 4, dtype=torch.long)
        made.append(Group(ids, target, latents, none, none, torch.ones(len(part), 16)))
    return made
