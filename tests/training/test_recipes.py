"""The recipes, as commands, for a few steps: killed and resumed they give the same run."""

import signal
import time

import pytest
import torch
from recipe_runs import finish, rows, same, start
from safetensors.torch import load_file

from kontext_lab.training.checkpoint import load_state

SMALL = (
    "--width", "64", "--heads", "2", "--depth", "1", "--singles", "2", "--batch", "0.05",
    "--threads", "1", "--workers", "0", "--steps", "4", "--cool", "2", "--save-every", "2",
)  # fmt: skip


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

    exported, mean = folder / "exported", folder / "mean"
    pca = ("--pca", folder / "pca.safetensors")
    finish(start("export", "--flux", straight / "last.pt", "--out", exported, *pca))
    finish(start(
        "export", "--flux", student / "last.pt", "--out", mean, "--mean", exported, *pca,
    ))  # fmt: skip
    begun = load_file(exported / "transformer.safetensors")
    for key, value in load_file(mean / "transformer.safetensors").items():
        both = after[f"flux.{key}"].half().float() + begun[key].float()
        assert torch.equal(value, (both / 2).half()), key
