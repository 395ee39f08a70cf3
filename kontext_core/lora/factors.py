"""What each kind of LoRA adds to a weight: the formulas, densely, in float32.

This is the plain twin of `branch`. Sources: LoRA (arXiv 2106.09685), DoRA (2402.09353), LoHa
(2108.06098) and LoKr as in LyCORIS (2309.14859), OFT (2306.07280), GLoRA (2306.07967). Where
trainers and loaders differ, the choice is ComfyUI's, so that a file gives the same picture.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import CheckpointError
from .formats_names import Target


@dataclass(frozen=True, eq=False)
class Entry:
    """One change of one layer, as stored.

    Attributes:
        key: the layer's name in the file.
        target: the layer of ours, and which of its rows.
        kind: a key of `formats.KINDS`; "bias" changes the bias, the others the weight.
        tensors: by role, unread (views on the file).
        scale: factor on the product, alpha / rank by the format's rule.
        constraint: OFT's bound on the norm of its blocks, 0 for none.
        magnitude: DoRA's row or column lengths, or None.
        magnitude_of_sum: lengths are measured on weight + change (PEFT) instead of ComfyUI's rule.
    """

    key: str
    target: Target
    kind: str
    tensors: Mapping[str, Tensor]
    scale: float = 1.0
    constraint: float = 0.0
    magnitude: Tensor | None = None
    magnitude_of_sum: bool = False

    @property
    def needs_weight(self) -> bool:
        """Whether the change depends on the weight it is added to."""
        return self.kind in ("glora", "oft", "set") or self.magnitude is not None


def delta(entry: Entry, weight: Tensor) -> Tensor:
    """The change at strength 1.

    Args:
        weight: float32 [rows, columns], the rows the entry is for, in the file's order.

    Returns:
        float32, shaped as `weight`; the weight at strength s is weight + s * delta.
    """
    if entry.magnitude is None:
        return raw_delta(entry, weight)
    gain = dora_gain(entry, weight)
    return (weight + raw_delta(entry, weight)) * gain - weight


def raw_delta(entry: Entry, weight: Tensor) -> Tensor:
    """`delta` without DoRA."""
    t = {role: tensor.to(weight.device).float() for role, tensor in entry.tensors.items()}
    if entry.kind == "lora":
        up, down = factor_pairs(entry)[0]
        return (up.to(weight.device) @ down.to(weight.device)) * entry.scale
    if entry.kind == "loha":
        (a1, b1), (a2, b2) = factor_pairs(entry)
        device = weight.device
        product = (a1.to(device) @ b1.to(device)) * (a2.to(device) @ b2.to(device))
        return product * entry.scale
    if entry.kind == "lokr":
        w1, w2 = (w.to(weight.device) for w in kron_factors(entry))
        return torch.kron(w1, w2) * entry.scale
    if entry.kind == "glora":
        (up_a, down_a), (up_b, down_b) = glora_pairs(entry, weight)
        return (up_a @ down_a + up_b @ down_b) * entry.scale
    if entry.kind == "oft":
        turned = rotate(weight.T, rotation(entry).to(weight.device)).T
        if "rescale" in t:
            turned = turned * t["rescale"].reshape(-1, 1)
        return turned - weight
    if entry.kind == "set":
        return t["set"].reshape(weight.shape) - weight
    return t["diff"].reshape(weight.shape)


def factor_pairs(entry: Entry) -> list[tuple[Tensor, Tensor]]:
    """(up [rows, rank], down [rank, columns]) float32: one pair for LoRA, two for LoHa.

    1x1 convolution kernels are flattened; Tucker cores (`lora_mid`, `hada_t*`) are multiplied in.
    """
    t = {role: tensor.float() for role, tensor in entry.tensors.items()}
    if entry.kind == "lora":
        down = t["down"].flatten(1)
        if "mid" in t:
            down = t["mid"].flatten(1) @ down
        return [(t["up"].flatten(1), down)]
    pairs = []
    for n in "12":
        a, b = t[f"hada_w{n}_a"].flatten(1), t[f"hada_w{n}_b"].flatten(1)
        if f"hada_t{n}" in t:
            # With a core, LyCORIS stores a as [rank, rows].
            a = a.T @ t[f"hada_t{n}"].flatten(1)
        pairs.append((a, b))
    return pairs


def kron_factors(entry: Entry) -> tuple[Tensor, Tensor]:
    """LoKr's two matrices, float32, products of their own factors where stored so."""
    t = {role: tensor.float().flatten(1) for role, tensor in entry.tensors.items()}
    w1 = t["lokr_w1"] if "lokr_w1" in t else t["lokr_w1_a"] @ t["lokr_w1_b"]
    if "lokr_w2" in t:
        return w1, t["lokr_w2"]
    a, b = t["lokr_w2_a"], t["lokr_w2_b"]
    if "lokr_t2" in t:
        a = a.T @ t["lokr_t2"]
    return w1, a @ b


