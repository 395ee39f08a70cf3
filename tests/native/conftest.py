"""The pack beside a stand-in for ComfyUI (tests/support/stand_in_comfy.py), for tests that need no checkout."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import embedded_host  # noqa: F401  makes `standalone` importable
import pytest
from small_models import make_flux
from stand_in_comfy import State, stand_in

from standalone.loader import load_pack

ROOT = Path(__file__).resolve().parents[2]

# Drawing the weights takes longer than a forward.
_plain = functools.cache(make_flux)


@dataclass(frozen=True)
class Inside:
    """The pack as it is inside a ComfyUI: its modules by path, and the stand-in's switches."""

    key: str
    state: State

    def module(self, path: str) -> Any:
        return importlib.import_module(f"{self.key}.{path}")

    def flux(self, seed: int = 0) -> Any:
        """`make_flux` of the pack's own copy of the core."""
        plain = _plain(seed)
        core = self.module("kontext_core.models.flux").Flux
        params = self.module("kontext_core.config").FluxParams(**vars(plain.params))
        made = core(params)
        made.load_state_dict({k: v.clone() for k, v in plain.state_dict().items()})
        return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    folder = tmp_path_factory.mktemp("custom_nodes") / "pack"
    folder.symlink_to(ROOT, target_is_directory=True)
    key = load_pack(folder).module.__name__
    with stand_in() as state:
        pack = Inside(key, state)
        host = pack.module("nodes.host")
        host.set_host(host.ComfyHost())
        yield pack
