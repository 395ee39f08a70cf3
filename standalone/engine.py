"""Runs a validated prompt: sources first, lazily where asked, with the messages of ComfyUI."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from dataclasses import dataclass, field
from typing import Any

from .cache import Cached, OutputCache, signatures
from .calls import call_over_lists, merge_outputs, overrides
from .comfy_api.nodes import ComfyNode, Hidden, HiddenHolder
from .errors import Interrupted, core_errors
from .prompt import Prompt, inputs_of, is_link, links
from .runtime import Listener, Runtime

log = logging.getLogger(__name__)


@dataclass
class Job:
    """A prompt to run: which outputs, and what goes into saved pictures beside the prompt."""

    prompt_id: str
    prompt: Prompt
    outputs: list[str]
    extra_data: dict[str, Any] = field(default_factory=dict)


@dataclass
class Outcome:
    """How a run ended. `messages` are [event, data] pairs as the history keeps them."""

    status: str = "success"
    outputs: dict[str, Any] = field(default_factory=dict)
    messages: list[list[Any]] = field(default_factory=list)
    error: dict[str, Any] | None = None
    exception: BaseException | None = None

    @property
    def interrupted(self) -> bool:
        return self.status == "error" and self.error is None

    def meta(self) -> dict[str, Any]:
        """How the history describes the nodes that showed something."""
        return {
            node_id: {
                "node_id": node_id,
                "display_node": node_id,
                "parent_node": None,
                "real_node_id": node_id,
            }
            for node_id in self.outputs
        }


class _Failed(Exception):  # noqa: N818 - carries a node's own error, is none itself
    """A node raised: which one, what, and the inputs it had."""

    def __init__(self, node_id: str, error: BaseException, inputs: dict[str, Any]) -> None:
        super().__init__(node_id)
        self.node_id, self.error, self.inputs = node_id, error, inputs


class Engine:
    """Executes one job at a time; outputs are kept for the next."""

    def __init__(self, nodes: dict[str, type[ComfyNode]], runtime: Runtime) -> None:
        self.nodes = nodes
        self.runtime = runtime
        self.cache = OutputCache()

    def run(self, job: Job, listener: Listener) -> Outcome:
        """Runs a job to its end in this thread. Errors of nodes are in the outcome."""
        return asyncio.run(_Run(self, job, listener).execute())


class _Run:
    """The state of one run."""

    def __init__(self, engine: Engine, job: Job, listener: Listener) -> None:
        self.engine = engine
        self.job = job
        self.listener = listener
        self.outcome = Outcome()
        self.done: dict[str, Cached] = {}
        self.executed: list[str] = []
        self.keys: dict[str, str] = {}

    async def execute(self) -> Outcome:
        job, cache = self.job, self.engine.cache
        self.engine.runtime.begin(job.prompt_id, self.listener)
        self._message("execution_start")
        self.keys = await signatures(job.prompt, self.engine.nodes)
        cache.keep(set(self.keys.values()))
        cached = [node_id for node_id in job.prompt if self.keys[node_id] in cache.entries]
        self._message("execution_cached", nodes=cached)
        try:
            with _inference_mode():
                for output in job.outputs:
                    await self._reach(output)
        except _Failed as failed:
            self._end_badly(failed)
        else:
            self._message("execution_success")
        return self.outcome

    async def _reach(self, target: str) -> None:
        """Executes a node after all it needs. A stack, as chains may be longer than Python's."""
        waiting = [target]
        while waiting:
            node_id = waiting[-1]
            if node_id in self.done:
                waiting.pop()
                continue
            cached = self.engine.cache.entries.get(self.keys[node_id])
            if cached is not None:
                self._use_cached(node_id, cached)
                waiting.pop()
                continue
            needed = self._eager_sources(node_id)
            if not needed:
                needed = await self._lazy_sources(node_id)
            if needed:
                waiting += reversed(needed)
                continue
            await self._execute_node(node_id)
            waiting.pop()

    def _class(self, node_id: str) -> type[ComfyNode]:
        return self.engine.nodes[self.job.prompt[node_id]["class_type"]]

    def _eager_sources(self, node_id: str) -> list[str]:
        specs = inputs_of(self._class(node_id))
        needed = [
            source
            for name, source, _ in links(self.job.prompt[node_id])
            if name in specs and not specs[name].options.get("lazy") and source not in self.done
        ]
        return list(dict.fromkeys(needed))

    async def _lazy_sources(self, node_id: str) -> list[str]:
        """Sources of lazy inputs that the node asks for, given what it has so far."""
        cls, node = self._class(node_id), self.job.prompt[node_id]
        specs = inputs_of(cls)
        open_links = {
            name: source
            for name, source, _ in links(node)
            if name in specs and specs[name].options.get("lazy") and source not in self.done
        }
        if not open_links:
            return []
        if not overrides(cls, "check_lazy_status"):
            return list(dict.fromkeys(open_links.values()))
        inputs = self._inputs(node_id)
        try:
            answers = await call_over_lists(
                cls, "check_lazy_status", inputs, self._hidden(cls, node_id)
            )
        except BaseException as error:
            raise _Failed(node_id, error, inputs) from error
        asked = {name for answer in answers if isinstance(answer, list) for name in answer}
        return list(dict.fromkeys(open_links[name] for name in open_links if name in asked))

    def _inputs(self, node_id: str) -> dict[str, list[Any]]:
        """The node's inputs as lists; what a lazy link has not brought yet is [None]."""
        node = self.job.prompt[node_id]
        result: dict[str, list[Any]] = {}
        for name in inputs_of(self._class(node_id)):
            if name not in node["inputs"]:
                continue
            value = node["inputs"][name]
            if not is_link(value):
                result[name] = [value]
            elif value[0] in self.done:
                result[name] = self.done[value[0]].outputs[value[1]]
            else:
                result[name] = [None]
        return result

    def _hidden(self, cls: type[ComfyNode], node_id: str) -> HiddenHolder:
        wanted = cls.GET_SCHEMA().hidden
        return HiddenHolder(
            unique_id=node_id if Hidden.unique_id in wanted else None,
            prompt=self.job.prompt if Hidden.prompt in wanted else None,
            extra_pnginfo=self.job.extra_data.get("extra_pnginfo")
            if Hidden.extra_pnginfo in wanted
            else None,
        )

    async def _execute_node(self, node_id: str) -> None:
        runtime, cls = self.engine.runtime, self._class(node_id)
        runtime.node_id = node_id
        runtime.set_state("running")
        self._send("executing", node=node_id, display_node=node_id)
        inputs = self._inputs(node_id)
        try:
            results = await call_over_lists(
                cls, "execute", inputs, self._hidden(cls, node_id), runtime.check_interrupt
            )
            # A stop asked for during the last step counts as well.
            runtime.check_interrupt()
            outputs, ui = merge_outputs(cls, node_id, results)
        except BaseException as error:
            runtime.set_state("error")
            raise _Failed(node_id, error, inputs) from error
        cached = Cached(outputs, ui)
        self._show(node_id, cached)
        runtime.set_state("finished")
        self.done[node_id] = cached
        self.engine.cache.entries[self.keys[node_id]] = cached
        self.executed.append(node_id)

    def _use_cached(self, node_id: str, cached: Cached) -> None:
        self.done[node_id] = cached
        runtime = self.engine.runtime
        runtime.node_id = node_id
        runtime.set_state("finished")
        if node_id in self.job.outputs:
            self._show(node_id, cached)

    def _show(self, node_id: str, cached: Cached) -> None:
        """Tells what a node shows. Cached outputs are told again: a client waits for them."""
        if not cached.ui:
            return
        self.outcome.outputs[node_id] = cached.ui
        self._send("executed", node=node_id, display_node=node_id, output=cached.ui)

    def _end_badly(self, failed: _Failed) -> None:
        node_id, error = failed.node_id, failed.error
        self.outcome.status, self.outcome.exception = "error", error
        base = {
            "node_id": node_id,
            "node_type": self.job.prompt[node_id]["class_type"],
            "executed": list(self.executed),
        }
        if isinstance(error, (Interrupted, *core_errors("Cancelled"))):
            log.info("run %s was interrupted at node %s", self.job.prompt_id, node_id)
            self._message("execution_interrupted", **base)
            return
        if isinstance(error, (KeyboardInterrupt, asyncio.CancelledError)):
            raise error
        if not isinstance(error, core_errors("KontextError")):
            log.error("node %s (%s) failed", node_id, base["node_type"], exc_info=error)
        self.outcome.error = (
            base
            | described(error)
            | {
                "current_inputs": {
                    name: [_readable(value) for value in values]
                    for name, values in failed.inputs.items()
                },
                "current_outputs": list(self.done),
            }
        )
        self._message("execution_error", **self.outcome.error)

    def _send(self, event: str, **data: Any) -> None:
        self.listener.send(event, data | {"prompt_id": self.job.prompt_id})

    def _message(self, event: str, **data: Any) -> None:
        """A message that the history keeps as well."""
        data |= {"prompt_id": self.job.prompt_id, "timestamp": int(time.time() * 1000)}
        self.outcome.messages.append([event, data])
        self.listener.send(event, data)


def described(error: BaseException) -> dict[str, Any]:
    """What, of which type, and where: an exception as the `execution_error` message has it."""
    kind = type(error)
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - an exception of somebody else's that can't even be told
        text = "an error without a readable message"
    return {
        "exception_message": f"{text}\n",
        "exception_type": kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}",
        "traceback": traceback.format_tb(error.__traceback__),
    }


def _readable(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    shape = getattr(value, "shape", None)
    return f"{type(value).__name__} {tuple(shape)}" if shape is not None else type(value).__name__


def _inference_mode() -> Any:
    """torch's inference mode, as in ComfyUI, so that no node keeps gradients by accident."""
    import torch

    return torch.inference_mode()