def glora_pairs(entry: Entry, weight: Tensor) -> list[tuple[Tensor, Tensor]]:
    """GLoRA as two low-rank products: W A1 A2 + B1 B2 (old files: W A2 A1 + B2 B1)."""
    a1, a2, b1, b2 = (
        entry.tensors[f"glora_{name}"].to(weight.device).float().flatten(1)
        for name in ("a1", "a2", "b1", "b2")
    )
    if glora_is_old(entry):
        return [(weight @ a2, a1), (b2, b1)]
    return [(weight @ a1, a2), (b1, b2)]


def glora_is_old(entry: Entry) -> bool:
    """Whether the file stores GLoRA's factors the other way round, as old LyCORIS did.

    The rank stands where the factors meet. Where all are square both readings fit, and ComfyUI
    takes the old one.
    """
    a1, a2, b1, b2 = (
        entry.tensors[f"glora_{name}"].flatten(1).shape for name in ("a1", "a2", "b1", "b2")
    )
    return b2[1] == b1[0] == a1[0] == a2[1]


def rotation(entry: Entry) -> Tensor:
    """OFT's orthogonal blocks [blocks, size, size] by the Cayley transform of their stored halves."""
    blocks = entry.tensors["oft_blocks"].float()
    skew = blocks - blocks.transpose(1, 2)
    if entry.constraint > 0:
        norm = float(skew.norm()) + 1e-8
        if norm > entry.constraint:
            skew = skew * (entry.constraint / norm)
    eye = torch.eye(blocks.shape[-1])
    # Cayley's inverse exists for every finite skew matrix; numbers too large for float32 are none.
    inverse, failed = torch.linalg.inv_ex(eye - skew)
    turned = (eye + skew) @ inverse
    if bool(failed.any()) or not bool(torch.isfinite(turned).all()):
        raise CheckpointError(
            f"{entry.key}: its OFT blocks hold NaN or numbers too large to make a rotation of; the "
            "file is damaged, or its training diverged: use another"
        )
    return turned


def rotate(y: Tensor, blocks: Tensor) -> Tensor:
    """Turn the last dimension of y [..., rows] by blocks [count, size, size] (rows = count*size)."""
    count, size, _ = blocks.shape
    parts = y.reshape(*y.shape[:-1], count, size)
    return torch.einsum("knm,...kn->...km", blocks, parts).reshape(y.shape)


def dora_gain(entry: Entry, weight: Tensor) -> Tensor:
    """DoRA's factor, [rows, 1] or [1, columns]: stored length over present length.

    ComfyUI measures rows on the original weight and columns on weight + change; PEFT measures
    rows on weight + change. Each file is read by the rule of those who wrote it.
    """
    if entry.magnitude is None:
        raise ValueError(f"{entry.key} has no magnitude")
    stored = entry.magnitude.to(weight.device).float()
    eps = torch.finfo(torch.float32).eps
    if entry.magnitude_of_sum:
        changed = weight + raw_delta(entry, weight)
        return stored.reshape(-1, 1) / changed.norm(dim=1, keepdim=True)
    if on_rows(entry, len(weight)):
        return stored.reshape(-1, 1) / (weight.norm(dim=1, keepdim=True) + eps)
    changed = weight + raw_delta(entry, weight)
    return stored.reshape(1, -1) / (changed.norm(dim=0, keepdim=True) + eps)


def is_finite(value: Tensor) -> bool:
    """Whether a floating tensor holds numbers only; read once, without a copy where that is possible."""
    plain = value if value.dtype.itemsize > 1 else value.float()
    # A sum is not finite if a part of it isn't; that of large numbers may not be either.
    dtype = torch.float64 if plain.dtype == torch.float64 else torch.float32
    return math.isfinite(float(plain.sum(dtype=dtype))) or bool(torch.isfinite(plain).all())


