"""This pack's LoRAs on any CLIP: beside the weights of ours outside of ComfyUI, as the host's own patches in it.

ComfyUI's CLIP for FLUX.1 and ours have the same names (`clip_l.transformer...`, `t5xxl.transformer...`),
so one way serves both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...kontext_core.errors import InputError
from .clip import KontextClip
from .lora import host_patches

if TYPE_CHECKING:
    from torch import nn

    from ...kontext_core.lora.load import Lora
    from ...kontext_core.lora.report import Report

# The core's name of an encoder, and where the host's CLIP for FLUX.1 keeps it.
ROOTS = {"t5": "t5xxl.transformer", "clip_l": "clip_l.transformer"}


def add_text_lora(clip: Any, lora: Lora, strength: float) -> tuple[Any, Report]:
    """A CLIP with one more LoRA, and what of it matched. `clip` itself stays as it is.

    Raises:
        CheckpointError: the LoRA does not fit the encoders.
        InputError: not a CLIP.
    """
    from ...kontext_core.lora.text import match_text_loras, networks_of

    if isinstance(clip, KontextClip) or type(clip).__name__ == "KontextClip":
        report = match_text_loras(networks_of(clip.encoder), [(lora, strength)])
        return (clip.with_lora(lora, strength) if report.matched else clip), report
    held: nn.Module | None = getattr(clip, "cond_stage_model", None)
    if held is None or not hasattr(clip, "add_patches"):
        raise InputError(
            f"this CLIP is a {type(clip).__name__}; expected one from Kontext: Load Text Encoders or "
            "ComfyUI's own loader for FLUX.1. Leave clip open to change the MODEL alone"
        )
    networks: dict[str, nn.Module] = {}
    for name, root in ROOTS.items():
        half, _, inner = root.partition(".")
        network = getattr(getattr(held, half, None), inner, None)
        if network is not None:
            networks[name] = network
    report = match_text_loras(networks, [(lora, strength)])
    if not report.matched:
        return clip, report
    other = clip.clone()
    for name in networks:
        for patches in host_patches(held, ROOTS[name], lora.path, lora.encoders.get(name, ())):
            other.add_patches(patches, strength)
    return other, report
