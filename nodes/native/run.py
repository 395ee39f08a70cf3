"""What one run of the host's sampler keeps from one model call to the next, and when it is given up.

A run lasts as long as the host's outermost sampling function, however that ends. Model calls outside of
one keep nothing. Within a run a call is known by the conditionings that the host batches in it; what was
made for it counts only while everything it was made of is the same, number by number.

Only where `comfy` can be imported.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import comfy.ldm.modules.attention
import torch
import torch.nn.functional as F
from torch import Tensor

from ...kontext_core import accelerated
from ...kontext_core.accelerate import Acceleration, step_at
from ...kontext_core.accelerated import AcceleratedRun, Call, Original, TokenCounts
from ...kontext_core.latents import token_grid
from ...kontext_core.models.attention import softmax_attention
from ...kontext_core.models.block_run import Prepared
from ...kontext_core.models.joint import Joint
from ...kontext_core.region import mask_on_tokens
from .carried import ACCELERATION, tell
from .oom import attention_in_parts

if TYPE_CHECKING:
    from ...kontext_core.models.flux import Flux
    from ...kontext_core.models.kept import KeptContext
    from ...kontext_core.models.nag import NagTexts
    from .references import ImageTokens

# Under which name the host calls `during` around a run.
KEY = "kontext_run"
# Attribute of the host's guider with the report of its last run, where something was left out.
REPORT = "kontext_report"
# Calls of one step that are remembered: two texts over four areas, each on its own.
SIDES = 8
# What patches of the host's may look at or change: then every token is there, as in its own Flux.
WATCHING = ("post_input", "attn1_patch", "attn1_output_patch")


class HostSide:
    """What is kept for the same model call of several steps.

    Attributes:
        saving: the part of it that saves work.
    """

    def __init__(self, saving: accelerated.Side) -> None:
        self.saving = saving
        self.given: tuple[Any, ...] = ()
        self.last: Prepared | None = None

    def prepared(self, network: Flux, image: ImageTokens, context: Tensor) -> Prepared:
        """Projected text [b, n, context_in_dim] and references and the rotary table; new ones when
        one of them is not what it was."""
        given = context, image.tokens[:, image.target :], image.ids, image.bias, image.target
        if self.last is None or not all(map(_same, given, self.given)):
            self.saving.reset()
            txt_ids = torch.zeros(1, context.shape[1], 3, device=context.device)
            self.last = network.prepare(
                image.tokens, image.ids, context, txt_ids, image.bias, image.target
            )
            # Cut out of the target's sequence, which is not to be kept alive.
            self.given = tuple(x.clone() if isinstance(x, Tensor) else x for x in given)
        return self.last


class HostRun:
    """Everything that is kept of one run.

    Args:
        params: the transformer's sizes.
        settings: None, or what may be left out.
        shape: None, or that of the whole latent [b, c, h, w]; a call for a part of it is another
            picture to a region.
        mask: None, or the latent's noise mask [.., H, W] at any size.
    """

    def __init__(
        self,
        params: Any,
        settings: Acceleration | None = None,
        shape: Sequence[int] | None = None,
        mask: Tensor | None = None,
    ) -> None:
        self.params, self.settings = params, settings
        self.saving = AcceleratedRun(settings, params)
        self.shape, self.mask = shape, mask
        self._sides: OrderedDict[Hashable, HostSide] = OrderedDict()

    def side(self, options: dict[str, Any], shape: torch.Size) -> HostSide:
        """That of a model call.

        Args:
            options: the host's transformer_options with `uuids` of its conditionings and
                `cond_or_uncond`, for each chunk of the batch.
            shape: of the target.
        """
        names = ("uuids", "cond_or_uncond")
        key = (*(tuple(options.get(name) or ()) for name in names), tuple(shape))
        side = self._sides.pop(key, None) or HostSide(self.saving.side(key))
        self._sides[key] = side
        while len(self._sides) > SIDES:
            self._sides.popitem(last=False)[1].saving.reset()
        return side

    def call(
        self,
        side: HostSide,
        image: ImageTokens,
        text: int,
        timestep: Tensor,
        options: dict[str, Any],
    ) -> Call | None:
        """What a model call computes; None, or everything, where nothing is left out.

        Args:
            text: number of its tokens.
            timestep: [b] in 0..1.
            options: the host's transformer_options with the run's schedule and this call's sigma.
        """
        sigmas = options.get("sample_sigmas")
        if self.settings is None or sigmas is None or len(sigmas) < 2:
            return None
        first, *others = timestep.tolist()
        if any(other != first for other in others):
            return None
        if self.saving.original is None and self.settings.region is not None:
            self.saving.original = self._original(image)
        steps = options.get("kontext_steps", len(sigmas) - 1)
        layout = TokenCounts(len(image.tokens), text, image.target, image.counts, image.present)
        return side.saving.call(first, step_at(first, sigmas.tolist()), steps, layout)

    def _original(self, image: ImageTokens) -> Original | None:
        """What says which part of the target changes: the mask, or the reference of its size. None
        for a part of the latent, as areas have it."""
        if self.settings is None or self.settings.region is None or self.shape is None:
            return None
        if token_grid(*self.shape[-2:]) != image.grid:
            return None
        tokens, mask = image.original, None
        if tokens is not None:
            # Calls of one step differ in their batch, so what they share is one picture.
            tokens = tokens[:1].clone() if all(map(tokens[0].equal, tokens)) else None
        if self.mask is not None:
            # Older hosts have it at the size it was painted in; of a batch all that any may change.
            one = self.mask.reshape(-1, 1, *self.mask.shape[-2:]).amax(0, keepdim=True).float()
            one = F.adaptive_max_pool2d(one, tuple(self.shape[-2:])).to(image.tokens.device)
            mask = mask_on_tokens(one, self.settings.region)
        return Original(image.grid, tokens, mask)

    def memory(self, shape: Sequence[int], references: Iterable[Any], dtype: torch.dtype) -> int:
        """Bytes that kept keys and values may take.

        Args:
            shape: of the model's input [b, c, h, w].
            references: for each conditioning in the batch, the shape of all its references together,
                [1, c, cells].
        """
        settings = self.settings
        if settings is None or not (settings.context or settings.region or settings.pruning):
            return 0
        token, sizes = 4 * shape[1], [math.prod(one) for one in references]
        tokens = sum(sizes) // token * max(1, shape[0] // max(1, len(sizes)))
        tokens *= 1 if settings.context is None else 1 + settings.context.order
        if settings.region is not None:
            tokens += math.prod(shape) // token
        blocks = self.params.depth + self.params.depth_single_blocks
        rows = tokens * blocks
        if settings.bits == 8:
            # With a float32 for each head.
            return 2 * rows * (self.params.hidden_size + 4 * self.params.num_heads)
        return 2 * rows * self.params.hidden_size * dtype.itemsize

    def forget(self) -> None:
        """Give up what was made: weights have changed."""
        self._sides.clear()
        self.saving.reset()

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """A copy of a network for another device takes part in no run."""


def during(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """Around the host's `outer_sample`: a run of its own for the network, over when that is over.

    Called as that is: noise, latent, sampler, sigmas and noise mask. What was left out is said in the
    log, and by the node that asked for it.
    """
    guider = executor.class_obj
    network: Any = getattr(guider.model_patcher.model, "diffusion_model", None)
    if not hasattr(network, "modulated"):
        # Another network in its place, by a patch of the host's.
        return executor(*args, **kwargs)
    wanted = guider.model_options.get("transformer_options", {}).get(ACCELERATION)
    noise = args[0] if args else kwargs.get("noise")
    mask = args[4] if len(args) > 4 else kwargs.get("denoise_mask")
    before = network.run
    run = network.run = HostRun(
        network.params,
        None if wanted is None else wanted.settings,
        getattr(noise, "shape", None),
        mask,
    )
    try:
        return executor(*args, **kwargs)
    finally:
        # A sampler may have been called within another one's run.
        network.run = before
        if wanted is not None:
            tell(wanted, run.saving.report)
            setattr(guider, REPORT, run.saving.report)


def watched(options: dict[str, Any]) -> bool:
    """Whether somebody else looks at tokens or attention of this call, or replaces blocks."""
    patches = options.get("patches", {})
    replaced = options.get("patches_replace", {}).get("dit", {})
    return bool(replaced) or any(patches.get(name) for name in WATCHING)


class HostJoint(Joint):
    """The core's attention with the host's kernel, where the host has chosen one that is not the
    slower of the two.

    Args:
        options: the host's transformer_options with `block_index` and `block_type` set.

    The others are the core's.
    """

    def __init__(
        self,
        options: dict[str, Any],
        kept: KeptContext | None,
        target: int,
        references: int,
        texts: NagTexts | None,
    ) -> None:
        super().__init__(kept=kept, target=target, references=references, guided=texts)
        self.options = options

    def softmax(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        run = comfy.ldm.modules.attention.optimized_attention
        unasked = run.__name__ == "attention_sub_quad" and q.device.type == "cpu"
        if unasked and "optimized_attention_override" not in self.options:
            return softmax_attention(q, k, v, bias, self.backend)

        def attention(queries: Tensor, mask: Tensor | None) -> Tensor:
            return run(
                queries, k, v, q.shape[1], mask=mask, skip_reshape=True,
                transformer_options=self.options,
            )  # fmt: skip

        mask = None if bias is None else bias[:, None, None, :].to(q.device, q.dtype)
        return attention_in_parts(attention, q, mask)


def _same(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return one is other or (not isinstance(one, Tensor) and one == other)
    alike = one.shape == other.shape and one.dtype == other.dtype and one.device == other.device
    return alike and torch.equal(one, other)
