"""The one walker behind lists of models and the routes that tell of them: files, and whole folders."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

# LoRAs that come with the package, by name.
LORAS = {
    path.stem: path
    for path in sorted(Path(__file__).parent.joinpath("assets", "loras").glob("*.safetensors"))
}
MODEL_SUFFIXES = (".safetensors", ".sft", ".gguf")
# One piece of a model that is cut into several; the folder is offered instead.
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.safetensors$")
# What a diffusers or transformers folder calls its weights.
_PIECE = re.compile(r"(diffusion_pytorch_)?model\b.*\.(safetensors|json)$")
# Clocks of file systems are coarse: a folder that changed this recently may change unseen.
_SETTLED_SECONDS = 2.0

_listed: dict[Path, tuple[dict[Path, int], float, list[tuple[str, bool]]]] = {}


def model_names(root: Path) -> list[tuple[str, bool]]:
    """(name, whether a folder) of every model below one folder, in no order; "/" between parts.

    Links are followed, since people keep their models elsewhere: what is listed can be opened. The
    folder is walked again only when a folder in it has changed.
    """
    known = _listed.get(root)
    if known is None or not _settled(known[0], known[1]):
        began = time.time()
        changed: dict[Path, int] = {}
        found: list[tuple[str, bool]] = []
        _walk(root, "", changed, found, set())
        known = _listed[root] = (changed, began, found)
    return known[2]


def _settled(changed: dict[Path, int], listed_at: float) -> bool:
    for folder, when in changed.items():
        try:
            now = folder.stat().st_mtime_ns
        except OSError:
            return False
        if now != when or now / 1e9 > listed_at - _SETTLED_SECONDS:
            return False
    return bool(changed)


def _walk(
    folder: Path,
    prefix: str,
    changed: dict[Path, int],
    found: list[tuple[str, bool]],
    seen: set[tuple[int, int]],
) -> None:
    """Adds (name, whether a folder) of everything below, and when each folder changed."""
    try:
        state = folder.stat()
        entries = list(os.scandir(folder))
    except OSError:
        return
    # Links may lead back up.
    if (state.st_dev, state.st_ino) in seen:
        return
    seen.add((state.st_dev, state.st_ino))
    changed[folder] = state.st_mtime_ns
    here = {entry.name for entry in entries}
    whole = bool(prefix) and "model_index.json" in here
    part = bool(prefix) and "config.json" in here and any(_PIECE.match(name) for name in here)
    if whole or part:
        found.append((prefix.rstrip("/"), True))
    for entry in entries:
        if entry.name.startswith("."):
            continue
        name = prefix + entry.name
        if entry.is_dir():
            # The parts of a whole diffusers folder are reached through it.
            if not whole:
                _walk(folder / entry.name, name + "/", changed, found, seen)
        elif entry.is_file() and entry.name.lower().endswith(MODEL_SUFFIXES):
            if not (_SHARD.search(entry.name) or (part and _PIECE.match(entry.name))):
                found.append((name, False))
