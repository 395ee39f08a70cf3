"""The embedded host's own errors; a node's errors come through as `NodeFailedError`."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import kontext_core.errors
from kontext_core.errors import InputError, KontextError

# Every copy of the core's errors in this process: ours, and that of each loaded pack.
_copies: list[ModuleType] = [kontext_core.errors]


def know_errors(module: ModuleType) -> None:
    """Counts another copy of `kontext_core.errors`, whose classes are not ours, as the core's."""
    if module not in _copies:
        _copies.append(module)


def core_errors(name: str) -> tuple[type[BaseException], ...]:
    """The core's error of this name in every copy, for `isinstance`."""
    return tuple(getattr(module, name) for module in _copies)


class WorkflowError(InputError):
    """A workflow file, or a change asked of it, that can't be run."""


class BodyError(InputError):
    """A request that is not as it should be. `kind` is the error's type in ComfyUI's form."""

    def __init__(self, kind: str, message: str, details: str = "", status: int = 400) -> None:
        self.kind, self.message, self.details, self.status = kind, message, details, status
        super().__init__(f"{message} ({details})" if details else message)


class ValidationError(WorkflowError):
    """A prompt that failed validation.

    `error` and `node_errors` are the JSON that ComfyUI's `POST /prompt` answers with status 400.
    """

    def __init__(self, error: dict[str, Any], node_errors: dict[str, Any] | None = None) -> None:
        self.error = error
        self.node_errors = node_errors or {}
        super().__init__(self._text())

    def _text(self) -> str:
        parts = []
        for node_id, node in self.node_errors.items():
            for reason in node["errors"]:
                what = f"{reason['message']}: {reason['details']}".rstrip(": ")
                parts.append(f"node {node_id} ({node['class_type']}): {what}")
        if parts:
            return "; ".join(parts)
        return f"{self.error['message']} ({self.error['details']})".replace(" ()", "")


class NodeFailedError(KontextError):
    """A node raised while it ran. `data` is the body of the `execution_error` message."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        kind = str(data["exception_type"]).rpartition(".")[2]
        text = str(data["exception_message"]).strip()
        super().__init__(f"node {data['node_id']} ({data['node_type']}): {kind}: {text}")


class PackError(KontextError):
    """The node pack around this folder can't be loaded."""


class ListenError(KontextError):
    """The server can't listen on the address and port it was given."""


class PortInUseError(ListenError):
    """Another program listens on the port."""


class FrontendNotFoundError(KontextError):
    """There is no graph editor to serve."""


class Interrupted(BaseException):
    """The user stopped the run.

    Like ComfyUI's own since 0.19.3 it is no `Exception`, so that a node which catches those
    can't swallow it.
    """
