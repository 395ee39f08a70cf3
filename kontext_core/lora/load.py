"""Reads a LoRA file of any trainer into entries that say which rows of which layer change how."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ..errors import CheckpointError, ModelNotFoundError
from ..model_files import LORAS
from ..weights.source import WeightsFile, open_weights
from ..weights.unchanged import Stamp
from .factors import Entry, expected_shape, glora_is_old, is_finite
from .formats import KINDS, REFUSED, kind_of, split_key
from .formats_alpha import HeaderAlpha, read_header_alpha
from .formats_names import Name, is_text_encoder, parse_name, parse_text
from .origin import header_note, other_architecture, refuse_other

# What PEFT and diffusers call the file in a folder.
IN_FOLDER = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
WRITERS = {
    "lora_unet_": "kohya",
    "lora_transformer_": "OneTrainer",
    "lycoris_": "LyCORIS",
    "base_model_model_": "PEFT",
    "transformer_": "diffusers",
    "diffusion_model_": "ComfyUI",
    "": "bare",
}
LAYOUTS = {"xlabs": "XLabs / USO", "diffsynth": "DiffSynth"}
# Stands for "no factor of its own": a difference, a bias.
PLAIN = ("diff", "set", "bias")
# Alphas are of the size of ranks. Far beyond, a product is not a number in float16 or float32.
MOST_ALPHA = 1e9


@dataclass(frozen=True, eq=False)
class Lora:
    """A LoRA file, read as far as its names and shapes; the numbers stay in the file.

    Attributes:
        path: the file.
        format: who wrote it and what kinds are in it, like "kohya (bfl names): LoRA".
        entries: one for each change of a layer.
        unmatched: keys that mean nothing to a FLUX.1 transformer.
        text_encoder: keys for CLIP or T5.
        encoders: "t5" and "clip_l" to the changes of their layers, for `set_text_loras`.
        notes: sentences about choices made while reading.
        rank: the largest rank in it, 0 where nothing has one.
        stamps: what the file was when it was read, for `check_unchanged`.
    """

    path: Path
    format: str
    entries: tuple[Entry, ...]
    unmatched: tuple[str, ...] = ()
    text_encoder: tuple[str, ...] = ()
    encoders: Mapping[str, tuple[Entry, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    rank: int = 0
    stamps: tuple[Stamp, ...] = ()


@dataclass
class _Group:
    """Tensors of one layer's name, by role."""

    stem: str
    name: Name
    encoder: str = ""
    roles: dict[str, str] = field(default_factory=dict)


def load_lora(path: str | Path, *, header_alpha: bool = True) -> Lora:
    """Read a LoRA file, or a folder as PEFT or diffusers save it.

    Args:
        path: a safetensors file or folder, or the name of one that comes with the package
            (`model_files.LORAS`).
        header_alpha: where no tensor tells alpha, take it from the header or from
            adapter_config.json, as PEFT and diffusers do; False takes 1, as ComfyUI does.

    Raises:
        ModelNotFoundError: nothing there.
        CheckpointError: damaged, not a LoRA, for another architecture, or of a kind that is not
            supported; names the key.
    """
    path = LORAS.get(str(path)) or _file_of(Path(path).expanduser())
    file = open_weights(path)
    keys = list(file.entries)
    _refuse_control(path, keys)
    groups: dict[str, _Group] = {}
    unmatched: list[str] = []
    strange: dict[str, None] = {}
    text: list[str] = []
    for key in keys:
        split = split_key(key)
        encoder = ""
        if is_text_encoder(key):
            text.append(key)
            found = parse_text(split[0]) if split else None
            if found is None:
                continue
            encoder, name = found[0], Name(found[1], "text", "")
        else:
            name = parse_name(split[0]) if split else None
        if split is None or name is None:
            unmatched.append(key)
            strange |= {split[0]: None} if split else {}
            continue
        stem, role = split
        if role in REFUSED:
            raise CheckpointError(
                f"{path}: {key} makes this {REFUSED[role]}, which is not supported; use a LoRA, "
                "DoRA, LoHa, LoKr, GLoRA, OFT (LyCORIS) or full-difference file, or merge it into "
                "the model with the tool that made it"
            )
        group = groups.setdefault(stem, _Group(stem, name, encoder))
        if group.roles.setdefault(role, key) != key:
            unmatched.append(key)
    header = read_header_alpha(path, file.metadata)
    matched = sum(not group.encoder for group in groups.values())
    refuse_other(path, file.metadata, matched, strange)
    header = header if header_alpha else None
    entries: list[Entry] = []
    encoders: dict[str, list[Entry]] = {}
    notes: dict[str, None] = {}
    if said := header_note(path, file.metadata):
        notes[said] = None
    for group in groups.values():
        found, left = _entries_of(file, group, header, notes)
        (encoders.setdefault(group.encoder, []) if group.encoder else entries).extend(found)
        unmatched += left
    if not entries and not text:
        what = other_architecture(keys)
        raise CheckpointError(
            f"{path}: no LoRA for FLUX.1 in it"
            + (f"; its keys are those of {what}" if what else "")
            + f" (first key {keys[0]!r}). Use one trained for FLUX.1 [dev] or Kontext; a whole "
            "model belongs into the model loader"
        )
    every = itertools.chain(entries, *encoders.values())
    ranks = [rank for entry in every if (rank := _rank(entry)) is not None]
    return Lora(
        path,
        _format_name((g for g in groups.values() if not g.encoder), entries),
        tuple(entries),
        tuple(unmatched),
        tuple(text),
        {name: tuple(found) for name, found in encoders.items()},
        tuple(notes),
        max(ranks, default=0),
        file.stamps,
    )


