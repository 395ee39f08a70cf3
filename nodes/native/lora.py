"""This pack's LoRAs on any MODEL: as branches on ours, as the host's own patches elsewhere.

A branch is exact on every kind of weights, and another strength reloads nothing. The host's patches are
what its own LoRA nodes make: merged into plain weights on loading. They let files that the host does not
read (fal's, XLabs', USO's) act on a Flux that the host has loaded, by the same formulas as on ours.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...kontext_core.errors import InputError
from .model import KontextModel
from .sockets import sockets

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from ...kontext_core.lora.factors import Entry
    from ...kontext_core.lora.load import Lora
    from ...kontext_core.lora.report import LoraReport


def add_lora(
    model: Any, lora: Lora, strength: float, *, merge: bool = False
) -> tuple[Any, LoraReport, list[str]]:
    """A MODEL with one more LoRA, what of it matched, and notes for the user. `model` itself and
    the network it may share with others stay as they are until it is loaded.

    Args:
        merge: into the weights, where the MODEL would take a branch too.

    Raises:
        CheckpointError: the LoRA does not fit the network.
        InputError: not a Flux, or a LoRA that can't be merged into these weights.
    """
    if isinstance(model, KontextModel) or type(model).__name__ == "KontextModel":
        patched, report = (model.merged if merge else model.with_lora)(lora, strength)
        return patched, report, []
    from ...kontext_core.lora.apply import match_loras
    from ...kontext_core.models.flux import Flux
    from .patcher import loras_of, with_loras

    network = _network(model)
    ours = isinstance(network, Flux)
    report = match_loras(network, [(lora, strength)], merge=merge and ours).loras[-1]
    if ours and not merge:
        return with_loras(model, (*loras_of(model), (lora, strength))), report, []
    other = model.clone()
    for patches in host_patches(other.model, "diffusion_model", lora.path, lora.entries):
        other.add_patches(patches, strength)
    note = "this MODEL is the host's: the LoRA is merged into its weights, as the host's own are"
    return other, report, [] if ours else [note]


def _network(model: Any) -> Any:
    """The Flux in a MODEL of the host's.

    Raises:
        InputError: it holds something else.
    """
    inner = getattr(model, "model", None)
    network = getattr(inner, "diffusion_model", None)
    if sockets().foreign and hasattr(network, "double_blocks"):
        import comfy.model_base

        if isinstance(inner, comfy.model_base.Flux):
            return network
    raise InputError(
        f"this MODEL is a {type(inner if inner is not None else model).__name__}; Kontext: Load "
        "LoRA knows FLUX.1. Connect Kontext: Load Model, or the host's Load Diffusion Model with a "
        "FLUX.1 file; for other models take the host's own LoRA loader"
    )


def host_patches(
    model: nn.Module, root: str, source: Path, entries: Iterable[Entry]
) -> Iterator[dict[Any, Any]]:
    """Sets of patches for the host's `add_patches`; no set changes the same weight twice.

    Args:
        model: what the host's patcher holds.
        root: of the entries' layers in it.
        source: the LoRA's file, for messages.

    Raises:
        InputError: a change of a bias that the layer does not have.
    """
    known = model.state_dict().keys()
    made: dict[str, Any] = {}
    for entry in entries:
        path = f"{root}.{entry.target.module}"
        try:
            module: Any = model.get_submodule(path)
        except AttributeError:
            # The report has said so.
            continue
        rows = None
        if hasattr(module, "out_features"):
            rows = entry.target.rows(module.out_features, module.in_features)
        names = ("bias",) if entry.kind == "bias" else ("weight", "scale")
        key = next((f"{path}.{name}" for name in names if f"{path}.{name}" in known), None)
        if key is None:
            raise InputError(
                f"{source}: {entry.key} changes a bias that {path} does not have; use a LoRA that was "
                "made for FLUX.1 [dev] or Kontext"
            )
        if key in made:
            yield made
            made = {}
        tensors = tuple(entry.tensors.values())
        made[key] = _adapter()((), (entry, rows, tensors, entry.magnitude))
    if made:
        yield made


@functools.cache
def _adapter() -> Any:
    import comfy.weight_adapter
    import torch

    from ...kontext_core.lora.factors import delta

    base: Any = comfy.weight_adapter.WeightAdapterBase

    class EntryAdapter(base):
        """One change of one layer by the core's own formula, as a patch of the host's.

        The host may build another from `loaded_keys` and `weights` with its tensors elsewhere.
        """

        name = "kontext"

        def __init__(self, loaded_keys: Any, weights: Any) -> None:
            self.loaded_keys, self.weights = loaded_keys, weights

        def calculate_weight(
            self, weight: Tensor, key: str, strength: float, *_: Any, **__: Any
        ) -> Tensor:
            """The changed weight [rows, columns], bias or gain; `weight` may be written to."""
            entry, rows, tensors, magnitude = self.weights
            named = dict(zip(entry.tensors, tensors, strict=True))
            entry = replace(entry, tensors=named, magnitude=magnitude)
            rows = ((0, len(weight)),) if rows is None else rows
            if entry.kind == "bias":
                change = named["diff_b"].float().reshape(-1) * entry.scale
            else:
                change = delta(entry, torch.cat([weight[a:b] for a, b in rows]).float())
            at = 0
            for start, stop in rows:
                part = change[at : at + stop - start].to(weight.device, weight.dtype)
                weight[start:stop].add_(part, alpha=strength)
                at += stop - start
            return weight

    return EntryAdapter
