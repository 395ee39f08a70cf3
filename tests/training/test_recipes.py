"""The recipes, as commands, for a few steps: killed and resumed they give the same run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from kontext_core.finetune.run_log import read_log
from kontext_lab.training.checkpoint import load_state

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
SMALL = (
    "--width", "64", "--heads", "2", "--depth", "1", "--singles", "2", "--batch", "0.05",
    "--threads", "1", "--workers", "0", "--steps", "4", "--cool", "2", "--save-every", "2",
)  # fmt: skip


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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipes")
    finish(start("fit_pca", "--out", folder / "pca.safetensors", "--count", 128))
    return folder


@pytest.fixture(scope="module")
def text(folder):
    run = folder / "text"
    options = ("--steps", 4, "--batch", 8, "--save-every", 2, "--workers", 0)
    finish(start("train_text", "--run", run, *options))
    return run, options


def test_text_recipe_resumes_to_the_same_numbers(text, folder):
    run, options = text
    again = folder / "text-again"
    finish(start("train_text", "--run", again, *options, "--stop-at", 2))
    out = finish(start("train_text", "--run", again, *options))
    assert "going on at step 2" in out
    assert same(load_state(run / "last.pt"), load_state(again / "last.pt"))


def test_a_killed_run_goes_on_as_if_nothing_had_happened_and_is_distilled(text, folder):
    shared = ("--pca", folder / "pca.safetensors", "--text", text[0] / "last.pt", *SMALL)
    straight, killed = folder / "flux", folder / "flux-killed"
    finish(start("train_flux", "--run", straight, *shared))
    process = start("train_flux", "--run", killed, *shared)
    deadline = time.time() + 120
    while not (killed / "last.pt").exists() and process.poll() is None and time.time() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (killed / "last.pt").exists()
    finish(start("train_flux", "--run", killed, *shared))
    assert same(load_state(straight / "last.pt"), load_state(killed / "last.pt"))
    assert rows(straight) == rows(killed)
    assert rows(straight)[-1]["step"] == 4

    student = folder / "student"
    finish(start(
        "distill", "--teacher", straight / "last.pt", "--run", student, "--steps", 2,
        "--pca", folder / "pca.safetensors", "--batch", 0.05, "--threads", 1, "--workers", 0,
    ))  # fmt: skip
    state = load_state(student / "last.pt")
    before = load_state(straight / "last.pt")["ema"]["average"]
    after = state["ema"]["average"]
    assert before.keys() == after.keys()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved and all(key.startswith("flux.") for key in moved)
