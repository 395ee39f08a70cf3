"""Changes to a prompt from the command line: NODE.INPUT=VALUE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kontext_core.small_files import read_small_text

from .comfy_api.nodes import ComfyNode
from .errors import WorkflowError
from .prompt import InputSpec, Prompt, inputs_of

TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def apply_changes(prompt: Prompt, changes: list[str], nodes: dict[str, type[ComfyNode]]) -> None:
    """Changes inputs of a prompt in place.

    NODE is a node's id or its title. VALUE is read as the input's type; '@FILE' stands for the
    text in a file, '@@...' for a text that starts with '@'.

    Raises:
        WorkflowError: no such node or input, a value of the wrong type, an empty or missing file.
    """
    for change in changes:
        target, sign, text = change.partition("=")
        name, dot, input_name = target.rpartition(".")
        if not sign or not dot or not name or not input_name:
            raise WorkflowError(
                f"--set {change!r}: expected NODE.INPUT=VALUE, as in 'Prompt.text=make it night'"
            )
        node_id = _find(prompt, name)
        node = prompt[node_id]
        cls = nodes.get(node.get("class_type", ""))
        specs = {} if cls is None else inputs_of(cls)
        if input_name not in specs:
            raise WorkflowError(
                f"--set {change!r}: node {node_id} ({node.get('class_type')}) has no input "
                f"{input_name!r}; it has {', '.join(specs) or 'none'}"
            )
        node["inputs"][input_name] = _value(specs[input_name], _text(text), change)


def _find(prompt: Prompt, name: str) -> str:
    if name in prompt:
        return name
    titles = {key: (node.get("_meta") or {}).get("title") for key, node in prompt.items()}
    found = [key for key, title in titles.items() if title == name]
    found = found or [key for key, node in prompt.items() if node.get("class_type") == name]
    if len(found) == 1:
        return found[0]
    shown = ", ".join(
        f"{key} ({titles[key] or node.get('class_type')})" for key, node in prompt.items()
    )
    if not found:
        raise WorkflowError(f"--set: no node is called {name!r}; there are {shown}")
    raise WorkflowError(
        f"--set: several nodes are called {name!r}: {', '.join(found)}; use the id instead"
    )


def _text(text: str) -> str:
    if text.startswith("@@"):
        return text[1:]
    if not text.startswith("@"):
        return text
    path = Path(text[1:])
    try:
        content = read_small_text(path).strip()
    except (OSError, ValueError) as error:
        raise WorkflowError(
            f"the text file {path} can't be read ({error}); name one that is there, in UTF-8"
        ) from error
    if not content:
        raise WorkflowError(f"the text file {path} is empty; write the text into it first")
    return content


def _value(spec: InputSpec, text: str, change: str) -> Any:
    """The text as the input's type."""
    expected = spec.type
    if spec.choices is not None:
        return next((choice for choice in spec.choices if str(choice) == text), text)
    if expected == "STRING":
        return text
    if expected == "BOOLEAN" and text.lower() in TRUE + FALSE:
        return text.lower() in TRUE
    try:
        if expected == "INT":
            return int(text)
        if expected == "FLOAT":
            return float(text)
    except ValueError:
        pass
    if expected in ("INT", "FLOAT", "BOOLEAN"):
        kinds = {"INT": "a whole number", "FLOAT": "a number", "BOOLEAN": "true or false"}
        raise WorkflowError(f"--set {change!r}: {spec.name} takes {kinds[expected]}, got {text!r}")
    raise WorkflowError(
        f"--set {change!r}: {spec.name} takes a {expected}, which only another node can give"
    )
