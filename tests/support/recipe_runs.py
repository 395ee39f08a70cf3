"""Recipes as processes that can be killed, and whether two runs are the same."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from kontext_core.finetune.run_log import read_log

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def start(name, *options):
    command = [sys.executable, "-m", f"kontext_lab.recipes.{name}", *map(str, options)]
    return subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(process):
    out = process.communicate(timeout=240)[0]
    assert process.returncode == 0, out
    return out


def rows(run):
    """The log without what depends on the clock."""
    return [
        {key: value for key, value in row.items() if key not in ("seconds", "ms")}
        for row in read_log(run / "log.jsonl")
    ]


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other
