"""LoRAs of FLUX.1's text encoders: which layer a name means, and how they are set on the pair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from torch import nn

from .apply import loras_for_now, match_loras, set_loras
from .formats import split_key
from .load import Lora
from .report import Report

NAMES = {"t5": "T5", "clip_l": "CLIP-L"}


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
    parts = [set_loras(network, own) for network, own in _split(networks_of(encoders), loras)]
    return _joined(parts)


@contextmanager
def text_loras_for_now(
    encoders: nn.Module, loras: Sequence[tuple[Lora, float]]
) -> Iterator[Report]:
    """`set_text_loras` for as long as this lasts; afterwards what was set before acts again."""
    with ExitStack() as stack:
        parts = [
            stack.enter_context(loras_for_now(network, own))
            for network, own in _split(networks_of(encoders), loras)
            if own
        ]
        yield _joined(parts)


def match_text_loras(
    networks: Mapping[str, nn.Module], loras: Sequence[tuple[Lora, float]]
) -> Report:
    """What `set_text_loras` would report or refuse; changes nothing.

    Args:
        networks: "t5" and "clip_l" to an encoder with the published names of layers, ours or a host's.
    """
    return _joined([match_loras(network, own) for network, own in _split(networks, loras)])


def networks_of(encoders: nn.Module) -> dict[str, nn.Module]:
    """ "t5" and "clip_l" to the networks of a pair; empty for the embedded model's encoder."""
    found = {name: getattr(encoders, name, None) for name in NAMES}
    return {name: network for name, network in found.items() if isinstance(network, nn.Module)}


def unplaced(lora: Lora) -> list[str]:
    """Keys for text encoders that mean no layer of T5 or CLIP-L."""
    placed = {entry.key for entries in lora.encoders.values() for entry in entries}
    return [
        key
        for key in lora.text_encoder
        if (split := split_key(key)) is None or split[0] not in placed
    ]


def _joined(parts: Sequence[Report]) -> Report:
    return Report(tuple(part for report in parts for part in report.loras))


def _split(
    networks: Mapping[str, nn.Module], loras: Sequence[tuple[Lora, float]]
) -> Iterator[tuple[nn.Module, list[tuple[Lora, float]]]]:
    """Each encoder with what of the LoRAs is for it."""
    for name, network in networks.items():
        own = [
            (
                replace(
                    lora, entries=entries, format=f"on {NAMES[name]}", unmatched=(), text_encoder=()
                ),
                strength,
            )
            for lora, strength in loras
            if (entries := lora.encoders.get(name, ()))
        ]
        yield network, own
