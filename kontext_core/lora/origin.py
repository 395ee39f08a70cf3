"""Tells which model a LoRA was made for: by its header, its names as a whole, its block numbers.

Models share names and sizes with FLUX.1 (Qwen-Image, FLUX.2 klein 4B and HunyuanVideo are 3072 wide
too), so that some layers of their LoRAs would fit. Such a file is refused as a whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .factors import Entry

INSTEAD = "Use one trained for FLUX.1 [dev] or Kontext"
# FLUX.1's blocks, double and single.
DEPTHS = {"double_blocks": 19, "single_blocks": 38}

# Names that no FLUX.1 transformer has, whichever else are in the file.
OTHERS = (
    (re.compile(r"(down_blocks|up_blocks|mid_block|input_blocks|output_blocks|middle_block)"),
     "Stable Diffusion 1.5 or SDXL"),
    (re.compile(r"joint_blocks|context_block"), "Stable Diffusion 3"),
    (re.compile(r"distilled_guidance_layer"), "Chroma"),
    (re.compile(r"(double|single)_stream_modulation|to_qkv_mlp_proj|ff(_context)?[._]linear_(in|out)"
                r"|single_transformer_blocks[._]\d+[._]attn[._]to_out"), "FLUX.2"),
    (re.compile(r"(?<!single_)transformer_blocks[._]\d+[._](attn1|attn2|img_mod|txt_mod|img_mlp|txt_mlp)"),
     "Qwen-Image or another video or image model"),
    (re.compile(r"(img|txt)_mlp[._]fc[12]|individual_token_refiner"), "HunyuanVideo or HunyuanImage"),
    (re.compile(r"(?<!_)blocks[._]\d+[._](self_attn|cross_attn|ffn)"), "Wan or another video model"),
    (re.compile(r"layers[._]\d+[._](attention|feed_forward)"), "Lumina or Z-Image"),
    (re.compile(r"ip_adapter"), "an IP-Adapter, which is not a LoRA"),
)  # fmt: skip


@dataclass(frozen=True)
class _Family:
    """A model as headers spell it (letters and digits only); `near` where it shares FLUX.1's names."""

    spelled: re.Pattern[str]
    name: str
    near: bool


FAMILIES = tuple(
    _Family(re.compile(spelled), name, near)
    for spelled, name, near in (
        ("flux2|klein", "FLUX.2", True),
        ("chroma", "Chroma", True),
        ("flux", "", True),
        ("qwen", "Qwen-Image", True),
        ("hunyuan", "HunyuanVideo or HunyuanImage", True),
        ("longcat", "LongCat-Image", True),
        ("krea2", "Krea 2", True),
        ("auraflow", "AuraFlow", True),
        ("^sd3|stablediffusionv?3", "Stable Diffusion 3", True),
        ("hidream", "HiDream", False),
        ("^wan|wanvideo|wan2", "Wan", False),
        ("lumina|zimage", "Lumina or Z-Image", False),
        ("^ltx", "LTX-Video", False),
        ("cosmos", "Cosmos", False),
        ("pixart|^sana", "PixArt or Sana", False),
        ("sdxl|stablediffusionxl|kolors|illustrious", "Stable Diffusion XL", False),
        ("^sdv?[12]|stablediffusionv?[12]", "Stable Diffusion 1 or 2", False),
    )
)


def other_architecture(keys: Iterable[str]) -> str | None:
    """What the keys of a file look like when some belong to another model."""
    text = "\n".join(keys)
    return next((what for pattern, what in OTHERS if pattern.search(text)), None)


