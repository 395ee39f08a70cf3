"""CLIP: text encoders of the core's behind ComfyUI's own face."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from ..host import Managed, manage

if TYPE_CHECKING:
    from torch import Tensor

    from ...kontext_core.models.text import TextEncoder
    from ...kontext_core.text.pair import FluxTextEncoders

__all__ = ["KontextClip"]

# Rows of (id, weight) or (id, weight, word).
Tokens = dict[str, list[list[tuple[Any, ...]]]]


class KontextClip:
    """Text encoders on a CLIP socket.

    Tokens are ComfyUI's shape, {"l": [[(id, weight), ...]], "t5xxl": ...}: the token features come
    from the "t5xxl" half, the pooled feature from the "l" half. FLUX.1's pair reads weights in
    brackets as ComfyUI does; the embedded encoder, which is both halves, takes texts literally.
    """

    def __init__(self, encoder: TextEncoder | FluxTextEncoders, name: str) -> None:
        self.name = name
        self.tokenizer_options: dict[str, Any] = {}
        self._managed: Managed = manage(encoder)

    @property
    def encoder(self) -> TextEncoder | FluxTextEncoders:
        """The network, wherever it is."""
        return self._managed.network  # type: ignore[return-value]

    def tokenize(self, text: str, return_word_ids: bool = False, **kwargs: Any) -> Tokens:
        """One text to tokens; with `return_word_ids`, each carries the number of its word too."""
        encoder: Any = self.encoder
        if hasattr(encoder, "halves"):
            options = {**self.tokenizer_options, **kwargs.get("tokenizer_options", {})}
            halves = encoder.halves(text, options=options)
        else:
            row = [(int(i), 1.0, 0) for i in encoder.tokenize([text])[0]]
            halves = {"l": [row], "t5xxl": [row]}
        length = 3 if return_word_ids else 2
        return {
            half: [[tuple(token)[:length] for token in row] for row in rows]
            for half, rows in halves.items()
        }

    def set_tokenizer_option(self, name: str, value: Any) -> None:
        """What ComfyUI's T5TokenizerOptions sets, `t5xxl_min_length` and `t5xxl_min_padding`."""
        self.tokenizer_options[name] = value

    def encode_tokens(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Tokens to features [1, l, c] and pooled feature [1, v], float32 on the CPU."""
        import torch

        encoder: Any = self._managed.load()
        with torch.no_grad():
            if hasattr(encoder, "encode_halves"):
                features, pooled = encoder.encode_halves(tokens)
            else:
                ids = {
                    half: torch.tensor([[token[0] for token in row] for row in rows])
                    for half, rows in tokens.items()
                }
                features = encoder(ids["t5xxl"].to(encoder.device))[0]
                pooled = encoder(ids["l"].to(encoder.device))[1]
        return features.float().cpu(), pooled.float().cpu()

    def encode_from_tokens(
        self, tokens: Tokens, return_pooled: bool | str = False, return_dict: bool = False
    ) -> Any:
        """ComfyUI's older call: features, (features, pooled) or a dict of both."""
        features, pooled = self.encode_tokens(tokens)
        if return_dict:
            return {"cond": features, "pooled_output": pooled}
        return (features, pooled) if return_pooled else features

    def encode_from_tokens_scheduled(
        self,
        tokens: Tokens,
        unprojected: bool = False,
        add_dict: dict[str, Any] | None = None,
        show_pbar: bool = True,
    ) -> list[list[Any]]:
        """What CLIP Text Encode calls: a CONDITIONING with the pooled feature in it."""
        features, pooled = self.encode_tokens(tokens)
        return [[features, {"pooled_output": pooled, **(add_dict or {})}]]

    def encode(self, text: str) -> Tensor:
        """Features of a text, as ComfyUI's CLIP offers it."""
        return self.encode_from_tokens(self.tokenize(text))

    def clone(self) -> KontextClip:
        """A CLIP of the same network with tokenizer options of its own."""
        other = copy.copy(self)
        other.tokenizer_options = dict(self.tokenizer_options)
        return other

    def __repr__(self) -> str:
        return f"KontextClip({self.name!r})"
