"""`benchmarks/gpu.py` works the first time a GPU is there: all of it is rehearsed on the CPU."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/gpu.py"


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_bench", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "gpu.jsonl").read_text().splitlines()]


def test_a_rehearsal_has_every_part(gpu: ModuleType, tmp_path: Path) -> None:
    assert gpu.main(["--dry", "--out", str(tmp_path)]) == 0
    rows = rows_of(tmp_path)
    assert [row for row in rows if "failed" in row] == []
    assert {row["part"] for row in rows} == {"machine", *gpu.PARTS}
    assert all(row["ok"] for row in rows if "ok" in row)
    said = [row["what"] for row in rows if row["part"] == "edit"]
    assert "run of 6 steps, 2 references, fast" in said
    regional = next(row for row in rows if row.get("what", "").endswith("1 references, region"))
    assert "0 regional" not in regional["computed"]
    table = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert len(table.splitlines()) == len(rows) + 2


def test_what_fails_is_told_and_the_rest_goes_on(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Any) -> Any:
        raise RuntimeError("no kernel image is available")

    monkeypatch.setitem(gpu.PARTS, "forward", (broken, 0))
    code = gpu.main(["--dry", "--only", "forward,autoencoder", "--out", str(tmp_path)])
    rows = rows_of(tmp_path)
    assert code == 1
    assert "RuntimeError: no kernel image is available (test_gpu_bench.py:" in rows[1]["failed"]
    assert {row["part"] for row in rows[2:]} == {"autoencoder"}


def test_no_part_begins_without_time(gpu: ModuleType, tmp_path: Path) -> None:
    gpu.main(["--dry", "--minutes", "-1", "--only", "parity,edit", "--out", str(tmp_path)])
    assert all("left out" in row for row in rows_of(tmp_path)[1:])


@pytest.mark.parametrize(
    ("given", "said"), [(["--dry", "--only", "speed"], "no part 'speed'; there are parity")]
)
def test_wrong_words_are_refused(
    gpu: ModuleType, given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        gpu.main(given)
    assert said in capsys.readouterr().err