def refuse_other(
    path: Path, metadata: Mapping[str, Any], matched: int, unmatched: Collection[str]
) -> None:
    """Refuse a LoRA of another model.

    Args:
        path: the file, for the message.
        metadata: strings of its header.
        matched: layers of it whose names are FLUX.1's.
        unmatched: names of its other layers, without the text encoders'.

    Raises:
        CheckpointError: says which model it was made for and what tells so.
    """
    for field, value, family in _told(path, metadata):
        # A deliberate statement; a trainer's own version field is often left at its default.
        if family.near or field == "modelspec.architecture":
            raise CheckpointError(
                f"{path}: made for {family.name}, as its header says ({field}: {value!r}), not for "
                f"FLUX.1. {INSTEAD}"
            )
    what = other_architecture(unmatched)
    if what and matched:
        key = next(name for name in unmatched if other_architecture((name,)))
        raise CheckpointError(
            f"{path}: made for {what}, not for FLUX.1: {matched} of its layers have names of "
            f"FLUX.1's, but others don't, such as {key[:120]!r}. {INSTEAD}"
        )
    if matched and len(unmatched) > matched:
        raise CheckpointError(
            f"{path}: not a LoRA for FLUX.1: only {matched} of its {matched + len(unmatched)} layers "
            f"have names of FLUX.1's, others don't, such as {next(iter(unmatched))[:120]!r}. {INSTEAD}"
        )


def header_note(path: Path, metadata: Mapping[str, Any]) -> str | None:
    """A sentence where the header names another model than the keys; `refuse_other` came before."""
    for field, value, family in _told(path, metadata):
        return (
            f"the header says {field}: {value!r}, which is {family.name}; the names are FLUX.1's, so "
            "it is applied"
        )
    return None


def refuse_deeper(path: Path, entries: Iterable[Entry], depths: Mapping[str, int]) -> None:
    """Refuse a LoRA that counts more blocks than FLUX.1 and the model at hand have.

    Args:
        depths: blocks of the model: "double_blocks" and "single_blocks" to their number.

    Raises:
        CheckpointError: says how many it counts.
    """
    last: dict[str, int] = {}
    for entry in entries:
        kind, _, rest = entry.target.module.partition(".")
        if kind in DEPTHS:
            last[kind] = max(last.get(kind, 0), int(rest.partition(".")[0]))
    for kind, number in last.items():
        most = max(DEPTHS[kind], depths.get(kind, 0))
        if number >= most:
            raise CheckpointError(
                f"{path}: made for another model: it changes {kind}.{number} (counted from 0), "
                f"FLUX.1 has {DEPTHS[kind]} of them. {INSTEAD}"
            )


def _told(path: Path, metadata: Mapping[str, Any]) -> Iterator[tuple[str, str, _Family]]:
    """(field, its value, model) for whatever in the header names another model than FLUX.1."""
    for field, value in _statements(path, metadata):
        # Versions end in "/lora"; names of repositories and folders begin with owners.
        word = value.split("/")[0] if "." in field or field.startswith("ss_") else value
        word = word.replace("\\", "/").rstrip("/").rpartition("/")[2]
        letters = re.sub(r"[^a-z0-9]", "", word.lower())
        family = next((f for f in FAMILIES if f.spelled.search(letters)), None)
        if family is not None and family.name:
            yield field, value[:120], family


def _statements(path: Path, metadata: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for field in ("modelspec.architecture", "ss_base_model_version", "base_model"):
        if isinstance(value := metadata.get(field), str):
            yield field, value
    yield from _adapter(metadata.get("lora_adapter_metadata"))
    beside = path.with_name("adapter_config.json")
    if path.name.startswith("adapter_model") and beside.is_file():
        # `read_header_alpha` has refused one that can't be read.
        yield from _adapter(beside.read_text(encoding="utf-8"))


def _adapter(text: Any) -> Iterator[tuple[str, str]]:
    """What PEFT's configuration says: the model's name and its class."""
    try:
        values = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return
    if not isinstance(values, dict):
        return
    values = {str(key).rpartition(".")[2]: value for key, value in values.items()}
    mapping = values.get("auto_mapping")
    found = {
        "base_model_class": mapping.get("base_model_class") if isinstance(mapping, dict) else None,
        "base_model_name_or_path": values.get("base_model_name_or_path"),
    }
    for field, value in found.items():
        if isinstance(value, str):
            yield field, value