def _file_of(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in IN_FOLDER:
        if (path / name).is_file():
            return path / name
    raise ModelNotFoundError(
        f"{path} is a folder without {' or '.join(IN_FOLDER)}; give the LoRA file itself"
    )


def _refuse_control(path: Path, keys: list[str]) -> None:
    """BFL's Canny and Depth LoRAs widen img_in to 128 channels: another model, not a style."""
    bare = {key.removeprefix("transformer.") for key in keys}
    wide = "img_in.lora_A.weight" in bare and any(k.endswith("_norm.scale") for k in bare)
    if wide:
        raise CheckpointError(
            f"{path}: a control LoRA (FLUX.1 Canny or Depth), which widens img_in for a control "
            "picture and needs FLUX.1 [dev]; expected a LoRA that keeps the model's inputs. Give "
            "Kontext the control picture as a reference instead"
        )


def _entries_of(
    file: WeightsFile, group: _Group, header: HeaderAlpha | None, notes: dict[str, None]
) -> tuple[list[Entry], list[str]]:
    """Entries of a group, and its keys nothing could be done with."""
    roles = group.roles
    tensors = {role: _tensor(file, key, role) for role, key in roles.items()}
    alpha = _alpha(file, roles["alpha"], tensors["alpha"]) if "alpha" in roles else None
    magnitude = tensors.get("dora_scale", tensors.get("magnitude"))
    used: set[str] = set()
    entries: list[Entry] = []
    factor = 1.0
    for kind, taken in kind_of(frozenset(roles)):
        used |= taken
        part = {role: tensors[role] for role in taken}
        entry = Entry(group.stem, group.name.target, kind, part)
        if kind not in PLAIN and kind != "up_bias":
            used |= {"alpha", "dora_scale", "magnitude"} & set(roles)
            scale = _scale(entry, alpha, header, group.stem)
            if alpha is None and header is not None and scale != 1.0:
                notes[
                    f"scaled by {scale:g} as {header.source} says; ComfyUI's own loader would not"
                ] = None
            factor = scale
            entry = Entry(
                group.stem,
                group.name.target,
                kind,
                part,
                scale=1.0 if kind == "oft" else scale,
                constraint=(alpha or 0.0) if kind == "oft" else 0.0,
                magnitude=magnitude,
                magnitude_of_sum="magnitude" in roles and "dora_scale" not in roles,
            )
        elif kind == "up_bias":
            entry = Entry(
                group.stem, group.name.target, "bias", {"diff_b": part["up_bias"]}, factor
            )
        try:
            expected_shape(entry)
        except CheckpointError as error:
            raise CheckpointError(f"{file.path}: {error}") from None
        entries.append(entry)
    left = [key for role, key in roles.items() if role not in used]
    broken = [role for role in roles if role not in used and _is_factor(role)]
    if broken:
        have = ", ".join(sorted(roles))
        raise CheckpointError(
            f"{file.path}: {roles[broken[0]]} has no counterpart ({group.stem} has only: {have}); "
            "the file is damaged or cut: download it again"
        )
    return entries, left


def _is_factor(role: str) -> bool:
    return role in ("down", "up") or role.startswith(("hada_w", "lokr_w", "glora_"))


def _tensor(file: WeightsFile, key: str, role: str) -> Tensor:
    tensor = file.tensor(key)
    if role == "alpha":
        return tensor
    most = 3 if role == "oft_blocks" else 4
    least = 3 if role == "oft_blocks" else 2 if _is_factor(role) or role == "mid" else 1
    problem = ""
    if not tensor.dtype.is_floating_point:
        problem = f"is {file.entries[key].kind}; expected a floating dtype"
    elif tensor.ndim < least or 0 in tensor.shape:
        problem = f"has shape {list(tensor.shape)}; expected {least} or more dimensions, none 0"
    elif role == "oft_blocks" and tensor.ndim == 4:
        raise CheckpointError(
            f"{file.path}: {key} makes this BOFT, which is not supported; merge it into the model "
            "with the tool that made it"
        )
    elif tensor.ndim > most:
        problem = f"has shape {list(tensor.shape)}; expected at most {most} dimensions"
    elif tensor.ndim > 2 and role != "oft_blocks" and tensor.shape[2:].numel() != 1:
        problem = f"has shape {list(tensor.shape)}, a convolution; FLUX.1 has linear layers only"
    if problem:
        raise CheckpointError(f"{file.path}: {key} {problem}. The file is damaged or not a LoRA")
    if not is_finite(tensor):
        raise CheckpointError(
            f"{file.path}: {key} holds NaN or infinite values: the LoRA's training failed, or the file "
            "is damaged. Download it again, or take an earlier save of the training"
        )
    return tensor


def _alpha(file: WeightsFile, key: str, tensor: Tensor) -> float:
    value = float(tensor.reshape(-1)[0]) if tensor.numel() == 1 else math.nan
    if not abs(value) <= MOST_ALPHA:
        raise CheckpointError(
            f"{file.path}: {key} is {tensor.flatten()[:3].tolist()}; expected one finite number, at "
            f"most {MOST_ALPHA:g}. The file is damaged"
        )
    return value


def _rank(entry: Entry) -> int | None:
    """What alpha is divided by; None where a kind has no rank."""
    t: Mapping[str, Tensor] = entry.tensors
    if entry.kind == "lora":
        return t["down"].shape[0]
    if entry.kind == "loha":
        return t["hada_w1_b"].shape[0]
    if entry.kind == "lokr":
        # ComfyUI: the second matrix's rank where it has one; two whole matrices ignore alpha.
        inner = t.get("lokr_w2_b", t.get("lokr_w1_b"))
        return None if inner is None else inner.shape[0]
    if entry.kind == "glora":
        return t["glora_a1" if glora_is_old(entry) else "glora_a2"].shape[0]
    return None


def _scale(entry: Entry, alpha: float | None, header: HeaderAlpha | None, stem: str) -> float:
    rank = _rank(entry)
    if alpha is not None:
        return 1.0 if rank is None else alpha / rank
    if header is None or entry.kind == "oft":
        return 1.0
    return header.scale(stem, rank)


def _format_name(groups: Iterable[_Group], entries: list[Entry]) -> str:
    names: dict[str, None] = {}
    for group in groups:
        if group.name.layout in LAYOUTS:
            names[LAYOUTS[group.name.layout]] = None
        else:
            writer = next(
                (WRITERS[p] for p in WRITERS if p and p in group.name.prefix), WRITERS[""]
            )
            names[f"{writer} ({group.name.layout} names)"] = None
    kinds: dict[str, None] = {}
    for entry in entries:
        kinds[KINDS[entry.kind].name] = None
        if entry.magnitude is not None:
            kinds["DoRA"] = None
    if not entries:
        return "text encoder LoRA"
    return f"{', '.join(names)}: {', '.join(kinds)}"
