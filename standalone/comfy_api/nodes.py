"""Node classes: their schema, what they return, and their entry in object_info."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar

from .sockets import Input, Output

__all__ = ["ComfyExtension", "ComfyNode", "Hidden", "HiddenHolder", "NodeOutput", "Schema"]


class Hidden(str, Enum):
    """What a node can learn about its run by naming it in `Schema.hidden`."""

    unique_id = "UNIQUE_ID"
    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"


class HiddenHolder:
    """The hidden values of one execution, as attributes; what was not asked for is None."""

    def __init__(
        self, unique_id: str | None = None, prompt: Any = None, extra_pnginfo: Any = None
    ) -> None:
        self.unique_id = unique_id
        self.prompt = prompt
        self.extra_pnginfo = extra_pnginfo


@dataclass
class Schema:
    """What a node is: its id, sockets and flags."""

    node_id: str
    display_name: str | None = None
    category: str = "sd"
    inputs: list[Input] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    hidden: list[Hidden] = field(default_factory=list)
    description: str = ""
    search_aliases: list[str] = field(default_factory=list)
    is_input_list: bool = False
    is_output_node: bool = False
    is_deprecated: bool = False
    is_experimental: bool = False
    is_dev_only: bool = False
    not_idempotent: bool = False

    def finalize(self) -> None:
        """Adds the hidden inputs that output nodes need, and checks that ids are unique.

        Raises:
            ValueError: two sockets share an id. Inputs must differ from outputs as well, which
                ComfyUI 0.3.64 demands.
        """
        if self.is_output_node:
            wanted = (Hidden.prompt, Hidden.extra_pnginfo)
            self.hidden = [*self.hidden, *(h for h in wanted if h not in self.hidden)]
        for index, output in enumerate(self.outputs):
            output.id = output.id or f"_{index}_{output.io_type}_"
        ids = [socket.id for socket in (*self.inputs, *self.outputs)]
        twice = sorted({str(i) for i in ids if ids.count(i) > 1})
        if twice:
            raise ValueError(f"node {self.node_id}: socket ids {twice} occur twice; rename one")

    def input_types(self) -> dict[str, dict[str, Any]]:
        """The inputs as object_info has them: {"required": {id: (type, options)}, ...}."""
        result: dict[str, dict[str, Any]] = {"required": {}}
        for socket in self.inputs:
            kind = "optional" if socket.optional else "required"
            result.setdefault(kind, {})[socket.id] = (socket.get_io_type(), socket.as_dict())
        if self.hidden:
            result["hidden"] = {hidden.name: (hidden.value,) for hidden in self.hidden}
        return result


class NodeOutput:
    """What `execute` returns: the outputs in order, and what the editor shows in the node."""

    def __init__(self, *args: Any, ui: Any = None) -> None:
        self.args = args
        self.ui = ui

    @property
    def result(self) -> tuple[Any, ...] | None:
        return self.args or None

    def __getitem__(self, index: int) -> Any:
        return self.args[index]


class ComfyNode:
    """Base of all nodes. Classes have no state: everything is a classmethod.

    A node overrides `define_schema` and `execute`, and may add `validate_inputs`,
    `fingerprint_inputs` and `check_lazy_status`.
    """

    RELATIVE_PYTHON_MODULE: ClassVar[str] = "nodes"
    hidden: ClassVar[HiddenHolder] = HiddenHolder()

    @classmethod
    def define_schema(cls) -> Schema:
        raise NotImplementedError(f"{cls.__name__} has no define_schema")

    execute: ClassVar[Callable[..., Any]]

    @classmethod
    def GET_SCHEMA(cls) -> Schema:
        """A fresh, checked schema; fresh because file lists change while the server runs."""
        schema = cls.define_schema()
        schema.finalize()
        return schema

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Any]]:
        return cls.GET_SCHEMA().input_types()

    @classmethod
    def GET_NODE_INFO_V1(cls) -> dict[str, Any]:
        """The node's entry in object_info."""
        schema = cls.GET_SCHEMA()
        inputs = schema.input_types()
        outputs = schema.outputs
        return {
            "input": inputs,
            "input_order": {kind: list(entries) for kind, entries in inputs.items()},
            "is_input_list": schema.is_input_list,
            "output": [socket.io_type for socket in outputs],
            "output_is_list": [socket.is_output_list for socket in outputs],
            "output_name": [socket.display_name or socket.io_type for socket in outputs],
            "output_tooltips": [socket.tooltip for socket in outputs],
            "output_matchtypes": None,
            "name": schema.node_id,
            "display_name": schema.display_name or schema.node_id,
            "description": schema.description,
            "python_module": cls.RELATIVE_PYTHON_MODULE,
            "category": schema.category,
            "output_node": schema.is_output_node,
            "has_intermediate_output": False,
            "deprecated": schema.is_deprecated,
            "experimental": schema.is_experimental,
            "dev_only": schema.is_dev_only,
            "api_node": False,
            "price_badge": None,
            "search_aliases": schema.search_aliases or None,
            "essentials_category": None,
        }


class ComfyExtension:
    """What a pack's `comfy_entrypoint` returns."""

    async def on_load(self) -> None:
        """Called once after loading (by ComfyUI from 0.13 on)."""

    async def get_node_list(self) -> list[type[ComfyNode]]:
        raise NotImplementedError(f"{type(self).__name__} has no get_node_list")
