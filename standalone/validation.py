"""Checks a prompt before it runs, with ComfyUI's order of checks and error JSON.

Errors are collected per node; outputs that are fine are run even when others are not, as there.
"""

from __future__ import annotations

import inspect
import logging
import math
from dataclasses import dataclass, field
from typing import Any

from .bodies import PromptNode, check_shape
from .calls import call_over_lists, overrides
from .comfy_api.nodes import ComfyNode
from .errors import BodyError, ValidationError
from .prompt import InputSpec, Prompt, inputs_of, is_link

log = logging.getLogger(__name__)
# Longer lists of choices, and circles, are not repeated in an error.
MAX_CHOICES = 20
MAX_NODES = 20_000
CASTS = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}

Reason = dict[str, Any]


@dataclass(frozen=True)
class Validated:
    """The outputs that can run, and the errors of those that can't."""

    outputs: list[str]
    node_errors: dict[str, Any]


def _reason(kind: str, message: str, details: str, **extra: Any) -> Reason:
    return {"type": kind, "message": message, "details": details, "extra_info": extra}


async def validate(
    prompt: Any, nodes: dict[str, type[ComfyNode]], targets: list[str] | None = None
) -> Validated:
    """Checks a prompt; constants in it are converted to their input's type in place.

    Args:
        targets: run only these output nodes; None means all.

    Raises:
        ValidationError: it can't run at all.
    """
    outputs = _outputs(prompt, nodes, targets)
    check = _Check(prompt, nodes)
    good = []
    node_errors: dict[str, Any] = {}
    for output in outputs:
        if await check.node(output):
            good.append(output)
            continue
        for node_id in check.upstream(output):
            reasons = check.reasons.get(node_id)
            if not reasons:
                continue
            entry = node_errors.setdefault(
                node_id,
                {
                    "errors": reasons,
                    "dependent_outputs": [],
                    "class_type": prompt[node_id]["class_type"],
                },
            )
            entry["dependent_outputs"].append(output)
    if not good:
        reasons = [reason for entry in node_errors.values() for reason in entry["errors"]]
        details = "\n".join(f"{reason['message']}: {reason['details']}" for reason in reasons)
        error = _reason(
            "prompt_outputs_failed_validation", "Prompt outputs failed validation", details
        )
        raise ValidationError(error, node_errors)
    return Validated(good, node_errors)


def _outputs(
    prompt: Any, nodes: dict[str, type[ComfyNode]], targets: list[str] | None
) -> list[str]:
    """The output nodes of a prompt; raises when a node is unknown or none is an output."""
    try:
        shapes = check_shape(prompt, dict[str, PromptNode], "the prompt")
    except BodyError as error:
        message = "Prompt is not a workflow in API format"
        raise ValidationError(_reason("invalid_prompt", message, str(error))) from error
    if len(shapes) > MAX_NODES:
        message = f"The prompt has {len(shapes)} nodes; at most {MAX_NODES} are taken"
        raise ValidationError(_reason("invalid_prompt", message, "split the workflow"))
    outputs = []
    for node_id, shape in shapes.items():
        class_type = shape.class_type
        title = (shape.meta or {}).get("title")
        extra = {"node_id": node_id, "class_type": class_type, "node_title": title or class_type}
        details = f"Node ID '#{node_id}'"
        if class_type is None:
            message = (
                f"Node '{title or f'ID #{node_id}'}' has no class_type. The workflow may be "
                "corrupted or a custom node is missing."
            )
            raise ValidationError(_reason("missing_node_type", message, details, **extra))
        if class_type not in nodes:
            name = class_type if title in (None, class_type) else f"{title} ({class_type})"
            message = f"Node '{name}' not found. The custom node may not be installed."
            raise ValidationError(_reason("missing_node_type", message, details, **extra))
        prompt[node_id].setdefault("inputs", {})
        if nodes[class_type].GET_SCHEMA().is_output_node and (
            targets is None or node_id in targets
        ):
            outputs.append(node_id)
    if not outputs:
        raise ValidationError(_reason("prompt_no_outputs", "Prompt has no outputs", ""))
    return outputs


@dataclass
class _Visit:
    """A node on the way down: what is wrong with it so far, and which sources are still to see."""

    node_id: str
    reasons: list[Reason]
    sources: list[str]
    seen: int = 0


