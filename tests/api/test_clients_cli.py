"""comfy-cli, the official command line client, drives every host unchanged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from host_client import PATIENCE, load_prompt, node_of
from hosts import ROOT, Server

COMFY = Path(sys.executable).with_name("comfy")
TWO_REFERENCES = ROOT / "workflows/api/two_references.json"


def comfy_run(server: Server, home: Path, workflow: Path) -> subprocess.CompletedProcess[str]:
    """`comfy run --wait` with a home folder of its own and without telemetry."""
    if not COMFY.is_file():
        pytest.skip(f"no comfy-cli beside {sys.executable}")
    command = [str(COMFY), "--skip-prompt", "--no-enable-telemetry", "run"]
    command += ["--workflow", str(workflow), "--host", "127.0.0.1", "--port", str(server.port)]
    env = os.environ | {"HOME": str(home), "DO_NOT_TRACK": "1", "NO_COLOR": "1"}
    return subprocess.run(
        [*command, "--wait", "--timeout", str(int(PATIENCE))],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )


def _workflow(folder: Path, **sampler: Any) -> Path:
    prompt = load_prompt(TWO_REFERENCES)
    prompt[node_of(prompt, "KontextSampler")]["inputs"] |= {"steps": 2} | sampler
    path = folder / "two_references.json"
    path.write_text(json.dumps(prompt), encoding="utf-8")
    return path


@pytest.mark.slow
def test_run_waits_and_names_the_picture(server: Server, tmp_path: Path) -> None:
    before = set(server.output.rglob("*.png"))
    done = comfy_run(server, tmp_path, _workflow(tmp_path, seed=201))
    assert done.returncode == 0, done.stdout + done.stderr
    [written] = set(server.output.rglob("*.png")) - before
    assert written.name in done.stdout


@pytest.mark.slow
def test_run_reports_a_refused_workflow(server: Server, tmp_path: Path) -> None:
    done = comfy_run(server, tmp_path, _workflow(tmp_path, steps=0))
    assert done.returncode != 0
    assert "steps" in done.stdout + done.stderr
