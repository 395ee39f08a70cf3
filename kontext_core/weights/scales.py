"""Scale tensors of fp8 and int8 weights, in the three forms ComfyUI has written them.

1. A plain cast has none. 2. Until late 2025: a marker `scaled_fp8` and `X.scale_weight` beside
`X.weight`. 3. Since: `X.weight_scale`, with the format in the header's `_quantization_metadata` or
in `X.comfy_quant`, JSON in a uint8 tensor. A weight is what is stored times its scale; scales for
activations (`scale_input`, `input_scale`) are for 8-bit matrix products and not used here.
"""

from __future__ import annotations

import json
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from .entry import TensorEntry, shown
from .source import WeightsFile

# What each known format stores.
SCALED_KINDS = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "int8_tensorwise": "I8"}
WEIGHT_SCALES = (".scale_weight", ".weight_scale")
UNUSED = (".scale_input", ".input_scale", ".comfy_quant")
MAX_JSON = 1 << 16
INSTEAD = "use its fp8, bf16 or GGUF version"


def take_scales(file: WeightsFile, names: dict[str, str]) -> dict[str, Tensor]:
    """Take everything that belongs to scaling out of `names`; give the scales by weight name.

    Args:
        file: where the tensors are.
        names: our name (prefix stripped) to the file's name; scale tensors are removed from it.

    Returns:
        `X.weight` to float32 scale: a single number (shape []), [rows] or [rows, 1].

    Raises:
        CheckpointError: a format that is not read, or a scale without weight or of a wrong shape.
    """
    _check_formats(file, names)
    scales: dict[str, Tensor] = {}
    for ours, source in list(names.items()):
        if ours == "scaled_fp8" or ours.endswith((".scaled_fp8", *UNUSED)):
            del names[ours]
        elif ours.endswith(WEIGHT_SCALES):
            del names[ours]
            layer = ours.rpartition(".")[0]
            weight = f"{layer}.weight"
            if weight not in names:
                raise CheckpointError(
                    f"{file.path}: {shown(source)} is a scale without its weight "
                    f"{shown(weight)}; download the file again"
                )
            scales[weight] = _scale(file, source, file.entries[names[weight]])
    return scales


def _scale(file: WeightsFile, source: str, weight: TensorEntry) -> Tensor:
    scale = file.entries[source]
    rows = weight.shape[0] if weight.shape else 1
    if scale.kind not in ("F32", "F16", "BF16", "F64") or scale.shape not in (
        (), (1,), (1, 1), (rows,), (rows, 1),
    ):  # fmt: skip
        raise CheckpointError(
            f"{file.path}: {shown(source)} is {scale.kind} {list(scale.shape)} for a weight of "
            f"{list(weight.shape)}; expected one float32 scale, or one per row. Block-scaled "
            f"formats (nvfp4, mxfp8) are not read: {INSTEAD}"
        )
    if weight.kind not in ("F8_E4M3", "F8_E5M2", "I8", "F16", "BF16", "F32"):
        raise CheckpointError(
            f"{file.path}: {shown(weight.name)} is {weight.kind} with a scale beside it; expected "
            f"fp8 or int8 numbers. Packed 4-bit formats are not read: {INSTEAD}"
        )
    tensor = file.tensor(source).float()
    return tensor.reshape(()) if tensor.numel() == 1 else tensor


def _check_formats(file: WeightsFile, names: dict[str, str]) -> None:
    header = file.metadata.get("_quantization_metadata")
    if isinstance(header, str):
        layers = _json(file, "_quantization_metadata", header).get("layers")
        if not isinstance(layers, dict):
            raise CheckpointError(
                f"{file.path}: _quantization_metadata has no layers; expected a format for each. "
                "Download the file again"
            )
        here = names.keys() | set(names.values())
        for layer, form in layers.items():
            # Another network of the file may be in a form that is not read; that is its matter.
            if f"{layer}.weight" in here:
                _check_format(file, layer, form)
    for ours, source in names.items():
        if ours.endswith(".comfy_quant"):
            entry = file.entries[source]
            if entry.kind != "U8" or entry.nbytes > MAX_JSON:
                raise CheckpointError(
                    f"{file.path}: {shown(source)} is {entry.kind} {list(entry.shape)}; expected "
                    "a short JSON text as uint8. Download the file again"
                )
            text = bytes(file.tensor(source).tolist()).decode("utf-8", errors="replace")
            _check_format(file, source.removesuffix(".comfy_quant"), _json(file, source, text))


def _check_format(file: WeightsFile, layer: str, form: Any) -> None:
    if not isinstance(form, dict):
        form = {}
    name = form.get("format")
    inner = form.get("params")
    rotated = form.get("convrot") or (isinstance(inner, dict) and inner.get("convrot"))
    if not isinstance(name, str) or name not in SCALED_KINDS or rotated:
        turned = " with rotated columns" if rotated else ""
        raise CheckpointError(
            f"{file.path}: layer {shown(layer)} is quantized as {shown(name, 40)}{turned}; expected "
            f"{', '.join(SCALED_KINDS)}. It is not read: {INSTEAD}"
        )


def _json(file: WeightsFile, name: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{file.path}: {shown(name)} is not a JSON object; download the file again"
        )
    return value
