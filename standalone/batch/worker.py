"""The embedded host without a server: runs prompts in this process, pictures in, files out.

`python -m standalone batch --ray` starts one in every worker process of a cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any, BinaryIO

from kontext_core.errors import InputError
from kontext_core.partial import clear_partial, is_partial, open_partial, whole_file

from .. import runtime
from ..engine import Engine, Job
from ..errors import NodeFailedError, ValidationError
from ..folders import Folders
from ..loader import Registry, install_host, load_pack, pack_root
from ..plain import PLAIN_NODES
from ..validation import validate
from .place import contents_of

PACK_NAME = "kontext-studio"
PREFIX = "kontext-batch-"


def make_base(place: Path) -> tuple[Path, BinaryIO]:
    """A folder for one worker, and an open file in it that says that the worker lives.

    A cluster ends its workers by killing them: the folders of those that are gone are removed here.
    """
    for folder in place.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            # One that was made just now may not have its mark yet.
            if folder.is_symlink() or time.time() - folder.stat().st_mtime < 60:
                continue
            clear_partial(folder)
            if not any(is_partial(path.name) for path in folder.iterdir()):
                shutil.rmtree(folder)
    base = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
    return base, open_partial(base)[0]


class Worker:
    """Keeps its models from one prompt to the next, as a server does."""

    def __init__(self, models: str | None = None) -> None:
        """`models`: folder laid out as ComfyUI's `models`; None takes that of the checkout."""
        root = pack_root()
        self.base, self._mark = make_base(Path(tempfile.gettempdir()))
        below = Folders.below(self.base, samples=root / "workflows" / "input")
        self.folders = Folders(
            input=below.input,
            output=below.output,
            temp=below.temp,
            user=below.user,
            models=Path(models) if models else root / "models",
            samples=below.samples,
        )
        self.state = runtime.Runtime(self.folders)
        runtime.install(self.state)
        registry = Registry(dict(PLAIN_NODES))
        pack = load_pack(root, PACK_NAME)
        install_host(pack, self.state)
        registry.add(pack)
        self.nodes = registry.nodes
        self.engine = Engine(registry.nodes, self.state)

    def run(self, prompt: dict[str, Any], pictures: dict[str, bytes]) -> dict[str, Any]:
        """One prompt to its end.

        Args:
            pictures: what the prompt's Load Image nodes name, by name.

        Returns:
            {"files": [(ending, content)], "seconds"}, or {"refused": why} or {"failed": why}:
            plain values, as errors of ours would not survive the way between two processes.
        """
        began = time.monotonic()
        for name, content in pictures.items():
            path = self.folders.input / name
            try:
                if not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with whole_file(path) as file:
                        file.write(content)
            except OSError as error:
                return {"failed": f"can't write {path} ({error}); free some space there"}
        try:
            checked = asyncio.run(validate(prompt, self.nodes))
            if checked.node_errors:
                error = {"message": "Prompt outputs failed validation", "details": ""}
                raise ValidationError(error, checked.node_errors)
        except ValidationError as error:
            return {"refused": str(error)}
        job = Job(str(uuid.uuid4()), prompt, checked.outputs)
        outcome = self.engine.run(job, runtime.Silent())
        if outcome.error is not None:
            return {"failed": str(NodeFailedError(outcome.error))}
        files = []
        for entry in contents_of({"outputs": outcome.outputs}):
            try:
                path = self.folders.find(entry["filename"], entry["type"], entry["subfolder"])
            except InputError as error:
                return {"failed": str(error)}
            if path is not None:
                files.append((path.suffix, path.read_bytes()))
        for folder in (self.folders.output, self.folders.temp):
            shutil.rmtree(folder, ignore_errors=True)
        # A node whose outputs are kept would name a file that is gone.
        entries = self.engine.cache.entries
        self.engine.cache.entries = {k: v for k, v in entries.items() if not v.ui.get("images")}
        return {"files": files, "seconds": round(time.monotonic() - began, 3)}

    def close(self) -> None:
        """Removes its folder."""
        self._mark.close()
        shutil.rmtree(self.base, ignore_errors=True)
