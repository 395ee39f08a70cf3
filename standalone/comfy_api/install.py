"""Puts this subset where the pack imports it from: `comfy_api.latest`."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

from . import nodes, sockets, ui, widgets


def install() -> bool:
    """Registers the subset as `comfy_api.latest` unless the real one can be imported.

    Returns:
        whether the subset is what `import comfy_api.latest` now gives.
    """
    present = sys.modules.get("comfy_api")
    if present is not None:
        return getattr(present, "__kontext_subset__", False)
    if importlib.util.find_spec("comfy_api") is not None:
        return False
    io = ModuleType("comfy_api.latest.io", "Inputs, outputs and node classes.")
    for source in (sockets, widgets, nodes):
        for name in source.__all__:
            setattr(io, name, getattr(source, name))
    latest = ModuleType("comfy_api.latest", "The newest version of the node interface.")
    package = ModuleType("comfy_api", "ComfyUI's public node interface (embedded subset).")
    vars(latest).update(io=io, IO=io, ui=ui, UI=ui, ComfyExtension=nodes.ComfyExtension)
    vars(package).update(latest=latest, __path__=[], __kontext_subset__=True)
    vars(latest)["__path__"] = []
    sys.modules.update(
        {
            "comfy_api": package,
            "comfy_api.latest": latest,
            "comfy_api.latest.io": io,
            "comfy_api.latest.ui": ui,
        }
    )
    return True
