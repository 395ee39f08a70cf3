"""LoRAs that let a model paint in few steps, recognised by the file's name and by what it changes.

Their settings are those of the cards: alimama-creative/FLUX.1-Turbo-Alpha, 8 steps at strength 1;
ByteDance/Hyper-SD, Hyper-FLUX.1-dev-8steps-lora and -16steps-lora, at strength 0.125.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .load import Lora

# Whoever runs so many times the steps it was made for has forgotten to set them.
MARGIN = 2
# Embedders of time, guidance and pooled text: no subject or style needs a change of these.
EMBEDDERS = ("time_in.", "guidance_in.", "vector_in.")
# How diffusers calls a LoRA's file in its repository, which says nothing about it.
UNNAMED = ("diffusion_pytorch_model", "pytorch_lora_weights", "adapter_model")


@dataclass(frozen=True)
class FewSteps:
    """What a LoRA for few steps asks for.

    Attributes:
        name: as people know it.
        steps: to set; None where its file does not say.
        strength: to set; None where it is not known.
    """

    name: str
    steps: int | None
    strength: float | None

    def asked(self) -> str:
        """Steps and strength in words."""
        steps = "few steps" if self.steps is None else f"{self.steps} steps"
        return steps if self.strength is None else f"{steps} at strength {self.strength:g}"


TURBO = FewSteps("FLUX.1-Turbo-Alpha", 8, 1.0)


def few_steps(lora: Lora) -> FewSteps | None:
    """What a LoRA is for, if it is one for few steps: its name says so, and it changes blocks of both
    kinds; or it has no name of its own, and changes embedders too."""
    modules = [entry.target.module for entry in lora.entries]
    both = all(any(m.startswith(kind) for m in modules) for kind in ("double_", "single_"))
    if not both:
        return None
    found = by_name(lora.path)
    if found is None and lora.path.stem.lower() in UNNAMED:
        embedders = any(m.startswith(EMBEDDERS) for m in modules)
        return FewSteps("a LoRA for few steps", None, None) if embedders else None
    return found


def by_name(path: Path) -> FewSteps | None:
    """What a file's name, or for an unnamed one its folder's, says of few steps."""
    stem = path.parent.name if path.stem.lower() in UNNAMED else path.stem
    name = re.sub(r"[^a-z0-9]+", "-", stem.lower())
    steps = re.search(r"(\d+)-?steps?\b", name)
    count = int(steps.group(1)) if steps else None
    if "turbo-alpha" in name or re.search(r"\bflux-?1?(-dev)?-turbo\b", name):
        return TURBO
    if "hyper" in name and count is not None:
        return FewSteps(f"Hyper-FLUX for {count} steps", count, 0.125 if count in (8, 16) else None)
    if re.search(r"\b(turbo|lightning|lcm)\b", name) and count is not None:
        return FewSteps(f"{stem}, for {count} steps", count, None)
    return None


def lora_notes(found: FewSteps | None, strength: float) -> list[str]:
    """What to tell who loads a LoRA with this strength."""
    if found is None:
        return []
    said = f"{found.name} is made for {found.asked()}, guidance as before and cfg 1"
    if found.strength is not None and abs(strength - found.strength) > 1e-6:
        said += f"; strength is {strength:g} here"
    return [said]


def run_notes(found: FewSteps | None, steps: int, accelerated: bool) -> list[str]:
    """What to tell who runs a MODEL with it for so many steps, and leaves work of them out or not."""
    if found is None:
        return []
    notes = []
    if found.steps is not None and steps >= found.steps * MARGIN:
        notes.append(
            f"this MODEL carries {found.name}, made for {found.asked()}, and runs {steps}: set steps "
            f"to {found.steps}"
        )
    if accelerated:
        notes.append(
            f"this MODEL carries {found.name} and is accelerated too: neighbouring ones of so few steps "
            "have little in common, so what is saved is paid for in quality. Take one of them"
        )
    return notes
