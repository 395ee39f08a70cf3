"""What `inspect` tells about a file: networks, sizes, kinds of weights, and the memory they take.

Memory of an edit is the weights as stored plus what one single-stream block keeps alive at once:
its input, the 7 D columns of `linear1`, rotated queries and keys and the attention's output, 11
tensors of L x D in half precision. L counts text and image tokens, D is the hidden size. Attention
scores are never kept whole. Text encoders and autoencoder run before and after, and are not in it.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict
from typing import Any

from ..errors import CheckpointError, KontextError
from ..lora.load import load_lora
from ..lora.origin import refuse_deeper
from .advice import MODEL_NAMES, what_is_it
from .detect import Contents, detect
from .fit import blueprint, left_over, note_of
from .sizes import autoencoder_params, flux_params
from .source import WeightsFile
from .state import State, read_state

TEXT_TOKENS = 512
SIDE = 1024
PIXELS_PER_TOKEN = 16
LIVE_TENSORS = 11
HALF = 2
REFERENCES = (0, 1, 2, 4)
LORA_DOWN = re.compile(r"(?:lora_A|lora_down|\.down|lora\.down)(?:\.[a-z]+)?\.weight$|\.lora_A$")


def activation_bytes(hidden: int, references: int, side: int = SIDE) -> int:
    """Bytes that one block keeps alive, batch 1, with references of the target's size.

    At FLUX.1's 3072 channels and 1024x1024 pixels: 588 MB with one reference, 1.42 GB with four.
    """
    tokens = TEXT_TOKENS + (1 + references) * (side // PIXELS_PER_TOKEN) ** 2
    return LIVE_TENSORS * tokens * hidden * HALF


def summary(file: WeightsFile) -> dict[str, Any]:
    """Plain values for JSON. Files that can't be used are described by `is` and `use`."""
    found = detect(file)
    told: dict[str, Any] = {
        "path": str(file.path),
        "format": file.format,
        "files": [path.name for path in file.files],
        "bytes": sum(entry.nbytes for entry in file.entries.values()),
        "tensors": len(file.entries),
        "kinds": _kinds(file, list(file.entries)),
        "metadata": _short_metadata(file),
        "networks": [_network(file, contents) for contents in found],
    }
    if not found:
        other = what_is_it(file)
        told["is"] = other.what if other else "nothing that is known here"
        told["use"] = other.instead if other else ""
    return told


def _network(file: WeightsFile, contents: Contents) -> dict[str, Any]:
    told: dict[str, Any] = {
        "role": contents.role,
        "name": MODEL_NAMES[contents.role],
        "layout": contents.layout,
        "prefix": contents.prefix,
    }
    if contents.role == "lora":
        try:
            lora = load_lora(file.files[0])
            refuse_deeper(lora.path, lora.entries, {})
        except KontextError as error:
            return {**told, "problem": str(error)}
        return {**told, **_lora(file), "format": lora.format, "notes": list(lora.notes)}
    try:
        state = read_state(file, contents)
        surplus = left_over(blueprint(contents, state), state, file.path)
        if surplus:
            told["notes"] = [note_of(surplus)]
            state = State(state.path, {k: w for k, w in state.items() if k not in surplus})
        told["parameters"] = sum(math.prod(weight.shape) for weight in state.values())
        told["bytes"] = sum(
            part.numel() * part.element_size() for w in state.values() for part in w.parts
        )
        told["kinds"] = _state_kinds(state)
        told["architecture"] = _architecture(contents.role, state)
    except CheckpointError as error:
        told["problem"] = str(error)
        return told
    if contents.role == "transformer":
        hidden = told["architecture"]["hidden_size"]
        told["memory"] = [
            {
                "references": count,
                "weights": told["bytes"],
                "activations": activation_bytes(hidden, count),
                "total": told["bytes"] + activation_bytes(hidden, count),
            }
            for count in REFERENCES
        ]
    return told


