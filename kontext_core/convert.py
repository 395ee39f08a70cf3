"""Quantizes a published transformer file into GGUF, a few rows at a time.

report = quantize_file("flux1-kontext-dev.safetensors", "kontext-Q4_K_M.gguf", "Q4_K_M")
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .errors import Cancelled, CheckpointError, InputError
from .quant.decode import dequantize
from .quant.encode import quantize_blocks
from .quant.mixes import Mix, find_mix, kind_for
from .quant.types import is_packed
from .weights.detect import require
from .weights.fit import blueprint, left_over
from .weights.install import plain
from .weights.source import open_weights
from .weights.state import Weight, read_state
from .weights.unchanged import check_unchanged
from .weights.write_gguf import GgufTensor, GgufWriter

log = logging.getLogger(__name__)

# Numbers decoded and packed at once: 16 MiB in float32.
GROUP = 1 << 22
# Version of the block layouts, ggml's GGML_QNT_VERSION.
QUANTIZATION_VERSION = 2


@dataclass(frozen=True)
class QuantizeReport:
    """What was written.

    Attributes:
        path: the new file.
        mix: name of its type.
        numbers: parameters in it.
        bytes_before: of the source's parameters; `bytes_after`: of the new file.
        kinds: tensors of each ggml type.
    """

    path: Path
    mix: str
    numbers: int
    bytes_before: int
    bytes_after: int
    kinds: Mapping[str, int]

    @property
    def sizes(self) -> str:
        """Parameters and bytes in words, in the unit that suits a model of this size."""
        number, unit, word = 1e9, "GB", "billion"
        if max(self.bytes_before, self.bytes_after) < 1e8:
            number, unit, word = 1e6, "MB", "million"
        return (
            f"{self.numbers / number:.2f} {word} parameters, "
            f"{self.bytes_before / number:.2f} -> {self.bytes_after / number:.2f} {unit}"
        )

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.items())
        return (
            f"{self.path}: {self.mix}, {self.sizes}, "
            f"{8 * self.bytes_after / max(1, self.numbers):.2f} bits each ({kinds})"
        )


def quantize_file(
    src: str | Path,
    dst: str | Path,
    kind_or_mix: str,
    *,
    progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    overwrite: bool = False,
    device: torch.device | str = "cpu",
) -> QuantizeReport:
    """Write a transformer as GGUF under BFL's names, readable by anything that reads Flux GGUF.

    Holds about 100 MB beside the mapped source, whatever the size of the model. Tensors that have
    their type already are copied bit for bit.

    Args:
        src: anything `open_weights` reads that holds a FLUX.1 transformer: a BFL or diffusers file
            or folder, plain or scaled float8, another GGUF.
        dst: the new file; its folder must exist. It appears when it is complete.
        kind_or_mix: a name in `quant.mixes.MIXES`.
        progress: called with (numbers done, numbers in all).
        should_stop: asked every few million numbers.
        overwrite: replace a file that is there.
        device: where K-quants are packed.

    Raises:
        ModelNotFoundError: no `src`.
        CheckpointError: a source that is not a complete FLUX.1 transformer or holds NaN, an unknown
            type, or a `dst` that can't be written.
        Cancelled: `should_stop` said so; nothing is left behind.
    """
    mix, dst = find_mix(kind_or_mix), Path(dst).expanduser()
    file = open_weights(src)
    contents = require(file, "transformer")
    state = read_state(file, contents)
    # A file with holes would only be found out when the result is loaded.
    for name in left_over(blueprint(contents, state), state, file.path):
        del state[name]
    _check_destination(dst, file.files, overwrite)
    tensors = [
        GgufTensor(name, weight.shape, kind_for(mix, name, weight.shape, weight.kind))
        for name, weight in state.items()
    ]
    _warn_of_requantizing(file.path, mix, state, tensors)
    total, done = sum(math.prod(tensor.shape) for tensor in tensors), 0
    before = sum(part.nbytes for weight in state.values() for part in weight.parts)
    metadata = {
        "general.architecture": "flux",
        "general.quantization_version": QUANTIZATION_VERSION,
        "general.file_type": mix.file_type,
    }
    with GgufWriter(dst, metadata, tensors) as out:
        name = ""
        try:
            for tensor in tensors:
                name = tensor.name
                check_unchanged(file.stamps)
                for count, data in _pack(state[name], tensor.kind, device):
                    out.write(data)
                    done += count
                    if progress is not None:
                        progress(done, total)
                    if should_stop is not None and should_stop():
                        raise Cancelled(f"stopped while writing {dst}; nothing was kept")
        except InputError as error:
            raise CheckpointError(f"{file.path}: {name}: {error}") from error
    kinds = Counter(tensor.kind for tensor in tensors)
    report = QuantizeReport(dst, mix.name, total, before, out.size, dict(kinds.most_common()))
    log.info("%s", report)
    return report


def _check_destination(dst: Path, sources: tuple[Path, ...], overwrite: bool) -> None:
    if dst.suffix.lower() != ".gguf":
        raise CheckpointError(f"{dst}: the new file's name must end in .gguf")
    if not dst.parent.is_dir():
        raise CheckpointError(f"{dst}: there is no folder {dst.parent}; make it first")
    if not dst.exists():
        return
    if not dst.is_file() or any(dst.samefile(source) for source in sources):
        raise CheckpointError(f"{dst}: is the source or no file; choose another name")
    if not overwrite:
        raise CheckpointError(f"{dst}: is there already; choose another name or overwrite it")


def _warn_of_requantizing(
    source: Path, mix: Mix, state: Mapping[str, Weight], tensors: list[GgufTensor]
) -> None:
    again = Counter(
        state[tensor.name].kind
        for tensor in tensors
        if is_packed(state[tensor.name].kind) and is_packed(tensor.kind)
        if tensor.kind != state[tensor.name].kind
    )
    if again:
        log.warning(
            "%s is quantized already (%s); errors add up. A bf16 or fp16 source gives a better %s",
            source,
            ", ".join(f"{count} {kind}" for kind, count in again.most_common()),
            mix.name,
        )


def _pack(weight: Weight, kind: str, device: torch.device | str) -> Iterator[tuple[int, Tensor]]:
    """(numbers, uint8 data on the CPU) in pieces of about `GROUP` numbers."""
    columns = weight.shape[-1] if weight.shape else 1
    if is_packed(kind) and kind == weight.kind:
        for part in weight.parts:
            for rows in part.reshape(-1).split(1 << 24):
                yield rows.numel() * math.prod(weight.shape) // _bytes_of(weight), rows
        return
    for rows in _numbers(weight, columns):
        yield rows.numel(), quantize_blocks(rows.to(device), kind).cpu()


def _bytes_of(weight: Weight) -> int:
    return sum(part.numel() for part in weight.parts)


def _numbers(weight: Weight, columns: int) -> Iterator[Tensor]:
    """What the layer multiplies by, [some rows, columns] at a time; float32, or as stored."""
    step = max(1, GROUP // max(1, columns))
    by_row = [part.shape[0] for part in weight.parts if part.ndim == 2]
    if len(weight.shape) != 2 or sum(by_row) != weight.shape[0]:
        yield from plain(weight, torch.float32).reshape(-1, columns).split(step)
        return
    scale = weight.scale
    if scale is not None and scale.numel() > 1:
        scale = scale.reshape(-1, 1)
    start = 0
    for part in weight.parts:
        for rows in part.split(step):
            count = len(rows)
            if is_packed(weight.kind):
                rows = dequantize(rows, weight.kind)
            elif scale is not None:
                rows = rows.float() * (
                    scale if scale.numel() == 1 else scale[start : start + count]
                )
            elif rows.element_size() == 1:
                rows = rows.float()
            yield rows
            start += count
