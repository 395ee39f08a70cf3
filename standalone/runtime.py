"""What is current while a node runs: the folders, the run's listener, the node, a stop wish.

Nodes are stateless classes, so what they need of the host is reached through this module, as
ComfyUI's nodes reach `folder_paths` and `comfy.model_management`.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from .errors import Interrupted
from .folders import Folders

# How many nodes, those that changed last, a message about progress tells of.
MAX_STATES = 32


class Listener(Protocol):
    """Hears what happens in a run: the browser's websocket, or the terminal."""

    def send(self, event: str, data: dict[str, Any]) -> None:
        """One message of the websocket protocol."""
        ...

    def preview(self, image: Image.Image, node: dict[str, Any]) -> None:
        """A picture of work in progress; `node` has node_id, display_node_id, prompt_id, ..."""
        ...


class Silent:
    """Hears nothing."""

    def send(self, event: str, data: dict[str, Any]) -> None:
        pass

    def preview(self, image: Image.Image, node: dict[str, Any]) -> None:
        pass


def node_ids(prompt_id: str, node_id: str) -> dict[str, Any]:
    """How messages name a node: four fields that differ only where graphs grow while running."""
    return {
        "node_id": node_id,
        "prompt_id": prompt_id,
        "display_node_id": node_id,
        "parent_node_id": None,
        "real_node_id": node_id,
    }


@dataclass
class Runtime:
    """The state of the host that nodes see. One run at a time."""

    folders: Folders
    listener: Listener = field(default_factory=Silent)
    prompt_id: str = ""
    node_id: str = ""
    states: dict[str, dict[str, Any]] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def begin(self, prompt_id: str, listener: Listener) -> None:
        """Starts a run."""
        self.prompt_id, self.listener, self.node_id = prompt_id, listener, ""
        self.states = {}

    def interrupt(self) -> None:
        """Asks the run to stop; it does at its next check."""
        self._stop.set()

    def forget_interrupt(self) -> None:
        """Drops a wish that came too late for the run it was meant for."""
        self._stop.clear()

    def is_interrupted(self) -> bool:
        """Whether the user asked for a stop that has not happened yet."""
        return self._stop.is_set()

    def check_interrupt(self) -> None:
        """Raises `Interrupted` when the user asked for it; the wish is then fulfilled."""
        if self._stop.is_set():
            self._stop.clear()
            raise Interrupted(f"run {self.prompt_id} was stopped at node {self.node_id}")

    def set_state(self, state: str, value: float = 0, total: float = 1) -> None:
        """Tells the listener how far the current node is ('running', 'finished', 'error').

        A finished node is as far as its last known total.
        """
        if state == "finished":
            value = total = self.states.get(self.node_id, {}).get("max", total)
        entry = {"value": value, "max": total, "state": state}
        self.states[self.node_id] = entry | node_ids(self.prompt_id, self.node_id)
        if len(self.states) > MAX_STATES:
            # Each message tells them all: without an end, a long graph's would grow with its square.
            del self.states[next(key for key in self.states if key != self.node_id)]
        data = {"prompt_id": self.prompt_id, "nodes": {k: dict(v) for k, v in self.states.items()}}
        self.listener.send("progress_state", data)

    # The protocol that nodes/host.py expects of a host.

    def device(self) -> Any:
        """The torch device that models run on."""
        import torch

        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def model_folders(self, kind: str) -> list[Path]:
        return self.folders.model_folders(kind)

    def input_folders(self) -> list[Path]:
        folders = self.folders
        return [folders.input] if folders.samples is None else [folders.input, folders.samples]

    def output_folder(self) -> Path | None:
        return self.folders.output

    def tell(self, event: str, data: dict[str, Any]) -> None:
        """Sends a message of a node's own to the browser."""
        self.listener.send(event, data | {"prompt_id": self.prompt_id})

    def progress(self, total: int) -> NodeProgress:
        """A progress bar of `total` steps for the node that runs now."""
        return NodeProgress(self, self.node_id, total)


@dataclass
class NodeProgress:
    """The progress of one node."""

    runtime: Runtime
    node_id: str
    total: int

    def update(self, step: int, preview: Image.Image | None = None) -> None:
        """Reports that `step` (1-based) of `total` is done, with a picture of the state.

        Raises:
            Interrupted: the user asked to stop.
        """
        runtime = self.runtime
        runtime.check_interrupt()
        runtime.set_state("running", step, self.total)
        data = {"value": step, "max": self.total}
        ids = {"prompt_id": runtime.prompt_id, "node": self.node_id}
        runtime.listener.send("progress", data | ids)
        if preview is not None:
            runtime.listener.preview(preview, node_ids(runtime.prompt_id, self.node_id))


_current: Runtime | None = None


def install(runtime: Runtime) -> None:
    """Makes `runtime` the one that nodes see in this process."""
    global _current
    _current = runtime


def current() -> Runtime:
    """The runtime of this process; without `install`, one in the working directory."""
    global _current
    if _current is None:
        _current = Runtime(Folders.below(Path.cwd()))
    return _current
