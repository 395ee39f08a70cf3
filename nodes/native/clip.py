"""CLIP: text encoders of the core's behind ComfyUI's own face, and on ComfyUI as one of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ...kontext_core.errors import InputError
from ..host import Managed, get_host, manage
from ..notes import TEXT_NOTES

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ...kontext_core.lora.load import Lora
    from ...kontext_core.models.text import TextEncoder
    from ...kontext_core.text.pair import FluxTextEncoders

# Rows of (id, weight) or (id, weight, word).
Tokens = dict[str, list[list[tuple[Any, ...]]]]


class TokenRow(list[tuple[Any, ...]]):
    """A row of tokens that knows how many of its text were cut off."""

    lost = 0


def tokens_of(
    encoder: TextEncoder | FluxTextEncoders,
    text: str,
    *,
    word_ids: bool = False,
    options: Mapping[str, int] | None = None,
) -> Tokens:
    """One text as ComfyUI's tokens, {"l": [[(id, weight), ...]], "t5xxl": ...}.

    Args:
        encoder: FLUX.1's pair reads weights in brackets as ComfyUI does; the embedded encoder,
            which is both halves, takes texts literally.
        text: the prompt.
        word_ids: each token carries the number of its word too.
        options: ComfyUI's tokenizer options.
    """
    pair: Any = encoder
    if hasattr(pair, "halves"):
        halves = pair.halves(text, options=options)
    else:
        row = [(int(i), 1.0, 0) for i in encoder.tokenize([text])[0]]
        halves = {"l": [row], "t5xxl": [row]}
    length = 3 if word_ids else 2
    made: Tokens = {
        half: [TokenRow(tuple(token)[:length] for token in row) for row in rows]
        for half, rows in halves.items()
    }
    made["t5xxl"][0].lost = encoder.lost(text)  # type: ignore[attr-defined]
    return made


def text_notes(tokens: Tokens) -> list[str]:
    """What a user should know of a text: that there is none, or that its end is not read.

    Args:
        tokens: as `tokens_of` gives them; of rows that another node has made anew, it is not known
            whether they were cut.
    """
    rows = tokens.get("t5xxl", [])
    # End and padding are 0 and 1 in both vocabularies.
    if rows and all(token[0] in (0, 1) for row in rows for token in row):
        return ["the instruction is empty: nothing says what to make or to change"]
    lost = sum(getattr(row, "lost", 0) for row in rows)
    if not lost:
        return []
    read = sum(len(row) for row in rows)
    return [
        f"the instruction has {read + lost} tokens, the text encoder reads {read}: the last {lost} "
        "have no effect. Say it in fewer words"
    ]


def encode_tokens(
    encoder: TextEncoder | FluxTextEncoders,
    tokens: Tokens,
    *,
    device: torch.device | None = None,
    layer: int | None = None,
    tick: Callable[[], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Tokens to features [1, l, c], from the half "t5xxl", and the pooled feature [1, v], from "l".

    Args:
        encoder: on any device.
        tokens: as `tokens_of` gives them.
        device: to compute on; None takes that of the weights.
        layer: the last layer of T5 to run, -1 for all; None runs all.
        tick: called between layers; may raise to stop.

    Raises:
        InputError: tokens of another kind of CLIP, or a layer of the embedded encoder.
    """
    import torch

    pair: Any = encoder
    with torch.no_grad():
        if hasattr(pair, "encode_halves"):
            return pair.encode_halves(tokens, device=device, layer=layer, tick=tick)
        if layer not in (None, -1):
            raise InputError(
                f"the last layer was set to {layer}, but the embedded text encoder gives its last "
                "layer only. Take CLIP Set Last Layer away, or set it to -1"
            )
        missing = sorted({"l", "t5xxl"} - set(tokens))
        if missing:
            raise InputError(
                f"the tokens have no half {missing[0]!r} (found {sorted(tokens)}); make them with "
                "the CLIP that encodes them"
            )
        device = encoder.device if device is None else device
        ids = {
            half: torch.tensor([[token[0] for token in row] for row in rows], device=device)
            for half, rows in tokens.items()
        }
        if tick is not None:
            tick()
        features, pooled = encoder(ids["t5xxl"])
        # The halves differ only where each was given a text of its own.
        return features, pooled if torch.equal(ids["l"], ids["t5xxl"]) else encoder(ids["l"])[1]


class KontextClip:
    """Text encoders on a CLIP socket of a host that has no CLIP class of its own."""

    def __init__(self, encoder: TextEncoder | FluxTextEncoders, name: str) -> None:
        self.name = name
        self.tokenizer_options: dict[str, Any] = {}
        self.loras: tuple[tuple[Lora, float], ...] = ()
        self._managed: Managed = manage(encoder)

    @property
    def encoder(self) -> TextEncoder | FluxTextEncoders:
        """The network, wherever it is."""
        return self._managed.network  # type: ignore[return-value]

    def tokenize(self, text: str, return_word_ids: bool = False, **kwargs: Any) -> Tokens:
        """One text to tokens; with `return_word_ids`, each carries the number of its word too."""
        options = {**self.tokenizer_options, **kwargs.get("tokenizer_options", {})}
        return tokens_of(self.encoder, text, word_ids=return_word_ids, options=options)

    def set_tokenizer_option(self, name: str, value: Any) -> None:
        """What ComfyUI's T5TokenizerOptions sets, `t5xxl_min_length` and `t5xxl_min_padding`."""
        self.tokenizer_options[name] = value

    def encode_tokens(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Tokens to features [1, l, c] and pooled feature [1, v], float32 on the CPU."""
        from ...kontext_core.lora.text import text_loras_for_now

        encoder: Any = self._managed.load()
        with text_loras_for_now(encoder, self.loras):
            features, pooled = encode_tokens(encoder, tokens, tick=get_host().check_interrupt)
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
        notes = {TEXT_NOTES: found} if (found := text_notes(tokens)) else {}
        return [[features, {"pooled_output": pooled, **notes, **(add_dict or {})}]]

    def encode(self, text: str) -> Tensor:
        """Features of a text, as ComfyUI's CLIP offers it."""
        return self.encode_from_tokens(self.tokenize(text))

    def clone(self) -> KontextClip:
        """A CLIP of the same network with tokenizer options of its own."""
        other = copy.copy(self)
        other.tokenizer_options = dict(self.tokenizer_options)
        return other

    def with_lora(self, lora: Lora, strength: float) -> KontextClip:
        """A CLIP of the same network with one more LoRA; this one is not changed."""
        other = self.clone()
        other.loras = (*self.loras, (lora, strength))
        return other

    def __repr__(self) -> str:
        return f"KontextClip({self.name!r})"
