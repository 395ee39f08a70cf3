"""Puts LoRAs on a model: as branches that can be changed and taken off, or merged for good."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, InputError
from ..models.layers import RMSNorm
from ..quant.linear import QuantLinear, ScaledLinear
from ..weights.unchanged import check_unchanged
from .branch import LayerBranch, NormBranch
from .build import build_branch, weight_of
from .factors import Entry, delta, expected_shape, on_rows
from .load import Lora
from .origin import refuse_deeper
from .report import LoraReport, Report

logger = logging.getLogger(__name__)

STATE = "_kontext_loras"
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
Hook = LayerBranch | NormBranch


@dataclass
class _Plan:
    """Which entries fall on which layer, checked; and the report."""

    layers: dict[str, list[tuple[int, Entry]]] = field(default_factory=dict)
    report: Report = field(default_factory=Report)


@dataclass
class _State:
    """What is set on a model."""

    loras: tuple[Lora, ...]
    strengths: list[float]
    hooks: dict[str, Hook]
    report: Report

    def __deepcopy__(self, memo: dict[int, object]) -> _State:
        # A copied model has hooks of its own; this record of the original's is worth nothing there.
        return _State((), [], {}, Report())


def set_loras(model: nn.Module, loras: Sequence[tuple[Lora, float]]) -> Report:
    """Make these, and only these, LoRAs act on the model, beside its weights.

    Works alike on plain, scaled and quantized layers. Replaces what was set before; `[]` takes
    everything off. The same LoRAs with other strengths cost nothing. Factors are brought to the
    device and dtype of the activations at the next forward and kept there (as large as the files'
    tensors). If anything is wrong, what was set before stays.

    Args:
        model: a `Flux`, or any network with its layer names. Layers must be called, not read.
        loras: (LoRA, strength); a strength of 0 counts as not there.

    Raises:
        CheckpointError: a LoRA's tensors don't fit the model's layers; names the key.
        InputError: a strength that is not a finite number.
    """
    files, strengths = _checked(loras)
    for lora in files:
        check_unchanged(lora.stamps)
    state = model.__dict__.get(STATE)
    modules = dict(model.named_modules())
    if isinstance(state, _State) and state.loras == files and _intact(modules, state.hooks):
        state.strengths[:] = strengths
        parts = (
            replace(part, strength=strength)
            for part, strength in zip(state.report.loras, strengths, strict=True)
        )
        state.report = Report(tuple(parts))
        return state.report
    plan = _plan(modules, files, strengths)
    hooks: dict[str, Hook] = {}
    for name, entries in plan.layers.items():
        module = modules[name]
        if isinstance(module, RMSNorm):
            hooks[name] = NormBranch(
                [(which, _norm_change(entry, module)) for which, entry in entries], strengths
            )
        else:
            try:
                hooks[name] = build_branch(module, _size(module), entries, strengths)
            except CheckpointError as error:
                names = " or ".join(dict.fromkeys(str(files[which].path) for which, _ in entries))
                raise CheckpointError(f"{names}: {error}") from None
    _remove(modules)
    for name, hook in hooks.items():
        modules[name].register_forward_hook(hook)
    model.__dict__[STATE] = _State(files, strengths, hooks, plan.report)
    _log(plan.report)
    return plan.report


def match_loras(
    model: nn.Module, loras: Sequence[tuple[Lora, float]], *, merge: bool = False
) -> Report:
    """What `set_loras` (or with `merge` `merge_lora`) would report or refuse; changes nothing.

    Args:
        model: also a network of a host's with the published names of layers.
    """
    files, strengths = _checked(loras)
    modules = dict(model.named_modules())
    plan = _plan(modules, files, strengths)
    if merge:
        for name in plan.layers:
            _check_plain(name, modules[name])
    _log(plan.report)
    return plan.report


def loras_on(model: nn.Module) -> list[tuple[Lora, float]]:
    """The LoRAs that `set_loras` has set on a model, with their strengths."""
    state = model.__dict__.get(STATE)
    if not isinstance(state, _State):
        return []
    return list(zip(state.loras, state.strengths, strict=True))


@contextmanager
def loras_for_now(model: nn.Module, loras: Sequence[tuple[Lora, float]]) -> Iterator[Report]:
    """`set_loras` for as long as this lasts; afterwards what was set before acts again.

    Raises:
        CheckpointError, InputError: as `set_loras`; nothing has changed then.
    """
    kept = [(module, module._forward_hooks.copy()) for module in model.modules()]
    before = model.__dict__.pop(STATE, None)
    try:
        yield set_loras(model, loras)
    finally:
        for module, hooks in kept:
            module._forward_hooks.clear()
            module._forward_hooks.update(hooks)
        model.__dict__.pop(STATE, None)
        if before is not None:
            model.__dict__[STATE] = before


def release_factors(model: nn.Module) -> None:
    """Free the device memory the LoRAs' factors take, for a model that is moved off its device.

    What is set stays set: the next forward brings the factors to its device again.
    """
    for module in model.modules():
        for hook in module._forward_hooks.values():
            if isinstance(hook, LayerBranch):
                hook.release()


def merge_lora(model: nn.Module, loras: Sequence[tuple[Lora, float]]) -> Report:
    """Add LoRAs to the model's own weights for good; computed in float32, cast back.

    Takes effect beside branches that are set, and is not undone by `set_loras`.

    Raises:
        CheckpointError: a LoRA's tensors don't fit the model's layers; names the key.
        InputError: a strength that is not a finite number, or a layer whose weights are packed
            (GGUF, fp8): nothing is changed then.
    """
    files, strengths = _checked(loras)
    modules = dict(model.named_modules())
    plan = _plan(modules, files, strengths)
    for name in plan.layers:
        _check_plain(name, modules[name])
    with torch.inference_mode(False), torch.no_grad():
        for name, entries in plan.layers.items():
            module = modules[name]
            if isinstance(module, RMSNorm):
                gain = module.scale.detach().float().clone()
                for which, entry in entries:
                    gain += strengths[which] * _norm_change(entry, module).to(gain.device)
                module.scale = _like(module.scale, gain)
            else:
                _merge_layer(module, entries, strengths)
    _log(plan.report)
    return plan.report


def _merge_layer(
    module: nn.Module, entries: Sequence[tuple[int, Entry]], strengths: Sequence[float]
) -> None:
    size = _size(module)
    original = weight_of(module)
    merged: Tensor | None = None
    shift: Tensor | None = None
    for which, entry in entries:
        strength = strengths[which]
        if not strength:
            continue
        rows = entry.target.rows(*size)
        if entry.kind == "bias":
            if shift is None:
                shift = torch.zeros(size[0], device=original.device)
            target, change = shift, entry.tensors["diff_b"].float().reshape(-1) * entry.scale
        else:
            if merged is None:
                merged = original.clone()
            own = torch.cat([original[start:stop] for start, stop in rows])
            target, change = merged, delta(entry, own)
        at = 0
        for start, stop in rows:
            piece = change[at : at + stop - start].to(target.device)
            target[start:stop].add_(piece, alpha=strength)
            at += stop - start
    if merged is not None:
        module.weight = _like(module.weight, merged)
    if shift is not None:
        bias = getattr(module, "bias", None)
        total = shift if bias is None else bias.detach().float() + shift
        module.bias = _like(module.weight if bias is None else bias, total)


def _like(old: object, new: Tensor) -> nn.Parameter:
    """A new parameter (never a write into what may be a mapped file) of the old one's dtype."""
    if not isinstance(old, Tensor):
        raise InputError(f"a layer's weight is {type(old).__name__}; expected a tensor")
    return nn.Parameter(new.to(old.dtype), requires_grad=old.requires_grad)


