"""LoRA and its relatives: read from every trainer's file, applied as branches or merged."""

from __future__ import annotations

from .apply import match_loras, merge_lora, release_factors, set_loras
from .load import Lora, load_lora
from .report import LoraReport, Report
from .text import set_text_loras

__all__ = [
    "Lora",
    "LoraReport",
    "Report",
    "load_lora",
    "match_loras",
    "merge_lora",
    "release_factors",
    "set_loras",
    "set_text_loras",
]
