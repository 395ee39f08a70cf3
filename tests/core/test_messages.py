"""What a message tells people to use has to exist."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import kontext_core

ROOT = Path(kontext_core.__file__).parent
MODULES = {path.stem for path in ROOT.rglob("*.py")} - {"__init__", "__main__"}


def named(path: Path) -> set[tuple[str, str]]:
    """(module, name) of every dotted name in the texts that a module raises."""
    found: set[tuple[str, str]] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Raise) or node.exc is None:
            continue
        for part in ast.walk(node.exc):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                found |= set(re.findall(r"\b([a-z_]\w*)\.([a-z_]\w*)\b", part.value))
    return found


def test_names_in_messages_exist() -> None:
    told = {(name, path) for path in ROOT.rglob("*.py") for name in named(path)}
    checked = 0
    for (module, name), path in told:
        if module == "kontext_core":
            assert hasattr(kontext_core, name), (path, module, name)
            checked += 1
        elif module in MODULES and name != "safetensors":
            homes = [
                importlib.import_module(
                    ".".join(["kontext_core", *found.relative_to(ROOT).with_suffix("").parts])
                )
                for found in ROOT.rglob(f"{module}.py")
            ]
            assert any(hasattr(home, name) for home in homes), (path, module, name)
            checked += 1
    # make_timesteps and resize at least.
    assert checked >= 2
    assert all(hasattr(kontext_core, name) for name in kontext_core.__all__)
