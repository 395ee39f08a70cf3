"""Runs inside ComfyUI: LoRAs, hooks and merges on our MODEL, plain and packed, in little memory.

Every case gives (largest difference to what it must give, difference to doing nothing at all).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.model_management as management
from layers_case import Case
from layers_loras import hooks, loras, on_the_hosts, sampled, several
from layers_memory import eviction, growth, mapped, out_of_memory, streaming
from layers_merges import cast_when_used, merges, refusals


def main(pack: Any, folder: str) -> dict[str, Any]:
    """Name of a case to its results."""
    root = Path(folder)
    found: dict[str, Any] = {}
    for kind in ("plain", "Q8_0", "fp8"):
        case = Case(root, kind)
        found[kind] = {
            "loras": loras(case),
            "merges": merges(case),
            "streaming": streaming(case),
        }
        if kind != "fp8":
            # Scaled float8 takes the same ways as blocks do.
            found[kind] |= {
                "several": several(case),
                "hooks": hooks(case),
                "mapped": mapped(root, case),
                "eviction": eviction(case),
                "sampled": sampled(case),
                "size": [case.model.model_size(), sum(v.numel() * 4 for v in case.state.values())],
            }
        if kind == "plain":
            found[kind]["on the host's"] = on_the_hosts(case)
            found[kind]["cast when used"] = cast_when_used(case)
            found[kind]["out of memory"] = out_of_memory(case)
        else:
            found[kind]["refusals"] = refusals(case)
        management.unload_all_models()
    found["growth"] = growth(root)
    return found