def on_rows(entry: Entry, rows: int) -> bool:
    """Whether DoRA's lengths are of rows (outputs); else of columns."""
    if entry.magnitude is None:
        return False
    return entry.magnitude_of_sum or entry.magnitude.shape[0] == rows


def expected_shape(entry: Entry) -> tuple[int, int | None]:
    """(rows, columns) of the weight the stored tensors are for; columns None where any fit.

    Raises:
        CheckpointError: factors that don't fit each other.
    """
    shapes = {role: tuple(t.flatten(1).shape) for role, t in entry.tensors.items() if t.ndim > 1}
    if entry.kind == "bias":
        return entry.tensors["diff_b"].numel(), None
    if entry.kind == "oft":
        count, size = entry.tensors["oft_blocks"].shape[:2]
        if entry.tensors["oft_blocks"].shape[2] != size:
            raise CheckpointError(
                f"{entry.key}: OFT blocks of {list(entry.tensors['oft_blocks'].shape)}; expected "
                "square ones. The file is damaged"
            )
        rescale = entry.tensors.get("rescale")
        if rescale is not None and rescale.numel() not in (1, count * size):
            raise CheckpointError(
                f"{entry.key}: {rescale.numel()} lengths (rescale) for {count * size} rows of OFT; "
                "expected one for each. The file is damaged"
            )
        return count * size, None
    if entry.kind in ("diff", "set"):
        tensor = entry.tensors[entry.kind]
        return (len(tensor), None) if tensor.ndim == 1 else shapes[entry.kind]  # pyright: ignore
    if entry.kind == "lora":
        chain = [role for role in ("up", "mid", "down") if role in shapes]
        for left, right in itertools.pairwise(chain):
            _join(entry, left, shapes[left], right, shapes[right])
        return shapes["up"][0], shapes["down"][1]
    if entry.kind == "glora":
        names = ("b2", "b1", "a2", "a1") if glora_is_old(entry) else ("b1", "b2", "a1", "a2")
        b_up, b_down, a_up, a_down = (f"glora_{name}" for name in names)
        _join(entry, b_up, shapes[b_up], b_down, shapes[b_down])
        _join(entry, a_up, shapes[a_up], a_down, shapes[a_down])
        if not shapes[a_up][0] == shapes[a_down][1] == shapes[b_down][1]:
            raise CheckpointError(
                f"{entry.key}: GLoRA's factors {a_up} {list(shapes[a_up])}, {a_down} "
                f"{list(shapes[a_down])} and {b_down} {list(shapes[b_down])} are not for inputs of "
                "one size; the file is damaged or cut together from two"
            )
        return shapes[b_up][0], shapes[b_down][1]
    if entry.kind == "loha":
        sizes = {_product_shape(entry, shapes, f"hada_w{n}", f"hada_t{n}") for n in "12"}
        if len(sizes) > 1:
            raise CheckpointError(
                f"{entry.key}: the two products of this LoHa have shapes {sorted(sizes)}; expected "
                "the same. The file is damaged"
            )
        return sizes.pop()
    first = _product_shape(entry, shapes, "lokr_w1", "lokr_t1")
    second = _product_shape(entry, shapes, "lokr_w2", "lokr_t2")
    return first[0] * second[0], first[1] * second[1]


def _product_shape(
    entry: Entry, shapes: Mapping[str, tuple[int, ...]], name: str, core: str
) -> tuple[int, int]:
    if name in shapes:
        return shapes[name][0], shapes[name][1]
    a, b = shapes[f"{name}_a"], shapes[f"{name}_b"]
    if core in shapes:
        a = (a[1], a[0])
        _join(entry, f"{name}_a", a, core, shapes[core])
        _join(entry, core, shapes[core], f"{name}_b", b)
    else:
        _join(entry, f"{name}_a", a, f"{name}_b", b)
    return a[0], b[1]


def _join(entry: Entry, left: str, a: tuple[int, ...], right: str, b: tuple[int, ...]) -> None:
    if a[1] != b[0]:
        raise CheckpointError(
            f"{entry.key}: {left} is {list(a)} and {right} is {list(b)}, which can't be multiplied; "
            "the file is damaged or cut together from two"
        )