def _checked(loras: Sequence[tuple[Lora, float]]) -> tuple[tuple[Lora, ...], list[float]]:
    for lora, strength in loras:
        if isinstance(strength, bool) or not isinstance(strength, int | float):
            raise InputError(f"{lora.path}: strength is {strength!r}; expected a number")
        if not math.isfinite(strength):
            raise InputError(f"{lora.path}: strength is {strength}; expected a finite number")
    return tuple(lora for lora, _ in loras), [float(strength) for _, strength in loras]


def _plan(
    modules: dict[str, nn.Module], loras: Sequence[Lora], strengths: Sequence[float]
) -> _Plan:
    plan = _Plan()
    parts: list[LoraReport] = []
    depths = {kind: _depth(modules, kind) for kind in ("double_blocks", "single_blocks")}
    for which, lora in enumerate(loras):
        refuse_deeper(lora.path, lora.entries, depths)
        unmatched = list(lora.unmatched)
        layers: set[str] = set()
        matched = 0
        for entry in lora.entries:
            name = entry.target.module
            module = modules.get(name)
            if module is None:
                unmatched.append(entry.key)
                continue
            _check_fit(lora, entry, module)
            plan.layers.setdefault(name, []).append((which, entry))
            layers.add(name)
            matched += 1
        parts.append(
            LoraReport(
                str(lora.path),
                lora.format,
                strengths[which],
                lora.rank,
                matched,
                len(layers),
                tuple(unmatched),
                lora.text_encoder,
                lora.notes,
            )
        )
    plan.report = Report(tuple(parts))
    return plan


