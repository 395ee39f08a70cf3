"""Runs a script inside a real ComfyUI's own interpreter and gives back what it returned.

A script is a Python file with `main(pack, *arguments)`: `pack` is this pack, imported as the host
would; every value that JSON knows may be returned. Inside, `comfy`, `nodes` (the host's),
`folder_paths` and tests/support can be imported, and the host computes on the CPU.
Start-up takes seconds: let one script compute all cases and assert on them one by one outside.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hosts import ROOT, Host, HostFailed, Missing, all_hosts

INSIDE = Path(__file__).with_name("native_inside.py")


def native_hosts() -> list[Any]:
    """Parameters for fixtures: every ComfyUI checkout, or one skip that says what to set."""
    params = []
    for host in all_hosts():
        if isinstance(host, Missing):
            skip = pytest.mark.skip(reason=host.reason)
            params.append(pytest.param(host, id=host.name, marks=[pytest.mark.comfyui, skip]))
        elif host.is_comfyui:
            params.append(pytest.param(host, id=host.name, marks=[pytest.mark.comfyui]))
    return params


def run_in_host(
    host: Host,
    script: Path,
    *arguments: object,
    flags: tuple[str, ...] = (),
    timeout: float = 900.0,
    start: tuple[str, ...] = (),
) -> Any:
    """What `main` of the script returned, from JSON.

    Args:
        host: one of `native_hosts`.
        script: the file; must not import pytest, which the host's environment lacks.
        arguments: for `main`, as text.
        flags: more options of ComfyUI's main.py, such as "--lowvram".
        timeout: seconds.
        start: a command to put before the interpreter.

    Raises:
        HostFailed: the script raised; the end of its output is in the message.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        python = [*start, str(host.python), str(INSIDE)]
        call = [*python, str(host.checkout), str(ROOT), str(script.resolve()), str(result), folder]
        done = subprocess.run(
            [*call, json.dumps(flags), *(str(a) for a in arguments)],
            cwd=folder,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )
        if done.returncode or not result.is_file():
            raise HostFailed(f"{host.name}, {script.name}:\n{done.stdout[-6000:]}")
        # Shown by pytest when a test fails.
        sys.stdout.write(done.stdout[-6000:])
        return json.loads(result.read_text(encoding="utf-8"))