def _architecture(role: str, state: State) -> dict[str, Any]:
    if role == "transformer":
        return {"family": "FLUX.1", **asdict(flux_params(state))}
    if role == "autoencoder":
        sizes = asdict(autoencoder_params(state))
        # A bound of the embedded autoencoder's training, which no published file has.
        sizes.pop("decoder_side", None)
        return {"family": "Flux autoencoder", **sizes}
    if role == "t5":
        vocabulary, width = _shape(state, "shared.weight", 2)
        inner = _shape(state, "encoder.block.0.layer.1.DenseReluDense.wi_0.weight", 2)[0]
        blocks = {name.split(".")[2] for name in state if name.startswith("encoder.block.")}
        return {
            "family": "T5 v1.1 encoder",
            "vocabulary": vocabulary,
            "width": width,
            "feed_forward": inner,
            "layers": len(blocks),
        }
    if role == "clip_l":
        vocabulary, width = _shape(state, "text_model.embeddings.token_embedding.weight", 2)
        layers = {n.split(".")[3] for n in state if n.startswith("text_model.encoder.layers.")}
        return {
            "family": "CLIP text model",
            "vocabulary": vocabulary,
            "width": width,
            "layers": len(layers),
        }
    return {"family": "TAEF1"}


def _shape(state: State, name: str, axes: int) -> tuple[int, ...]:
    weight = state.get(name)
    if weight is None or len(weight.shape) != axes:
        raise CheckpointError(f"{state.path}: {name} is missing or misshapen; download it again")
    return weight.shape


def _lora(file: WeightsFile) -> dict[str, Any]:
    ranks = sorted(
        {
            entry.shape[0]
            for name, entry in file.entries.items()
            if entry.shape and LORA_DOWN.search(name)
        }
    )
    parts = {
        "LoKr": ".lokr_w",
        "LoHa": ".hada_w",
        "DoRA": ".dora_scale",
        "OFT": ".oft_",
        "full differences": ".diff",
    }
    algorithms = [word for word, part in parts.items() if any(part in n for n in file.entries)]
    return {
        "ranks": ranks,
        "algorithms": (["LoRA"] if ranks else []) + algorithms,
        "parameters": sum(math.prod(entry.shape) for entry in file.entries.values()),
        "bytes": sum(entry.nbytes for entry in file.entries.values()),
        "kinds": _kinds(file, list(file.entries)),
    }


def _kinds(file: WeightsFile, names: list[str]) -> dict[str, dict[str, int]]:
    kinds: dict[str, dict[str, int]] = {}
    for name in names:
        entry = file.entries[name]
        _add(kinds, entry.kind, math.prod(entry.shape), entry.nbytes)
    return kinds


def _state_kinds(state: State) -> dict[str, dict[str, int]]:
    kinds: dict[str, dict[str, int]] = {}
    for weight in state.values():
        nbytes = sum(part.numel() * part.element_size() for part in weight.parts)
        kind = f"{weight.kind} scaled" if weight.scale is not None else weight.kind
        _add(kinds, kind, math.prod(weight.shape), nbytes)
    return kinds


def _add(kinds: dict[str, dict[str, int]], kind: str, parameters: int, nbytes: int) -> None:
    counts = kinds.setdefault(kind, {"tensors": 0, "parameters": 0, "bytes": 0})
    counts["tensors"] += 1
    counts["parameters"] += parameters
    counts["bytes"] += nbytes


def _short_metadata(file: WeightsFile) -> dict[str, Any]:
    """Metadata that fits a line; the rest is named with its length."""
    short: dict[str, Any] = {}
    for key, value in file.metadata.items():
        if key.startswith("comfy.gguf.orig_shape."):
            continue
        if isinstance(value, str | int | float | bool):
            text = str(value)
            short[key] = value if len(text) <= 200 else f"({len(text)} characters)"
        elif isinstance(value, list):
            short[key] = value if len(value) <= 8 else f"({len(value)} values)"
        else:
            short[key] = f"({value.count} values)"
    return short
