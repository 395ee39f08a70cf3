"""`python -m kontext_core train-lora`: what it writes, killed in the middle, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from kontext_core.__main__ import main
from kontext_core.lora import load_lora

ROOT = Path(__file__).parents[2]


def command(folder: Path, model: Path, out: Path, *more: str) -> list[str]:
    return [
        "train-lora", str(folder), "--model", str(model), "--out", str(out), "--steps", "6",
        "--batch", "2", "--rank", "2", "--rate", "0.01", "--save-every", "2", *more,
    ]  # fmt: skip


def losses(run: Path) -> list[tuple[int, float]]:
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [(row["step"], row["loss"]) for row in map(json.loads, lines)]


def test_it_writes_a_lora_that_loads_and_samples(
    folder: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "mine.safetensors"
    more = ("--sample-every", "3", "--samples", "1", "--naming", "diffusers")
    assert main(command(folder, model_folder, out, *more)) == 0
    shown = capsys.readouterr()
    assert shown.out.strip() == str(out) and "loss=" in shown.err and "encoding" in shown.err
    lora = load_lora(out)
    assert lora.rank == 2 and "diffusers" in lora.format and not lora.unmatched
    assert [path.name for path in sorted((out.parent / "mine" / "samples").iterdir())] == [
        "step-000003-1.png", "step-000006-1.png",
    ]  # fmt: skip


def test_a_training_that_is_there_is_not_begun_anew_by_mistake(
    folder: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.safetensors"
    assert main(command(folder, model_folder, out, "--steps", "1")) == 0
    before = out.read_bytes()
    assert main(command(folder, model_folder, out)) == 1
    assert "add --resume" in capsys.readouterr().err and out.read_bytes() == before
    assert main(command(folder, model_folder, out, "--resume", "--steps", "2")) == 0
    assert [step for step, _ in losses(tmp_path / "mine")] == [1, 2]
    assert main(command(folder, model_folder, out, "--resume", "--rank", "3")) == 1
    assert "rank was 2, is 3" in capsys.readouterr().err


def test_what_can_not_work_is_told_before_anything_is_loaded(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "a.txt").unlink()
    for out, more, words in (
        ("a.safetensors", (), "a.txt: not there"),
        ("a.gguf", (), "ends in .safetensors"),
        ("a.safetensors", ("--rank", "0"), "rank is 0"),
        ("a.safetensors", ("--method", "beside"), "placement method"),
    ):
        assert main(command(folder, tmp_path / "no model", tmp_path / out, *more)) == 1
        assert words in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_with_the_same_curve(
    folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole.safetensors", tmp_path / "killed.safetensors"
    assert main(command(folder, model_folder, whole, "--steps", "40")) == 0
    words = command(folder, model_folder, killed, "--steps", "40")
    process = subprocess.Popen(
        [sys.executable, "-m", "kontext_core", *words], cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    state = killed.with_suffix("") / "state.safetensors"
    deadline = time.time() + 120
    while not state.exists() and process.poll() is None and time.time() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert state.exists()
    load_file(state)
    assert main([*words, "--resume"]) == 0
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    one, other = load_file(whole), load_file(killed)
    assert one.keys() == other.keys()
    # Measured 0: the same numbers in both processes.
    assert all((one[key] - other[key]).abs().max() < 1e-6 for key in one)
