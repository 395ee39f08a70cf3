"""ComfyScript, graphs as Python code, drives every host unchanged.

It brings half a gigabyte of packages, so it has an environment of its own, in the folder
clients/comfy-script of the tests' environment, or wherever COMFY_SCRIPT_PYTHON says:

    python -m venv .venv/clients/comfy-script
    .venv/clients/comfy-script/bin/pip install "comfy-script[default]==0.6.1"
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from host_client import PATIENCE
from hosts import ROOT, Server
from PIL import Image

SCRIPT = ROOT / "tests/support/comfy_script_run.py"


def _python() -> Path:
    named = os.environ.get("COMFY_SCRIPT_PYTHON")
    python = Path(named or f"{sys.prefix}/clients/comfy-script/bin/python")
    if not python.is_file():
        pytest.skip(f"no ComfyScript: {python} is not there; see this file's first lines")
    return python


@pytest.mark.slow
def test_a_graph_written_in_python_runs(server: Server, tmp_path: Path) -> None:
    before = set(server.output.rglob("*.png"))
    done = subprocess.run(
        [str(_python()), str(SCRIPT), server.url, "401"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [written] = set(server.output.rglob("*.png")) - before
    assert written.name.startswith("comfy_script")
    assert Image.open(written).size == (64, 64)
