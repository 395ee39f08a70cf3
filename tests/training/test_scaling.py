"""Training by several processes is training by one, and its checkpoints fit any number of them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from kontext_core.errors import InputError
from kontext_core.finetune.run_log import read_log
from kontext_core.models.flux import Flux
from kontext_core.weights.load import load_model
from kontext_lab.training.batch import Group
from kontext_lab.training.begin import build_flux
from kontext_lab.training.checkpoint import load_state
from kontext_lab.training.scaling import CHECKPOINTING, Ranks, block_call

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
OPTIONS = (
    "--begin", "kontext_core/assets/tiny", "--cool", "1", "--batch", "0.05", "--threads", "1",
    "--workers", "0", "--precision", "float32", "--save-every", "2", "--no-probes",
)  # fmt: skip


def train(run: Path, *options: object, processes: int = 1) -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = ("torch.distributed.run", "--nproc-per-node", processes, "--master-port", port)
    start = (*launch, "-m") if processes > 1 else ()
    words = ("-m", *start, "kontext_lab.recipes.train_flux", "--folder", run, *OPTIONS, *options)
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=ROOT, env=ENVIRONMENT, text=True, timeout=280,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    # Stopped at the same step: a row of the log is the mean since the one before.
    train(one, "--more", 3, "--stop-at", 2)
    train(one, "--more", 3)
    train(two, "--more", 3, "--stop-at", 2, "--checkpointing", "selective", processes=2)
    # A run of two goes on at its step, as one.
    out = train(two, "--more", 3)
    assert "going on at step 2" in out
    first, second = load_state(one / "last.pt"), load_state(two / "last.pt")
    assert first["step"] == second["step"] == 3 and first["seen"] == second["seen"]
    began = load_model("tiny").state_dict()
    moved = max(float((t - began[name]).abs().max()) for name, t in first["flux"].items())
    apart = max(float((second["flux"][n] - t).abs().max()) for n, t in first["flux"].items())
    # Sums in another order. Measured after two steps by two: 6e-7, where weights have moved by 4e-4.
    assert moved > 1e-4 and apart < 5e-6
    losses = [[row["loss"] for row in read_log(run / "log.jsonl")[-2:]] for run in (one, two)]
    assert losses[0] == pytest.approx(losses[1], abs=2e-4)


def group(count: int) -> Group:
    ids = torch.arange(count)[:, None]
    rows = torch.arange(count).float()
    target = rows[:, None, None, None].expand(-1, 16, 2, 2)
    label = torch.zeros(count, 1, 4, dtype=torch.long)
    return Group(ids, target, [target], label, label, torch.ones(count, 1))


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_sample_is_computed_once(count: int, world: int) -> None:
    seen: list[int] = []
    for rank in range(world):
        ranks = Ranks(rank, world, torch.device("cpu"))
        mine, (beside,) = ranks.share(group(count), torch.arange(count))
        assert len(mine.ids) == len(beside) >= 1
        assert torch.equal(mine.ids[:, 0], beside)
        seen += [int(i) for i, weight in zip(beside, mine.weight[:, 0], strict=True) if weight]
    assert sorted(seen) == list(range(count))


def gradients(flux: Flux, call: object) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    img, txt = (torch.randn(1, n, c, generator=generator) for n, c in ((8, 64), (4, 128)))
    flux.zero_grad()
    out = flux(
        img, torch.zeros(1, 8, 3), txt, torch.zeros(1, 4, 3), torch.tensor([0.5]),
        torch.randn(1, 128, generator=generator), torch.tensor([1.0]), call=call,
    )  # fmt: skip
    out.square().sum().backward()
    return [p.grad.clone() for p in flux.parameters() if p.grad is not None]


@pytest.mark.parametrize("kind", CHECKPOINTING[1:])
def test_what_is_forgotten_changes_no_gradient(kind: str) -> None:
    flux = build_flux(48, 2, 1, 2)
    with torch.no_grad():
        for layer in flux.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.1)
    plain = gradients(flux, block_call("none"))
    assert max(float(each.abs().max()) for each in plain) > 0.1
    for one, other in zip(plain, gradients(flux, block_call(kind)), strict=True):
        # Measured 0: the same operations.
        torch.testing.assert_close(other, one, rtol=0, atol=1e-6)


def test_another_kind_of_checkpointing_is_refused() -> None:
    with pytest.raises(InputError, match="checkpointing is 'some'"):
        block_call("some")
