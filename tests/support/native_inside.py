"""The inner half of native_host.py: runs in ComfyUI's interpreter, never in pytest's.

Called with: checkout, root of this repository, script, file for the result, folder for the host's
own files, ComfyUI's options as JSON, then the script's arguments.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType


def load(name: str, path: Path, folder: Path | None = None) -> ModuleType:
    """A module, or with `folder` a package, by its file."""
    locations = None if folder is None else [str(folder)]
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=locations)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """See the module's text."""
    checkout, root, script, result, base, flags, *arguments = sys.argv[1:]
    # In place of this file's own folder.
    sys.path[0] = checkout
    # Behind the checkout: ComfyUI has top-level names of its own.
    sys.path += [str(Path(root) / "tests/support"), str(Path(script).parent)]
    import comfy.options

    comfy.options.enable_args_parsing()
    sys.argv = ["main.py", "--cpu", "--base-directory", base, *json.loads(flags)]
    import comfy.cli_args  # noqa: F401  reads sys.argv now

    pack = load("kontext_pack", Path(root) / "__init__.py", Path(root))
    module = load("native_script", Path(script))
    answer = module.main(pack, *arguments)
    Path(result).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
