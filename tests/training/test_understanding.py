"""Pretraining of the text encoder: the readout, its loss, and the log of a run."""

import json

import torch

from kontext_core.finetune.run_log import RunLog, read_log
from kontext_lab.training.understanding import SlotReadout, answers

SLOTS = {"task": ("none", "add", "move"), "colour": ("none", "red")}


def test_answers_are_places_in_the_lists():
    meanings = [{"task": "move", "colour": "none"}, {"task": "add", "colour": "red"}]
    assert answers(meanings, SLOTS).tolist() == [[2, 0], [1, 1]]


def test_values_a_slot_has_not_are_impossible_and_padding_is_unseen():
    torch.manual_seed(0)
    readout = SlotReadout(SLOTS, 8, 6)
    txt, vec = torch.randn(2, 5, 8), torch.randn(2, 6)
    real = torch.tensor([[True] * 3 + [False] * 2] * 2)
    by_token, by_vec = readout(txt, vec, real)
    assert by_token.shape == by_vec.shape == (2, 2, 3)
    assert bool((by_token[:, 1, 2] == float("-inf")).all())
    txt[:, 3:] = 100.0
    assert torch.equal(readout(txt, vec, real)[0], by_token)


def test_both_readouts_can_be_learned():
    torch.manual_seed(0)
    readout = SlotReadout(SLOTS, 8, 6)
    txt, vec = torch.randn(6, 5, 8), torch.randn(6, 6)
    real = torch.ones(6, 5, dtype=torch.bool)
    right = torch.tensor([[0, 0], [1, 1], [2, 0], [0, 1], [1, 0], [2, 1]])
    adam = torch.optim.Adam(readout.parameters(), lr=0.05)
    for _ in range(150):
        losses = readout.loss(txt, vec, real, right)
        adam.zero_grad()
        sum(losses).backward()
        adam.step()
    assert all(float(loss) < 0.05 for loss in losses)  # measured 1e-3 and less


def test_a_log_is_cut_back_to_the_checkpoint(tmp_path):
    path = tmp_path / "run" / "log.jsonl"
    first = RunLog(path, 0)
    for step in (10, 20, 30):
        first.write({"step": step, "loss": 1 / step})
    with path.open("a") as file:
        file.write('{"step": 40, "lo')  # killed while writing
    again = RunLog(path, 20)
    again.write({"step": 30, "loss": 0.5})
    assert [row["step"] for row in read_log(path)] == [10, 20, 30]
    assert json.loads(path.read_text().splitlines()[-1])["loss"] == 0.5
