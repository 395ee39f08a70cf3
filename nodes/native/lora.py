"""This pack's LoRAs on any MODEL: as branches on ours, as the host's own patches elsewhere.

A branch is exact on every kind of weights, and another strength reloads nothing. The host's patches are
what its own LoRA nodes make: merged into plain weights on loading. They let files that the host does not
read (fal's, XLabs', USO's, XLabs-like names) act on a Flux that the host has loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ...kontext_core.errors import InputError
from ..host import ComfyHost, get_host
from .model import KontextModel

if TYPE_CHECKING:
    from torch import Tensor

    from ...kontext_core.lora.factors import Entry
    from ...kontext_core.lora.load import Lora
    from ...kontext_core.lora.report import LoraReport

__all__ = ["add_lora"]

# Our roles in the words of the host's own loader of LoRA files.
ROLES = {
    "up": "lora_up.weight",
    "down": "lora_down.weight",
    "glora_a1": "a1.weight",
    "glora_a2": "a2.weight",
    "glora_b1": "b1.weight",
    "glora_b2": "b2.weight",
    "set": "set_weight",
}
# Tensors whose first dimension is the layer's rows.
BY_ROW = ("up", "hada_w1_a", "hada_w2_a", "diff", "diff_b", "set")
NORM_NAMES = ("scale", "weight")


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
    for patches in _host_patches(other, network, lora, strength):
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
    if isinstance(get_host(), ComfyHost) and hasattr(network, "double_blocks"):
        import comfy.model_base

        if isinstance(inner, comfy.model_base.Flux):
            return network
    raise InputError(
        f"this MODEL is a {type(inner if inner is not None else model).__name__}; Kontext: Load "
        "LoRA knows FLUX.1. Connect Kontext: Load Model, or the host's Load Diffusion Model with a "
        "FLUX.1 file; for other models take the host's own LoRA loader"
    )


def _host_patches(
    model: Any, network: Any, lora: Lora, strength: float
) -> Iterator[dict[Any, Any]]:
    """Sets of patches for the host's `add_patches`; no set changes the same rows twice."""
    known = model.model.state_dict().keys()
    made: dict[Any, Any] = {}
    for entry in lora.entries:
        path = f"diffusion_model.{entry.target.module}"
        norms = [f"{path}.{name}" for name in NORM_NAMES if f"{path}.{name}" in known]
        try:
            module = network.get_submodule(entry.target.module)
        except AttributeError:
            # The report has said so.
            continue
        if hasattr(module, "out_features"):
            rows = entry.target.rows(module.out_features, module.in_features)
            key: Any = f"{path}.{'bias' if entry.kind == 'bias' else 'weight'}"
            if key not in known:
                raise _refused(lora, entry, "its layer has no bias here")
            if len(rows) == 1 and rows[0] != (0, module.out_features):
                start, stop = rows[0]
                key = (key, (0, start, stop - start))
        else:
            key, rows = norms[0], ((0, 1),)
        if key in made:
            yield made
            made = {}
        made |= _patch(lora, entry, key, rows, strength)
    if made:
        yield made


def _patch(
    lora: Lora, entry: Entry, key: Any, rows: Sequence[tuple[int, int]], strength: float
) -> dict[Any, Any]:
    """One change of one layer in the host's words, by the host's own reading of such tensors."""
    import torch

    from ...kontext_core.lora.factors import factor_pairs

    tensors: dict[str, Tensor] = dict(entry.tensors)
    magnitude = entry.magnitude
    if entry.magnitude_of_sum:
        raise _refused(lora, entry, "the host has no DoRA that is measured as PEFT does")
    if entry.kind == "set" and strength != 1.0:
        raise _refused(lora, entry, "the host replaces weights at strength 1 only")
    if "mid" in tensors:
        tensors = dict(zip(("up", "down"), factor_pairs(entry)[0], strict=True))
    if len(rows) > 1:
        if set(tensors) - {*BY_ROW, "down", "hada_w1_b", "hada_w2_b"} or magnitude is not None:
            raise _refused(lora, entry, "the host can't swap the halves of its layer")
        (start, stop), _ = rows
        # The file's first half is for the layer's second.
        tensors = {
            role: torch.cat([value[stop - start :], value[: stop - start]])
            if role in BY_ROW
            else value
            for role, value in tensors.items()
        }
    if entry.kind == "bias":
        return {key: ("diff", (tensors["diff_b"].float().reshape(-1) * entry.scale,))}
    return _host_load(entry, tensors, magnitude, key)


def _host_load(
    entry: Entry, tensors: dict[str, Tensor], magnitude: Tensor | None, key: Any
) -> dict[Any, Any]:
    import comfy.lora
    import torch

    name = "kontext"
    file = {f"{name}.{ROLES.get(role, role)}": value for role, value in tensors.items()}
    rank = _rank(entry, tensors)
    if rank is None and entry.scale != 1.0:
        # Without a rank the host does not look at alpha.
        file[f"{name}.lokr_w1"] = tensors["lokr_w1"].float() * entry.scale
    elif rank is not None:
        file[f"{name}.alpha"] = torch.tensor(entry.scale * rank)
    if entry.kind == "oft" and entry.constraint:
        file[f"{name}.alpha"] = torch.tensor(entry.constraint)
    if magnitude is not None:
        file[f"{name}.dora_scale"] = magnitude
    return comfy.lora.load_lora(file, {name: key})


def _rank(entry: Entry, tensors: dict[str, Tensor]) -> int | None:
    """What the host divides alpha by; None where it does not."""
    from ...kontext_core.lora.factors import glora_is_old

    for kind, role in (("lora", "down"), ("loha", "hada_w1_b")):
        if entry.kind == kind:
            return len(tensors[role])
    if entry.kind == "lokr":
        inner = tensors.get("lokr_w2_b", tensors.get("lokr_w1_b"))
        return None if inner is None else len(inner)
    if entry.kind == "glora":
        return len(tensors["glora_a1" if glora_is_old(entry) else "glora_a2"])
    return None


def _refused(lora: Lora, entry: Entry, why: str) -> InputError:
    return InputError(
        f"{lora.path}: {entry.key} can't become a patch of the host's: {why}. Load the model with "
        "Kontext: Load Model, and take mode 'branch'"
    )
