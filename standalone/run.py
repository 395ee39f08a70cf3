"""Runs a workflow file in the terminal: progress bar, results, one clear line when it fails."""

from __future__ import annotations

import asyncio
import threading
import uuid
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from kontext_core.writing import check_folder

from .changes import apply_changes
from .comfy_api.nodes import ComfyNode
from .convert import info_of, is_editor_format, read_workflow, to_prompt
from .engine import Engine, Job, Outcome
from .errors import Interrupted, NodeFailedError, ValidationError
from .prompt import Prompt
from .runtime import Runtime
from .sheet import write_sheet
from .validation import validate


class TerminalListener:
    """Shows a run as progress bars on the error stream."""

    def __init__(self, prompt: Prompt, enabled: bool) -> None:
        self.prompt = prompt
        self.enabled = enabled
        self.bar: tqdm[Any] | None = None
        self.node: str | None = None

    def send(self, event: str, data: dict[str, Any]) -> None:
        if event == "progress" and self.enabled:
            self._progress(data)
        elif event == "executing" or event.startswith("execution_"):
            self.close()

    def preview(self, image: Image.Image, node: dict[str, Any]) -> None:
        pass

    def _progress(self, data: dict[str, Any]) -> None:
        if self.bar is None or self.node != data["node"]:
            self.close()
            node = self.prompt.get(data["node"], {})
            title = (node.get("_meta") or {}).get("title") or node.get("class_type", "")
            self.bar = tqdm(total=data["max"], desc=title, unit="step")
            self.node = data["node"]
        self.bar.update(data["value"] - self.bar.n)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        self.bar = None


def run_file(
    path: Path,
    nodes: dict[str, type[ComfyNode]],
    runtime: Runtime,
    *,
    changes: list[str],
    sheet: Path | None = None,
    progress: bool = True,
) -> list[Path]:
    """Runs a workflow file to its end.

    Args:
        changes: 'NODE.INPUT=VALUE' each, see `changes.py`.
        sheet: where to write one picture of inputs, words and result.

    Returns:
        the files that were written, the sheet last.

    Raises:
        WorkflowError: the file or a change is wrong, or the prompt fails validation.
        InputError: a folder for the results can't be written to.
        NodeFailedError: a node raised; its message says which and why.
        Interrupted: the user pressed Ctrl-C.
    """
    data = read_workflow(path)
    prompt = to_prompt(data, info_of(nodes))
    apply_changes(prompt, changes, nodes)
    checked = asyncio.run(validate(prompt, nodes))
    if checked.node_errors:
        # In a browser the good half of a graph may run; here a half result would go unnoticed.
        message = "Prompt outputs failed validation"
        raise ValidationError(
            {"type": "prompt_outputs_failed_validation", "message": message, "details": ""},
            checked.node_errors,
        )
    extra = {"extra_pnginfo": {"workflow": data}} if is_editor_format(data) else {}
    # Now rather than when everything is computed.
    check_folder(runtime.folders.output)
    if sheet is not None:
        check_folder(sheet.parent)
    job = Job(str(uuid.uuid4()), prompt, checked.outputs, extra)
    listener = TerminalListener(prompt, progress)
    outcome = _run_in_thread(Engine(nodes, runtime), job, listener)
    listener.close()
    if outcome.interrupted:
        raise Interrupted("stopped")
    if outcome.error is not None:
        raise NodeFailedError(outcome.error) from outcome.exception
    written = _files(outcome, runtime)
    if sheet is not None:
        write_sheet(sheet, prompt, nodes, runtime.folders, written)
        written.append(sheet)
    return written


def _run_in_thread(engine: Engine, job: Job, listener: TerminalListener) -> Outcome:
    """Runs a job beside the main thread, so that Ctrl-C reaches it between two steps."""
    box: list[Outcome | BaseException] = []
    done = threading.Event()

    def work() -> None:
        try:
            box.append(engine.run(job, listener))
        except BaseException as error:  # noqa: BLE001 - handed to the main thread below
            box.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=work, name="run")
    thread.start()
    # Not join(): one that Ctrl-C breaks into takes the thread for finished (before Python 3.13).
    try:
        done.wait()
    except KeyboardInterrupt:
        engine.runtime.interrupt()
        done.wait()
    if isinstance(box[0], BaseException):
        raise box[0]
    return box[0]


def _files(outcome: Outcome, runtime: Runtime) -> list[Path]:
    found = []
    for shown in outcome.outputs.values():
        for entry in shown.get("images", []):
            path = runtime.folders.find(entry["filename"], entry["type"], entry["subfolder"])
            if path is not None:
                found.append(path)
    return found
