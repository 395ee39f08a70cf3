"""FLUX.1's pair of text encoders: T5 gives the token features, CLIP-L the pooled feature.

Weighted tokens follow ComfyUI: the features of a token of weight w are moved along the line from
the empty prompt's features at the same place, empty + w * (features - empty). The pooled feature
is CLIP's of the first row, without weights; all else that CLIP says is unused by FLUX.1.
Shapes: b texts, l tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, InputError
from ..models.clip import ClipTextModel
from ..models.t5 import T5Encoder
from .rows import Token, clip_rows, empty_t5_row, t5_row
from .vocabularies import CLIP_VOCABULARY, T5_PAD, T5_VOCABULARY

log = logging.getLogger(__name__)

COMFYUI_LENGTH, PUBLISHED_LENGTH = 256, 512


class FluxTextEncoders(nn.Module):
    """T5 and CLIP-L with their tokenizers.

    Args:
        t5, clip_l: the networks.
        max_length: 256 pads T5's tokens to 256 and keeps longer prompts whole, as ComfyUI does;
            512 pads and cuts to 512, and cuts CLIP's to one row, as BFL and diffusers do.
        weights: read weights in brackets, as ComfyUI does; else prompts are taken as they are.

    Raises:
        InputError: another `max_length`.
        CheckpointError: a network's vocabulary is too small for the tokenizer's ids.
    """

    def __init__(
        self,
        t5: T5Encoder,
        clip_l: ClipTextModel,
        *,
        max_length: int = COMFYUI_LENGTH,
        weights: bool = True,
    ) -> None:
        super().__init__()
        if max_length not in (COMFYUI_LENGTH, PUBLISHED_LENGTH):
            raise InputError(
                f"max_length is {max_length!r}; expected {COMFYUI_LENGTH} (as ComfyUI) or "
                f"{PUBLISHED_LENGTH} (as the published code)"
            )
        for name, size, needed in (
            ("T5", t5.params.vocab_size, T5_VOCABULARY),
            ("CLIP-L", clip_l.params.vocab_size, CLIP_VOCABULARY),
        ):
            if size < needed:
                raise CheckpointError(
                    f"the {name} network knows {size} tokens, its tokenizer makes {needed}; the "
                    "file is not FLUX.1's: use t5xxl and clip_l files"
                )
        self.t5 = t5
        self.clip_l = clip_l
        self.max_length = max_length
        self.weights = weights

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.t5.device

    def halves(
        self,
        text: str,
        *,
        weights: bool | None = None,
        options: Mapping[str, int] | None = None,
    ) -> dict[str, list[list[Token]]]:
        """One prompt as ComfyUI's CLIP sockets carry it: {"l": rows, "t5xxl": rows} of tokens.

        Args:
            text: the prompt.
            weights: read weights in brackets; None as the pair was made.
            options: ComfyUI's tokenizer options; of them, `t5xxl_min_length` and
                `t5xxl_min_padding` are read.

        Raises:
            InputError: not a text.
        """
        given = options or {}
        read = self.weights if weights is None else weights
        published = self.max_length == PUBLISHED_LENGTH
        if read and isinstance(text, str) and "embedding:" in text:
            log.warning("textual inversions are not read: 'embedding:' is taken as text")
        row = t5_row(
            text,
            weights=read,
            min_length=given.get("t5xxl_min_length", self.max_length),
            max_length=self.max_length if published else None,
            min_padding=given.get("t5xxl_min_padding", 0),
        )
        width = self.clip_l.params.max_positions
        return {"l": clip_rows(text, weights=read, max_length=width, cut=published), "t5xxl": [row]}

    def lost(self, text: str, *, weights: bool | None = None) -> int:
        """How many of T5's tokens `halves` cuts off a prompt; CLIP's go on in the pooled feature
        or not, which says little. Arguments as `halves`."""
        if self.max_length != PUBLISHED_LENGTH:
            return 0
        read = self.weights if weights is None else weights
        return max(0, len(t5_row(text, weights=read, min_length=0)) - self.max_length)

    def encode_halves(
        self,
        tokens: Mapping[str, Sequence[Sequence[Sequence[float]]]],
        *,
        device: torch.device | None = None,
        layer: int | None = None,
        tick: Callable[[], None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Features txt [1, l, 4096] and pooled vec [1, 768] of tokens from `halves`.

        Args:
            tokens: rows of (id, weight) or (id, weight, part). Several rows of "t5xxl" are encoded
                one by one and joined along l; of "l" only the first counts.
            device: to compute on; None takes that of the weights.
            layer, tick: as `T5Encoder.forward`.

        Raises:
            InputError: a half is missing or empty, or a token is not a number.
        """
        with torch.no_grad():
            parts = [
                self.encode_t5([row], device=device, layer=layer, tick=tick)
                for row in _rows(tokens, "t5xxl")
            ]
            return torch.cat(parts, dim=1), self.encode_clip(_rows(tokens, "l")[:1], device=device)

    def encode_t5(
        self,
        rows: Sequence[Sequence[Token]],
        *,
        device: torch.device | None = None,
        layer: int | None = None,
        tick: Callable[[], None] | None = None,
    ) -> Tensor:
        """Weighted rows of one length to features [b, l, 4096]. Arguments as `encode_halves`."""
        device = self.device if device is None else device
        ids = torch.tensor([[token.id for token in row] for row in rows], device=device)
        weights = torch.tensor([[token.weight for token in row] for row in rows])
        if bool((weights == 1).all()):
            return self.t5(ids, layer=layer, tick=tick)
        empty = torch.tensor([[token.id for token in empty_t5_row(ids.shape[1])]])
        out = self.t5(torch.cat([ids, empty.to(ids.device)]), layer=layer, tick=tick)
        features, start = out[:-1], out[-1:]
        moved = start + (features - start) * weights[..., None].to(out)
        return torch.where((weights == 1)[..., None].to(out.device), features, moved)

    def encode_clip(
        self, rows: Sequence[Sequence[Token]], *, device: torch.device | None = None
    ) -> Tensor:
        """Rows of one length to pooled features [b, 768]; weights don't matter for these."""
        ids = torch.tensor([[token.id for token in row] for row in rows])
        return self.clip_l(ids.to(self.clip_l.device if device is None else device))[1]

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """T5's ids [b, l] int64, as `encode` gives them to T5.

        Raises:
            InputError: `texts` is a bare string or empty.
        """
        return torch.tensor([[token.id for token in row] for row in self._t5_rows(texts)])

    def forward(self, t5_ids: Tensor, clip_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Ids [b, l] of T5 and [b, 77] of CLIP to txt [b, l, 4096] and vec [b, 768]."""
        return self.t5(t5_ids), self.clip_l(clip_ids)[1]

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Prompts to txt [b, l, 4096] and vec [b, 768], without gradients.

        l is one for all: prompts are padded to the longest, so in a batch with one of more than
        256 tokens a short prompt's features differ from those it has alone.

        Raises:
            InputError: `texts` is a bare string or empty.
        """
        rows = self._t5_rows(texts)
        with torch.no_grad():
            vec = self.encode_clip([self.halves(text)["l"][0] for text in texts])
            return self.encode_t5(rows), vec

    def _t5_rows(self, texts: Sequence[str]) -> list[list[Token]]:
        if isinstance(texts, str) or not texts:
            raise InputError(f"expected a list of texts, got {texts!r}; wrap one text in a list")
        rows = [self.halves(text)["t5xxl"][0] for text in texts]
        longest = max(len(row) for row in rows)
        return [row + [Token(T5_PAD)] * (longest - len(row)) for row in rows]


def _rows(
    tokens: Mapping[str, Sequence[Sequence[Sequence[float]]]], half: str
) -> list[list[Token]]:
    """A half of foreign tokens, checked."""
    rows = tokens.get(half)
    if not rows or not all(rows):
        raise InputError(
            f"the tokens have no half {half!r} (found {sorted(tokens)}); make them with the "
            "tokenize of FLUX.1's pair of text encoders"
        )
    out = []
    for row in rows:
        if not all(isinstance(token[0], int) for token in row):
            raise InputError(
                f"a token of half {half!r} is not a number; textual inversions are not supported, "
                "take 'embedding:...' out of the prompt"
            )
        out.append([Token(int(token[0]), float(token[1])) for token in row])
    return out
