"""Which inputs of a workflow a row's columns go to, and the workflow with a row's values in it."""

from __future__ import annotations

import copy
import difflib
import math
from dataclasses import dataclass
from typing import Any

from kontext_core.errors import InputError
from kontext_core.tables.names import PICTURE_SUFFIXES
from kontext_core.tables.numbers import whole_number
from kontext_core.tables.rows import Scalar

from ..prompt import SEEDS, Prompt, is_link

WORDS = ("prompt", "text", "t5xxl", "clip_l")
TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class NodeInput:
    """An input of a node. `is_picture`: its value names a file that has to be brought there."""

    node: str
    input: str
    is_picture: bool = False

    def __str__(self) -> str:
        return f"{self.node}.{self.input}"


class Columns:
    """The columns that one workflow can take.

    A column is `<node id, title or type>.<input>`, the name of an input that only one node has,
    or one of `prompt`, `negative`, `seed`, `image`, `mask`, `image1`, `image2`, ...
    """

    def __init__(self, prompt: Prompt) -> None:
        self.prompt = prompt
        self._known: dict[str, list[NodeInput]] = {}

    def resolve(self, column: str) -> list[NodeInput]:
        """The inputs that a column sets.

        Raises:
            InputError: none, or no telling which; the message lists what there is.
        """
        if column not in self._known:
            self._known[column] = self._find(column)
        return self._known[column]

    def addresses(self) -> list[str]:
        """Every input that holds a value, as `<node id>.<input>`."""
        return [f"{node}.{name}" for node, name in self._constants()]

    def fill(self, values: dict[str, Scalar]) -> tuple[Prompt, list[tuple[NodeInput, str]]]:
        """The workflow with a row's values in it, and the pictures it names, which are left as
        they are in the workflow.

        Raises:
            InputError: an unknown column, or a value that does not fit its input.
        """
        prompt = copy.deepcopy(self.prompt)
        pictures: list[tuple[NodeInput, str]] = []
        for column, value in values.items():
            for target in self.resolve(column):
                if target.is_picture:
                    pictures.append((target, str(value)))
                    continue
                inputs = prompt[target.node]["inputs"]
                if target.input in SEEDS:
                    inputs[target.input] = _seed(column, value)
                else:
                    inputs[target.input] = _fitting(column, value, inputs.get(target.input))
        return prompt, pictures

    def _constants(self) -> list[tuple[str, str]]:
        return [
            (node_id, name)
            for node_id, node in self.prompt.items()
            for name, value in node["inputs"].items()
            if not is_link(value)
        ]

    def _target(self, node: str, name: str) -> NodeInput:
        entry = self.prompt[node]
        value = entry["inputs"].get(name)
        loads = entry["class_type"].startswith("LoadImage") and name == "image"
        named = isinstance(value, str) and _bare(value).lower().endswith(PICTURE_SUFFIXES)
        return NodeInput(node, name, loads or named)

    def _find(self, column: str) -> list[NodeInput]:
        node, dot, name = column.rpartition(".")
        if dot:
            return [self._address(column, node, name)]
        if column == "seed":
            found = [(n, i) for n, i in self._constants() if i in SEEDS]
            return self._some(column, [self._target(*entry) for entry in found])
        if column in ("prompt", "negative"):
            return self._words(column)
        if column.startswith("image") and (column == "image" or column[5:].isdecimal()):
            return self._picture(column, "LoadImage", int(column[5:] or 0))
        if column == "mask":
            return self._picture(column, "LoadImageMask", 0)
        found = [self._target(n, i) for n, i in self._constants() if i == column]
        return self._one(column, found)

    def _address(self, column: str, node: str, name: str) -> NodeInput:
        titles = {key: _title(entry) for key, entry in self.prompt.items()}
        kinds = {key: entry["class_type"] for key, entry in self.prompt.items()}
        found = [node] if node in self.prompt else []
        for names in (titles, kinds):
            found = found or [key for key, value in names.items() if value == node]
        if len(found) > 1:
            raise InputError(
                f"the column {column!r} fits the nodes {', '.join(found)}; write the id instead "
                f"of the title: {found[0]}.{name}"
            )
        if not found:
            raise InputError(f"the column {column!r} names no node; {self._hint(node, titles)}")
        inputs = self.prompt[found[0]]["inputs"]
        if name not in inputs:
            raise InputError(
                f"the column {column!r} names no input of node {found[0]}; it has "
                f"{', '.join(inputs) or 'none'}"
            )
        return self._target(found[0], name)

    def _hint(self, node: str, titles: dict[str, str]) -> str:
        known = [*self.prompt, *titles.values()]
        near = difflib.get_close_matches(node, known, 1, 0.75)
        listed = ", ".join(f"{key} ({title})" for key, title in titles.items())
        return f"did you mean {near[0]!r}?" if near else f"there are {listed}"

    def _words(self, column: str) -> list[NodeInput]:
        nodes: dict[str, list[NodeInput]] = {}
        for node, name in self._constants():
            if name in WORDS and isinstance(self.prompt[node]["inputs"][name], str):
                nodes.setdefault(node, []).append(self._target(node, name))
        against = self._feeding("negative") - self._feeding("positive")
        chosen = {n: t for n, t in nodes.items() if (n in against) == (column == "negative")}
        named = {n: t for n, t in chosen.items() if any(one.input == "prompt" for one in t)}
        if len(chosen) > 1 and len(named) == 1:
            chosen = named
        flat = [target for targets in chosen.values() for target in targets]
        # Two encoders of one node get the same words.
        return flat if len(chosen) == 1 else self._one(column, flat)

    def _feeding(self, name: str) -> set[str]:
        """The nodes that inputs of a name come from, all the way up."""
        found: set[str] = set()
        waiting = [
            str(node["inputs"][name][0])
            for node in self.prompt.values()
            if is_link(node["inputs"].get(name))
        ]
        while waiting:
            node = waiting.pop()
            if node in found or node not in self.prompt:
                continue
            found.add(node)
            waiting += [str(v[0]) for v in self.prompt[node]["inputs"].values() if is_link(v)]
        return found

    def _picture(self, column: str, kind: str, number: int) -> list[NodeInput]:
        found = [
            self._target(node, "image")
            for node, entry in self.prompt.items()
            if entry["class_type"] == kind and not is_link(entry["inputs"].get("image", []))
        ]
        found.sort(key=lambda target: (len(target.node), target.node))
        if not number:
            return self._one(column, found)
        if number > len(found):
            raise InputError(
                f"the column {column!r} needs {number} {kind} nodes, the workflow has {len(found)}"
            )
        return [found[number - 1]]

    def _some(self, column: str, found: list[NodeInput]) -> list[NodeInput]:
        if found:
            return found
        near = difflib.get_close_matches(column, [name for _, name in self._constants()], 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(
            f"the workflow has no input for the column {column!r}; {hint}name one as "
            f"<node>.<input>: {', '.join(self.addresses())}. Columns that begin with "
            "# are left alone"
        )

    def _one(self, column: str, found: list[NodeInput]) -> list[NodeInput]:
        if len(self._some(column, found)) > 1:
            listed = ", ".join(f"{t} ({_title(self.prompt[t.node])})" for t in found)
            raise InputError(
                f"the column {column!r} could be any of {listed}; name the column like one of them"
            )
        return found


def _title(node: dict[str, Any]) -> str:
    return str((node.get("_meta") or {}).get("title") or node["class_type"])


def _bare(value: str) -> str:
    """A picture's name without the folder that may stand behind it, as in 'a.png [output]'."""
    return value.rpartition(" [")[0] if value.endswith("]") and " [" in value else value


def _fitting(column: str, value: Scalar, current: Any) -> Scalar:
    """A row's value as the kind of value that stands in the workflow."""
    if isinstance(current, bool):
        found = value if isinstance(value, bool) else TRUTHS.get(str(value).strip().lower())
        if found is None:
            raise InputError(f"{column} is {value!r:.80}; expected true or false")
        return found
    if isinstance(current, int | float):
        # A whole number in the workflow may stand for any: 1 for a strength of 1.0.
        number = _number(value, column if isinstance(current, int) else "")
        if number is None:
            raise InputError(f"{column} is {value!r:.80}; expected a number")
        return number
    return str(value) if isinstance(current, str) else value


def _seed(column: str, value: Scalar) -> int:
    number = whole_number(value, column)
    if number is None or not 0 <= number < 1 << 64:
        raise InputError(
            f"{column} is {value!r:.80}; expected a whole number from 0 to {(1 << 64) - 1}"
        )
    return number


def _number(value: Scalar, whole: str = "") -> int | float | None:
    """The number that a value is or spells, whole if it can be; the server judges its range.

    Args:
        whole: the column's name, where the workflow has a whole number.
    """
    if isinstance(value, bool):
        return None
    if whole and (found := whole_number(value, whole)) is not None:
        return found
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            pass
        try:
            value = float(value)
        except ValueError:
            return None
    return value if math.isfinite(value) else None