def _depth(modules: dict[str, nn.Module], kind: str) -> int:
    found = modules.get(kind)
    return len(found) if isinstance(found, nn.ModuleList) else 0


def _size(module: nn.Module) -> tuple[int, int]:
    out, width = getattr(module, "out_features", None), getattr(module, "in_features", None)
    if not isinstance(out, int) or not isinstance(width, int):
        raise InputError(f"{type(module).__name__} is not a linear layer")
    return out, width


def _gain(module: nn.Module) -> Tensor | None:
    """The gain of a norm, ours or a host's; None for a layer that is something else."""
    if isinstance(module, RMSNorm):
        return module.scale
    if hasattr(module, "out_features"):
        return None
    gain = getattr(module, "scale", None)
    gain = getattr(module, "weight", None) if gain is None else gain
    return gain if isinstance(gain, Tensor) and gain.ndim == 1 else None


def _check_fit(lora: Lora, entry: Entry, module: nn.Module) -> None:
    """The entry's rows and columns are those of its part of the layer."""
    rows, columns = expected_shape(entry)
    where = entry.target.module
    gain = _gain(module)
    if gain is not None:
        if entry.kind not in ("diff", "set") or gain.numel() != rows or columns is not None:
            raise CheckpointError(
                f"{lora.path}: {entry.key} is for the norm {where}, of {gain.numel()} "
                f"numbers, and changes {rows}; expected a LoRA for this model"
            )
        return
    size = _size(module)
    ranges = entry.target.rows(*size)
    has = sum(stop - start for start, stop in ranges)
    flat = entry.kind in ("diff", "set") and columns is None
    if rows != has or flat or (columns is not None and columns != size[1]):
        found = f"{rows} x {columns}" if columns is not None else f"{rows}"
        advice = "use one trained for FLUX.1 [dev] or Kontext"
        if where == "img_in" and columns is not None and columns > size[1]:
            advice = (
                "its wider img_in is that of FLUX.1 Fill, Canny or Depth, which Kontext does not "
                "have: " + advice
            )
        raise CheckpointError(
            f"{lora.path}: {entry.key} changes {found}; {where} of this model has "
            f"{has} x {size[1]}. The LoRA is for a model of another size: {advice}"
        )
    if entry.magnitude is not None and entry.magnitude.numel() != (
        has if on_rows(entry, has) else size[1]
    ):
        raise CheckpointError(
            f"{lora.path}: {entry.key} has {entry.magnitude.numel()} DoRA lengths; expected {has} "
            f"(rows) or {size[1]} (columns). The file is damaged"
        )


def _check_plain(name: str, module: nn.Module) -> None:
    if _gain(module) is not None:
        return
    weight = getattr(module, "weight", None)
    packed = isinstance(module, QuantLinear) or (
        isinstance(module, ScaledLinear) and module.scale is not None
    )
    if packed or not isinstance(weight, Tensor) or weight.dtype not in FLOATS:
        stored = getattr(module, "kind", None) or getattr(weight, "dtype", "packed")
        raise InputError(
            f"{name} is stored as {stored}: merging would round every weight anew. Use the LoRA as "
            "a branch (exact, and strength can change), or merge it into the bf16 model and "
            "quantize that"
        )


def _norm_change(entry: Entry, module: RMSNorm) -> Tensor:
    value = entry.tensors[entry.kind].float().reshape(-1)
    return value - module.scale.detach().float().cpu() if entry.kind == "set" else value


def _intact(modules: dict[str, nn.Module], hooks: dict[str, Hook]) -> bool:
    return all(
        name in modules and hook in modules[name]._forward_hooks.values()
        for name, hook in hooks.items()
    )


def _remove(modules: dict[str, nn.Module]) -> None:
    # By type, not by handle: a deep copy of a model has hooks and no handles.
    for module in modules.values():
        for key, hook in list(module._forward_hooks.items()):
            if isinstance(hook, Hook):
                del module._forward_hooks[key]


def _log(report: Report) -> None:
    for part in report.loras:
        level = logging.WARNING if part.unmatched or not part.matched else logging.INFO
        for line in part.lines():
            logger.log(level, "%s", line)
