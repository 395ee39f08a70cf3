"""The core's text encoders as a `comfy.sd.CLIP`. Import only where comfy is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import comfy.hooks
import comfy.model_management
import comfy.sd
import torch

from ...kontext_core.errors import InputError
from ..host import get_host
from ..notes import TEXT_NOTES
from .clip import Tokens, encode_tokens, text_notes, tokens_of
from .layers import host_layers
from .patcher import patcher_for

if TYPE_CHECKING:
    from torch import Tensor

    from ...kontext_core.models.text import TextEncoder
    from ...kontext_core.text.pair import FluxTextEncoders


class _Half(torch.nn.Module):
    """One network under `transformer.`, the name that LoRA files for text encoders go by."""

    def __init__(self, transformer: torch.nn.Module) -> None:
        super().__init__()
        self.transformer = transformer


class Encoders(torch.nn.Module):
    """What ComfyUI's CLIP calls its `cond_stage_model`: encodes tokens, under its memory management.

    FLUX.1's pair has the names of ComfyUI's own (`clip_l.transformer...`, `t5xxl.transformer...`),
    so that LoRAs, merges and saving find the weights.
    """

    def __init__(self, encoder: TextEncoder | FluxTextEncoders, name: str) -> None:
        super().__init__()
        pair: Any = encoder
        if hasattr(pair, "t5"):
            self.clip_l, self.t5xxl = _Half(pair.clip_l), _Half(pair.t5)
        else:
            self.embedded = _Half(encoder)
        # In a tuple, or its weights would be counted a second time.
        self._whole = (encoder,)
        self.name = name
        self.dtypes = {torch.float32}
        self.device: torch.device | None = None
        self.layer: int | None = None
        self.execution_device: torch.device | None = None

    @property
    def core(self) -> TextEncoder | FluxTextEncoders:
        """The core's networks."""
        return self._whole[0]

    def reset_clip_options(self) -> None:
        """Forget what `set_clip_options` was told."""
        self.layer = self.execution_device = None

    def set_clip_options(self, options: Mapping[str, Any]) -> None:
        """`layer`, from CLIP Set Last Layer; `execution_device`, told since 0.4. The pooled feature
        of FLUX.1 has no projection, so `projected_pooled` changes nothing."""
        self.layer = options.get("layer", self.layer)
        self.execution_device = options.get("execution_device", self.execution_device)

    def encode_token_weights(
        self, token_weight_pairs: Tokens
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Tokens to features [1, l, c], pooled feature [1, v], float32, and what the host puts
        beside them into the CONDITIONING.

        Raises:
            InputError: tokens of another kind of CLIP, or a layer that is not there.
        """
        features, pooled = encode_tokens(
            self.core,
            token_weight_pairs,
            device=self.execution_device or self.device,
            layer=self._last(),
            tick=get_host().check_interrupt,
        )
        target = comfy.model_management.intermediate_device()
        notes = {TEXT_NOTES: found} if (found := text_notes(token_weight_pairs)) else {}
        return features.float().to(target), pooled.float().to(target), notes

    def _last(self) -> int | None:
        """The layer to stop at. As in ComfyUI, one beyond the first means all of them."""
        pair: Any = self.core
        if self.layer is None or not hasattr(pair, "t5"):
            return self.layer
        return None if abs(self.layer) > pair.t5.params.num_layers else self.layer

    def memory_estimation_function(
        self, token_weight_pairs: Tokens, device: torch.device | None = None
    ) -> int:
        """Bytes to work in, beside the weights: logits, bias and maps of one layer in float32, and
        its largest matrix, decoded."""
        pair: Any = self.core
        if not hasattr(pair, "t5"):
            return 0
        p = pair.t5.params
        length = max((len(row) for row in token_weight_pairs.get("t5xxl", [])), default=0)
        # Twice: weighted words are moved away from the empty prompt.
        maps = 2 * length * (2 * p.d_ff + 5 * p.d_model)
        return 4 * (3 * p.num_heads * length**2 + maps + p.d_ff * p.d_model)

    def load_sd(self, sd: Mapping[str, Tensor]) -> Any:
        """ComfyUI's way to fill a CLIP; this one comes filled.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"the weights of the CLIP {self.name!r} can't be replaced by {len(sd)} other tensors; "
            "load their file with Kontext: Load Text Encoders"
        )


class TextTokenizer:
    """What ComfyUI's CLIP calls its `tokenizer`."""

    def __init__(self, encoder: TextEncoder | FluxTextEncoders) -> None:
        self.encoder = encoder

    def tokenize_with_weights(
        self, text: str, return_word_ids: bool = False, **kwargs: Any
    ) -> Tokens:
        """As `tokens_of`; reads `tokenizer_options` of T5TokenizerOptions."""
        options = kwargs.get("tokenizer_options")
        return tokens_of(self.encoder, text, word_ids=return_word_ids, options=options)

    def state_dict(self) -> dict[str, Tensor]:
        """Nothing of it belongs into a checkpoint."""
        return {}


def host_clip(encoder: TextEncoder | FluxTextEncoders, name: str) -> comfy.sd.CLIP:
    """As `make_clip`. A plain `comfy.sd.CLIP`, since its `clone` makes nothing else."""
    management = comfy.model_management
    host_layers(encoder)
    clip = comfy.sd.CLIP(no_init=True)
    clip.cond_stage_model = Encoders(encoder, name).eval()
    clip.tokenizer = TextTokenizer(encoder)
    clip.patcher = patcher_for(
        clip.cond_stage_model,
        load_device=management.text_encoder_device(),
        offload_device=management.text_encoder_offload_device(),
    )
    clip.patcher.hook_mode = comfy.hooks.EnumHookMode.MinVram
    clip.patcher.is_clip = True
    clip.apply_hooks_to_conds = None
    clip.layer_idx = None
    clip.use_clip_schedule = False
    clip.tokenizer_options = {}
    return clip
