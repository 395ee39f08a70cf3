"""What the transformer is trained on: one group of samples in, a loss per sample out.

The velocity loss is rectified flow over the target's tokens, weighted (`batch.token_weights`).
Beside it a small head reads, from the middle of the network, which thing and colour each 8x8 cell
of the picture will have: the answer is hidden in the noise, so the first half of the network has
to work out from words and references what goes where (after the idea of REPA, arXiv 2410.06940,
with labels in place of another network's features). The head is thrown away afterwards.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kontext_core.latents import pack
from kontext_core.models.block_run import BlockCall
from kontext_core.models.flux import Flux
from kontext_core.stitcher import Reference, stitch

from .batch import Group
from .flow import noised, velocity_target

IGNORED = -100  # a label that the loss passes over
_IDS: dict[tuple, Tensor] = {}


def _ids_for(target: Tensor, references: list[Tensor]) -> Tensor:
    """Rotary ids of target and references, from the same `stitch` that inference uses."""
    key = (target.device, tuple(target.shape[1:]), *(tuple(r.shape[1:]) for r in references))
    if key not in _IDS:
        blank = [Reference(torch.zeros(1, *r.shape[1:])) for r in references]
        _IDS[key] = stitch((1, *target.shape[1:]), blank).img_ids.to(target.device)
    return _IDS[key]


def group_velocity(
    flux: Flux, txt: Tensor, vec: Tensor, group: Group, t: Tensor, eps: Tensor, guidance: Tensor,
    references: list[Tensor] | None = None, call: BlockCall | None = None,
) -> Tensor:  # fmt: skip
    """The model's velocity at the target tokens of (1 - t) x + t eps, [b, n, 64].

    Args:
        txt, vec: from the text encoder.
        t, guidance: [b].
        eps: noise like `group.target`.
        references: latents instead of the group's own (with noise on them, say).
        call: how blocks are called, see `Flux.forward`.
    """
    shown = group.references if references is None else references
    return latent_velocity(
        flux, txt, vec, noised(group.target, eps, t), t, guidance, shown, call
    )  # fmt: skip


def latent_velocity(
    flux: Flux, txt: Tensor, vec: Tensor, z: Tensor, t: Tensor, guidance: Tensor,
    references: list[Tensor], call: BlockCall | None = None,
) -> Tensor:  # fmt: skip
    """The model's velocity at the target tokens of a noisy latent z [b, 16, h, w], [b, n, 64]; the
    rest as for `group_velocity`."""
    x = pack(z)
    img = torch.cat([x, *map(pack, references)], dim=1)
    blank = torch.zeros(1, txt.shape[1], 3, device=txt.device)
    return flux(
        img, _ids_for(z, references), txt, blank, t, vec, guidance, target_tokens=x.shape[1],
        call=call,
    )  # fmt: skip


def weighted_flow_loss(velocity: Tensor, target: Tensor, eps: Tensor, weight: Tensor) -> Tensor:
    """Squared error against eps - x, [b]: mean over channels, weighted mean over tokens.

    Args:
        velocity: [b, n, 64]. target, eps: [b, 16, h, w]. weight: [b, n], mean 1 per sample.
    """
    error = (velocity - velocity_target(pack(target), pack(eps))).square().mean(-1)
    return (error * weight).mean(1)


class CellLabels(nn.Module):
    """Reads kind and colour of every 8x8 cell of the target from the middle of the transformer.

    Args:
        flux: listened to through a hook on the block in the middle of the single-stream blocks.
        kinds, colours: how many there are, without the background's 0.
    """

    def __init__(self, flux: Flux, kinds: int, colours: int) -> None:
        super().__init__()
        width = flux.params.hidden_size
        self.sizes = (kinds + 1, colours + 1)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, 4 * sum(self.sizes))
        self._seen: Tensor | None = None
        middle = flux.single_blocks[max(0, flux.params.depth_single_blocks // 2 - 1)]
        middle.register_forward_hook(self._listen)

    def _listen(self, module: nn.Module, inputs: tuple, output: Tensor) -> None:
        self._seen = output if self.training and torch.is_grad_enabled() else None

    def loss(self, txt_tokens: int, kind: Tensor, colour: Tensor, weight: Tensor) -> Tensor:
        """Cross-entropy of kind plus colour, [b], for the forward pass just done.

        Args:
            txt_tokens: how many text tokens stand before the picture's.
            kind, colour: [b, n, 4] labels. weight: [b, n].
        """
        if self._seen is None:
            raise RuntimeError("CellLabels.loss came before a forward pass in training mode")
        x = self._seen[:, txt_tokens : txt_tokens + kind.shape[1]]
        self._seen = None
        logits = self.out(self.norm(x)).unflatten(-1, (4, sum(self.sizes)))
        total = torch.zeros_like(weight)
        # A thing whose colour has no name gives no answer to learn.
        named = colour.masked_fill((kind > 0) & (colour == 0), IGNORED)
        for part, labels in zip(logits.split(self.sizes, -1), (kind, named), strict=True):
            each = F.cross_entropy(
                part.flatten(0, 2), labels.flatten(), reduction="none", ignore_index=IGNORED
            )
            total = total + each.view(labels.shape).mean(-1)
        return (total * weight).mean(1)
