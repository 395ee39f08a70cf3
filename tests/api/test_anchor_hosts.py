"""The benchmark of order and layout through a host's API: its own graphs and tables, as docs/evaluation.md says."""

from __future__ import annotations

import json
from pathlib import Path

import embedded_host  # noqa: F401  makes `standalone` importable
import numpy as np
import pytest
from hosts import Server
from PIL import Image

from kontext_core.pipeline import load_pipeline
from kontext_lab.__main__ import main as lab
from kontext_lab.anchor.answering import answer_questions
from kontext_lab.anchor.folder import write_anchor
from kontext_lab.evaluation.runner import AnswerSettings
from standalone.__main__ import main as standalone

STEPS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two cases of each count of pictures that come first."""
    made = write_anchor(tmp_path_factory.mktemp("anchor") / "bench", cases=20, side=96)
    kept: set[str] = set()
    for table in (made / "rows").iterdir():
        lines = table.read_text(encoding="utf-8").splitlines(keepends=True)[:2]
        table.write_text("".join(lines), encoding="utf-8")
        kept |= {json.loads(line)["name"] for line in lines}
    table = made / "test/metadata.jsonl"
    lines = table.read_text(encoding="utf-8").splitlines(keepends=True)
    table.write_text("".join(x for x in lines if json.loads(x)["key"] in kept), encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def ours(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("ours") / "answers"
    return answer_questions(folder, place, load_pipeline("tiny"), AnswerSettings(steps=STEPS))


def test_a_host_answers_with_the_folders_own_graphs(
    server: Server, folder: Path, ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = tmp_path / "answers"
    counts = sorted(path.stem for path in (folder / "rows").iterdir())
    assert counts == ["1", "2", "3"]
    for count in counts:
        words = [
            "batch", f"{folder}/workflows/{count}.json", "--rows", f"{folder}/rows/{count}.jsonl",
            "--images", f"{folder}/test", "--output", str(answers), "--server", server.url,
            "--set", f"steps={STEPS}",
        ]  # fmt: skip
        assert standalone(words) == 0, capsys.readouterr()
    made = sorted(path.name for path in answers.glob("*.png"))
    assert made == sorted(path.name for path in ours.glob("*.png")) and len(made) == 6
    gaps = {}
    for name in made:
        with Image.open(answers / name) as one, Image.open(ours / name) as other:
            assert one.size == other.size == (64, 64)
            gaps[name] = int(np.abs(np.asarray(one, int) - np.asarray(other, int)).max())
    # What `bench anchor answer` gives. Measured on three hosts: 1 of 255.
    assert max(gaps.values()) <= 2
    capsys.readouterr()
    assert lab(["bench", "anchor", "judge", str(folder), str(answers)]) == 0
    assert "all" in capsys.readouterr().out
    told = json.loads((answers / "anchor.json").read_text(encoding="utf-8"))
    assert len(told["answers"]) == 6
    assert not any("problem" in mark for mark in told["answers"].values())
