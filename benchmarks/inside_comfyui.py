"""How a benchmark enters a real ComfyUI: run by the checkout's own Python, with the pack as a package in it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACK = "kontext_pack"


def enter(checkout: Path, *folders: Path) -> None:
    """Make the checkout's modules, the pack's, and those of more folders importable, on one thread.

    The checkout takes the script's own place on the path: its `nodes` is not the pack's.
    """
    sys.path[0] = str(checkout.resolve())
    sys.path.extend(map(str, folders))
    sys.argv = ["main.py", "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    spec = importlib.util.spec_from_file_location(
        PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None
    sys.modules[PACK] = importlib.util.module_from_spec(spec)
    import torch

    torch.set_num_threads(1)


def part(path: str) -> Any:
    """A module of the pack by its path in it."""
    return importlib.import_module(f"{PACK}.{path}")
