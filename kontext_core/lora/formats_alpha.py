"""Alpha and rank where they stand outside the tensors: PEFT's adapter_config.json, diffusers' header.

PEFT scales by lora_alpha / r (r of the tensor; its root with rsLoRA), with exceptions by layer in
`alpha_pattern` and `rank_pattern`. ComfyUI's own loader ignores all this and takes 1; the value a
LoRA was trained with is the right one, so it is used here unless the caller says otherwise.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

LIMIT = 4 << 20


@dataclass(frozen=True)
class HeaderAlpha:
    """What a PEFT configuration says about scale."""

    alpha: float | None
    rank: int | None
    root: bool
    alphas: Mapping[str, float]
    ranks: Mapping[str, int]
    source: str

    def scale(self, stem: str, rank: int | None) -> float:
        """Factor for a layer named `stem` whose tensors have `rank` (None: take the file's)."""
        alpha = _by_pattern(self.alphas, stem, self.alpha)
        rank = rank or _by_pattern(self.ranks, stem, self.rank)
        if alpha is None or not rank:
            return 1.0
        return float(alpha) / (math.sqrt(rank) if self.root else rank)


def _by_pattern(patterns: Mapping[str, Any], stem: str, otherwise: Any) -> Any:
    """A pattern is a layer's name or its end, from a dot on.

    PEFT would also take it as a regular expression; one out of a stranger's file is not run.
    """
    for pattern, value in patterns.items():
        if stem == pattern or stem.endswith("." + pattern):
            return value
    return otherwise


def read_header_alpha(path: Path, metadata: Mapping[str, Any]) -> HeaderAlpha | None:
    """The configuration in the header, else beside the file; None where there is none.

    Raises:
        CheckpointError: there is one but it can't be read or says nonsense.
    """
    text, source, prefix = metadata.get("lora_adapter_metadata"), f"{path}: header", "transformer."
    if not isinstance(text, str):
        beside = path.with_name("adapter_config.json")
        # The name is used by every PEFT adapter: only one that lies with adapter_model counts.
        if not path.name.startswith("adapter_model") or not beside.is_file():
            return None
        if beside.stat().st_size > LIMIT:
            raise CheckpointError(
                f"{beside}: {beside.stat().st_size} bytes; expected a few thousand"
            )
        try:
            text, source, prefix = beside.read_text(encoding="utf-8"), str(beside), ""
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{beside}: can't be read ({error})") from error
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{source}: the LoRA's configuration is not JSON ({error}); save the LoRA again"
        ) from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{source}: the LoRA's configuration is not a JSON object")
    if prefix and any(key.startswith(prefix) for key in values):
        values = {k[len(prefix) :]: v for k, v in values.items() if k.startswith(prefix)}
    alpha = values.get("lora_alpha", values.get("alpha"))
    return HeaderAlpha(
        alpha=_number(source, "lora_alpha", alpha),
        rank=_rank(source, "r", values.get("r")),
        root=bool(values.get("use_rslora", False)),
        alphas=_table(source, "alpha_pattern", values.get("alpha_pattern"), _number),
        ranks=_table(source, "rank_pattern", values.get("rank_pattern"), _rank),
        source=source,
    )


def _number(source: str, name: str, value: Any) -> float | None:
    if value is None:
        return None
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not -math.inf < value < math.inf
    ):
        raise CheckpointError(f"{source}: {name} is {str(value)[:40]!r}; expected a number")
    if abs(value) > 1e9:
        raise CheckpointError(f"{source}: {name} is {value:g}; expected the size of a rank")
    return float(value)


def _rank(source: str, name: str, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(f"{source}: {name} is {str(value)[:40]!r}; expected a whole number")
    return value


def _table(source: str, name: str, value: Any, read: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise CheckpointError(f"{source}: {name} is {str(value)[:40]!r}; expected an object")
    return {str(key): read(source, f"{name}[{key!r}]", item) for key, item in value.items()}
