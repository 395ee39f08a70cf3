"""The quick part of `python -m tests.attack files`: two hundred damaged files."""

from __future__ import annotations

from pathlib import Path

from attack_files import attack

COUNT = 200


def test_damaged_files_are_refused_or_used(tmp_path: Path) -> None:
    outcome = attack(0, COUNT, tmp_path)
    assert not outcome.failures, "\n".join(outcome.failures)
    # Measured: about one in two stays usable (other numbers, a renamed layer of a LoRA).
    assert outcome.refused > COUNT // 5 and outcome.used > COUNT // 10
    assert [path.name for path in tmp_path.iterdir()] == ["mutant.safetensors"]
