"""LoRAs of FLUX.1's text encoders: which layer a name means, and how they are set on the pair."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from torch import nn

from .apply import loras_for_now, set_loras
from .load import Lora
from .report import Report


def set_text_loras(encoders: nn.Module, loras: Sequence[tuple[Lora, float]]) -> Report:
    """Make these, and only these, LoRAs act on T5 and CLIP-L; as `set_loras` on a transformer.

    Args:
        encoders: a `FluxTextEncoders`. The embedded model's encoder has no published names: keys
            match nothing there.

    Returns:
        One part for each LoRA that changes an encoder, T5's first.

    Raises:
        CheckpointError: a LoRA's tensors don't fit an encoder's layers; names the key.
        InputError: a strength that is not a finite number.
    """
    parts = [set_loras(network, own) for network, own in _split(encoders, loras)]
    return Report(tuple(part for report in parts for part in report.loras))


@contextmanager
def text_loras_for_now(
    encoders: nn.Module, loras: Sequence[tuple[Lora, float]]
) -> Iterator[Report]:
    """`set_text_loras` for as long as this lasts; afterwards what was set before acts again."""
    with ExitStack() as stack:
        parts = [
            stack.enter_context(loras_for_now(network, own))
            for network, own in _split(encoders, loras)
            if own
        ]
        yield Report(tuple(part for report in parts for part in report.loras))


def _split(
    encoders: nn.Module, loras: Sequence[tuple[Lora, float]]
) -> Iterator[tuple[nn.Module, list[tuple[Lora, float]]]]:
    """Each encoder with what of the LoRAs is for it."""
    for name in ("t5", "clip_l"):
        network = getattr(encoders, name, None)
        if isinstance(network, nn.Module):
            own = [
                (replace(lora, entries=entries, unmatched=(), text_encoder=()), strength)
                for lora, strength in loras
                if (entries := lora.encoders.get(name, ()))
            ]
            yield network, own