@dataclass
class _Check:
    """One walk over a prompt. `reasons` holds what is wrong with each node that was visited."""

    prompt: Prompt
    nodes: dict[str, type[ComfyNode]]
    reasons: dict[str, list[Reason]] = field(default_factory=dict)
    _good: dict[str, bool] = field(default_factory=dict)
    _specs: dict[str, dict[str, InputSpec]] = field(default_factory=dict)

    def specs(self, node_id: str) -> dict[str, InputSpec]:
        """The inputs of a node's class, asked once: some classes look into folders for them."""
        class_type = self.prompt[node_id]["class_type"]
        if class_type not in self._specs:
            self._specs[class_type] = inputs_of(self.nodes[class_type])
        return self._specs[class_type]

    def upstream(self, node_id: str) -> list[str]:
        """The node and all it depends on, each once."""
        found: dict[str, None] = {}
        waiting = [node_id]
        while waiting:
            current = waiting.pop()
            if current in found or current not in self.prompt:
                continue
            found[current] = None
            values = self.prompt[current]["inputs"].values()
            waiting += [value[0] for value in values if is_link(value)]
        return list(found)

    async def node(self, start: str) -> bool:
        """Checks a node and, through its links, all it depends on.

        With a stack of its own, as chains may be longer than Python's.
        """
        if start in self._good:
            return self._good[start]
        # In the order of the way from `start`, for naming the members of a circle.
        path = {start: self._enter(start)}
        while path:
            visit = next(reversed(path.values()))
            if visit.seen == len(visit.sources):
                await self._leave(visit)
                del path[visit.node_id]
                continue
            source = visit.sources[visit.seen]
            visit.seen += 1
            if source in self._good:
                continue
            if source in path:
                members = list(path)
                self._cycle([*members[members.index(source) :], source])
                continue
            path[source] = self._enter(source)
        return self._good[start]

    def _enter(self, node_id: str) -> _Visit:
        """Checks a node's own inputs."""
        inputs = self.prompt[node_id]["inputs"]
        own = _own_validation(self.nodes[self.prompt[node_id]["class_type"]])
        visit = _Visit(node_id, [], [])
        for spec in self.specs(node_id).values():
            if spec.name not in inputs:
                if spec.required:
                    message = "Required input is missing"
                    extra = {"input_name": spec.name}
                    visit.reasons.append(
                        _reason("required_input_missing", message, spec.name, **extra)
                    )
                continue
            value = inputs[spec.name]
            if isinstance(value, list):
                problem = self._link(spec, value)
                if not problem:
                    visit.sources.append(value[0])
            else:
                problem = _constant(spec, inputs, own is None or spec.name not in own)
            if problem:
                visit.reasons.append(problem)
        return visit

    async def _leave(self, visit: _Visit) -> None:
        """Judges a node whose sources have been checked."""
        node = self.prompt[visit.node_id]
        cls = self.nodes[node["class_type"]]
        own = _own_validation(cls)
        reasons = visit.reasons
        if own is not None and not reasons:
            reasons += await _custom(cls, node, own, self.specs(visit.node_id))
        # A circle found further up the graph may have left its reason here already.
        self.reasons[visit.node_id] = self.reasons.get(visit.node_id, []) + reasons
        sources = all(self._good[source] for source in visit.sources)
        self._good[visit.node_id] = sources and not self.reasons[visit.node_id]

    def _cycle(self, path: list[str]) -> None:
        shown = path if len(path) <= MAX_CHOICES else [*path[: MAX_CHOICES - 1], path[-1]]
        details = " -> ".join(f"{n} ({self.prompt[n]['class_type']})" for n in shown)
        members = list(dict.fromkeys(path))
        for node_id in members:
            reason = _reason(
                "dependency_cycle",
                "Dependency cycle detected",
                details,
                node_id=node_id,
                cycle_nodes=list(dict.fromkeys(shown)),
            )
            self.reasons.setdefault(node_id, []).append(reason)
            self._good[node_id] = False

    def _link(self, spec: InputSpec, value: list[Any]) -> Reason | None:
        extra = {"input_name": spec.name, "input_config": spec.as_config()}
        if not is_link(value):
            message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            return _reason("bad_linked_input", message, spec.name, **extra, received_value=value)
        source, slot = value
        if source not in self.prompt:
            message = "Bad linked input, the node it comes from is not in the workflow"
            details = f"{spec.name}, node {source} is missing"
            return _reason("bad_linked_input", message, details, **extra, received_value=value)
        class_type = self.prompt[source]["class_type"]
        outputs = self.nodes[class_type].GET_SCHEMA().outputs
        if not 0 <= slot < len(outputs):
            message = "Bad linked input, the node it comes from has no such output"
            details = f"{spec.name}, {class_type} has {len(outputs)} outputs, slot {slot} was asked"
            return _reason("bad_linked_input", message, details, **extra, received_value=value)
        received = outputs[slot].io_type
        if not _types_fit(received, spec.type):
            message = "Return type mismatch between linked nodes"
            details = f"{spec.name}, received_type({received}) mismatch input_type({spec.type})"
            extra |= {"received_type": received, "linked_node": value}
            return _reason("return_type_mismatch", message, details, **extra)
        return None


