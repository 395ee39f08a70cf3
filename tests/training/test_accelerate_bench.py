"""`bench accelerate`: what is saved at FLUX.1's size, and the study on a random model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kontext_core import Pipeline
from kontext_core.accelerate import PRESETS, Acceleration, Pruning, Region, Reuse, StepReuse
from kontext_lab.__main__ import main
from kontext_lab.bench.accelerate import ARMS, GLOBAL, accelerate_cases, at_flux_size, study, table
from kontext_lab.bench.saving import saved

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks/results/accelerate.json"
# Three full steps, six with references reused, 19 regional ones of which half are skipped.
TOGETHER = Acceleration(Reuse(0.0, 16, 1), StepReuse(1.0, 0.22, 2, 1), Region())


def test_a_region_with_references_reused_in_the_warm_up() -> None:
    """The aims: 3.5 times with one reference and a quarter that changes, 4.4 with two; RegionE's own
    nine full steps give 2.62."""
    report = saved(TOGETHER, changing=0.25)
    assert (report.full, report.reused, report.regional, report.skipped) == (3, 6, 9, 10)
    assert report.region == 0.25
    assert 1 / report.work == pytest.approx(3.59, abs=0.01)
    assert 1 / saved(TOGETHER, changing=0.25, references=2).work == pytest.approx(4.47, abs=0.01)
    alone = Acceleration(steps=TOGETHER.steps, region=TOGETHER.region)
    assert 1 / saved(alone, changing=0.25).work == pytest.approx(2.64, abs=0.01)
    # Where all changes, there is no region.
    assert saved(TOGETHER).regional == 0


def test_reuse_and_pruning_at_full_size() -> None:
    """The shares of performance.md's table: 0.53, 0.36 and 0.22 of a full step."""
    for references, share in ((1, 0.53), (2, 0.36), (4, 0.22)):
        work = saved(Acceleration(Reuse(0.0, 1000, 0)), references=references).work
        assert work * 28 - 1 == pytest.approx(27 * share, abs=0.2)
    few = saved(Acceleration(pruning=Pruning(600 / 4096, 0.0, 1000)), references=2)
    assert 1 / few.work == pytest.approx(2.6, abs=0.1)
    assert saved(None).work == 1
    report = saved(TOGETHER, changing=0.25)
    assert at_flux_size(report) == pytest.approx(report.work, abs=0.01)


def test_presets_save_more_from_one_to_the_next() -> None:
    for references in (1, 2, 4):
        for changing in (0.25, 1.0):
            work = [
                saved(PRESETS[name], references=references, changing=changing).work
                for name in ("off", "safe", "balanced", "fast")
            ]
            assert work == sorted(work, reverse=True)
            assert len(set(work)) == 4


def test_the_study(small_pipeline: Pipeline) -> None:
    """A run compared with itself is 100 dB; floors and controls stand beside."""
    cases = [accelerate_cases(1)[0], accelerate_cases(1)[-1]]
    told: list[int] = []
    arms = {"all": Acceleration(Reuse(1.0)), "fast": Acceleration(Reuse(0.0, 8, 0))}
    found = study(small_pipeline, cases, arms, steps=3, tick=told.append)
    rows = found["rows"]
    assert list(rows) == ["full", "another seed", "another kernel", "bfloat16", "all", "fast"]
    assert rows["full"]["local"]["psnr"] == rows["all"]["local"]["psnr"] == 100
    assert rows["another seed"]["local"]["psnr"] < 90
    assert found["like_for_like"]["all"]["steps"] == 3
    assert found["like_for_like"]["fast"]["steps"] < 3
    assert found["flux"]["all"]["1 references, 1 changes"] == 1
    printed = table(found)
    assert len(printed.header) == len(printed.rows[0])
    # Nothing is left rounded, or with another kernel.
    assert study(small_pipeline, cases, {}, steps=3)["rows"]["full"] == {
        **rows["full"], "seconds": 1.0,
    }  # fmt: skip


def test_the_command_writes_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    model_folder: Path,
) -> None:  # fmt: skip
    monkeypatch.setattr("kontext_lab.bench.accelerate.ARMS", {"fast": PRESETS["fast"]})
    path = tmp_path / "new/accelerate.json"
    main(["bench", "accelerate", "--quick", "--model", str(model_folder), "--out", str(path)])
    assert "another seed" in capsys.readouterr().out
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["cases"] == 2
    assert found["steps"] == 4


def test_the_kept_results_are_of_todays_settings() -> None:
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert set(ARMS) <= set(found["rows"])
    assert {name: set(row) >= {"local", "global"} for name, row in found["rows"].items()} == (
        dict.fromkeys(found["rows"], True)
    )
    assert found["cases"] % (6 + len(GLOBAL)) == 0
    for name in ARMS:
        for key, times in found["flux"][name].items():
            references, changing = key.split(" references, ")
            share = float(changing.split()[0])
            now = saved(ARMS[name], references=int(references), changing=share)
            assert times == pytest.approx(1 / now.work, abs=0.01)
