"""The quick part of `python -m tests.attack kills`: two kills of every job."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes are forked")


def test_killed_jobs_leave_whole_files_and_the_next_run_nothing_else(tmp_path: Path) -> None:
    from attack_kills import JOBS, attack

    outcome = attack(0, 2 * len(JOBS), tmp_path)
    assert not outcome.failures, "\n".join(outcome.failures)
    assert set(outcome.kills.values()) == {2}