def _types_fit(received: str, expected: Any) -> bool:
    """Whether a type fits an input; types may be unions 'A,B', and '*' fits everything."""
    if isinstance(expected, list):
        expected = "COMBO"
    ours = {part.strip() for part in received.split(",")}
    theirs = {part.strip() for part in str(expected).split(",")}
    return "*" in ours or "*" in theirs or bool(ours & theirs)


def _constant(spec: InputSpec, inputs: dict[str, Any], check_range: bool) -> Reason | None:
    """Converts a constant to its input's type in place and checks range and choices."""
    value = inputs[spec.name]
    if isinstance(value, dict) and "__value__" in value:
        value = inputs[spec.name] = value["__value__"]
    extra = {"input_name": spec.name, "input_config": spec.as_config()}
    cast = CASTS.get(spec.type) if isinstance(spec.type, str) else None
    if cast is not None:
        try:
            value = inputs[spec.name] = cast(value)
        except (TypeError, ValueError, OverflowError) as error:
            return _reason(
                "invalid_input_type",
                f"Failed to convert an input value to a {spec.type} value",
                f"{spec.name}, {value}, {error}",
                **extra,
                received_value=value,
                exception_message=str(error),
            )
    elif (
        spec.choices is None
        and spec.type != "*"
        and (value is not None or spec.required)
        # What has no socket is a widget of the pack's own.
        and not spec.options.get("socketless")
    ):
        return _reason(
            "invalid_input_type",
            f"A {spec.type} can't be written as a value; it must come from another node",
            f"{spec.name}, {str(value)[:80]}",
            **extra,
            received_value=value,
        )
    extra["received_value"] = value
    if spec.choices is not None and (isinstance(value, dict) or value is None and spec.required):
        # Never a choice, even of a node that checks its choices itself: None means linked there.
        details = f"{spec.name}: {str(value)[:80]}"
        return _reason("value_not_in_list", "Value not in list", details, **extra)
    if not check_range:
        return _finite(spec, value, extra)
    low, high = spec.options.get("min"), spec.options.get("max")
    # Written so that NaN, which is neither below nor above, fails too.
    if low is not None and not value >= low:
        message = f"Value {value} smaller than min of {low}"
        return _reason("value_smaller_than_min", message, spec.name, **extra)
    if high is not None and not value <= high:
        message = f"Value {value} bigger than max of {high}"
        return _reason("value_bigger_than_max", message, spec.name, **extra)
    problem = _finite(spec, value, extra)
    if problem:
        return problem
    choices = spec.choices
    if choices is not None and value not in choices:
        shown = str(choices)
        if len(choices) > MAX_CHOICES:
            shown = f"(list of length {len(choices)})"
            extra["input_config"] = None
        details = f"{spec.name}: {value!r} not in {shown}"
        return _reason("value_not_in_list", "Value not in list", details, **extra)
    return None


def _finite(spec: InputSpec, value: Any, extra: dict[str, Any]) -> Reason | None:
    """No NaN and no infinity gets in, even as a text: neither can be written as JSON."""
    if not isinstance(value, float) or math.isfinite(value):
        return None
    message = f"Failed to convert an input value to a {spec.type} value"
    details = f"{spec.name}, {value}, expected a finite number"
    return _reason("invalid_input_type", message, details, **extra)


def _own_validation(cls: type[ComfyNode]) -> set[str] | None:
    """The inputs that the node's own `validate_inputs` takes; None when it has none."""
    if not overrides(cls, "validate_inputs"):
        return None
    signature = inspect.signature(cls.validate_inputs)  # type: ignore[attr-defined]
    parameters = signature.parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return set(inputs_of(cls))
    return {p.name for p in parameters}


async def _custom(
    cls: type[ComfyNode], node: dict[str, Any], own: set[str], specs: dict[str, InputSpec]
) -> list[Reason]:
    """Runs the node's own validation on its constants; linked inputs are None there."""
    given = {
        name: [None if is_link(value) else value]
        for name, value in node["inputs"].items()
        if name in own and name in specs
    }
    try:
        results = await call_over_lists(cls, "validate_inputs", given)
    except Exception as error:  # a broken check is the node's error, not the server's
        log.exception("validate_inputs of %s failed", node["class_type"])
        return [
            _reason(
                "exception_during_validation",
                "Exception when validating node",
                f"{type(error).__name__}: {error}",
                exception_type=type(error).__name__,
            )
        ]
    reasons = []
    for result in results:
        if result is not True:
            # ComfyUI repeats the message per input; the first name is enough to find the node.
            name = next(iter(given), "")
            details = name if result is False else f"{name} - {result}"
            message = "Custom validation failed for node"
            reasons.append(_reason("custom_validation_failed", message, details, input_name=name))
    return reasons
