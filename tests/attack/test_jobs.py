"""The quick part of `python -m tests.attack jobs`: a dozen jobs over two models, some cancelled."""

from __future__ import annotations

from pathlib import Path

from attack_jobs import attack

COUNT = 12


def test_cancels_over_two_models_leave_a_host_that_works(tmp_path: Path) -> None:
    outcome = attack(0, COUNT, tmp_path)
    assert not outcome.failures, "\n".join(outcome.failures)
    assert sum(outcome.ended.values()) == COUNT and outcome.statuses[200] > COUNT
