"""`--ray` of `bench run` and `bench anchor answer`: on a stand-in, and on Ray itself where it is installed."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from benchmark_copies import kontextbench
from fake_ray import FakeRay

from kontext_core import InputError
from kontext_lab.__main__ import main
from kontext_lab.anchor.folder import write_anchor
from kontext_lab.evaluation.cases import read_cases, turns
from kontext_lab.evaluation.cluster import TRIES, AnswerCluster
from kontext_lab.evaluation.rows import EditRow, read_rows
from kontext_lab.evaluation.runner import ASKED, AnswerSettings, our_arm, run_cases

SETTINGS = AnswerSettings(steps=1)


def run(bench: Path, model: Path, out: Path, *more: str) -> list[str]:
    return ["bench", "run", "--data", str(bench), "--model", str(model), "--steps", "1", "--out",
            str(out), *more]  # fmt: skip


def timeless(rows: list[EditRow]) -> set[str]:
    return {repr(replace(row, seconds=None)) for row in rows}


def pictures(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(place.rglob("*.png"))}


def test_a_cluster_gives_what_one_process_gives(
    model_folder: Path, tmp_path: Path, fake_ray: FakeRay
) -> None:
    bench, one, many = kontextbench(tmp_path / "bench"), tmp_path / "one", tmp_path / "many"
    more = ("--seeds", "2", "--fewer-steps", "2")
    assert main(run(bench, model_folder, one, *more)) == 0
    # The first of each kind, then the rest: nothing is answered twice.
    assert main(run(bench, model_folder, many, *more, "--ray", "--ray-workers", "2")) == 0
    assert len(fake_ray.actors) == 2 and not fake_ray.open
    assert timeless(read_rows(many)) == timeless(read_rows(one)) and len(read_rows(one)) == 20
    assert all(row.seconds is not None for row in read_rows(many))
    for folder in ("pictures", "pictures-2-steps"):
        assert pictures(many / folder) == pictures(one / folder)
    lines = (many / "rows.jsonl").read_text()
    # It goes on, there or here.
    kept = "".join(line for line in lines.splitlines(keepends=True)[:7])
    (many / "rows.jsonl").write_text(kept)
    assert main(run(bench, model_folder, many, *more, "--ray", "auto")) == 0
    assert timeless(read_rows(many)) == timeless(read_rows(one))
    assert len((many / "rows.jsonl").read_text().splitlines()) == 20
    assert main(run(bench, model_folder, many, *more)) == 0


def test_turns_wait_for_each_other(model_folder: Path, tmp_path: Path, fake_ray: FakeRay) -> None:
    bench = kontextbench(tmp_path / "bench", 4)
    table = bench / "test/metadata.jsonl"
    table.write_text(
        table.read_text().replace("0002.png", "0000.png").replace("0003.png", "0001.png")
    )
    cases = turns(read_cases("kontextbench", bench), 2)
    with AnswerCluster(str(model_folder), "cpu", workers=2) as cluster:
        arm = our_arm(None, SETTINGS)
        rows = run_cases(cases, [arm], [], tmp_path / "many", spread=cluster.spread)
        with pytest.raises(InputError, match="which is not among the cases"):
            run_cases(cases[1:2], [arm], [], tmp_path / "part", spread=cluster.spread)
    done = [row.key for row in rows]
    assert done.index("0/turn-1") < done.index("0/turn-2")
    assert main(run(bench, model_folder, tmp_path / "one", "--turns", "2")) == 0
    assert pictures(tmp_path / "many" / "pictures") == pictures(tmp_path / "one" / "pictures")


def test_workers_that_die_and_cases_that_can_not_be_answered(
    model_folder: Path, tmp_path: Path, fake_ray: FakeRay
) -> None:
    cases = read_cases("kontextbench", kontextbench(tmp_path / "bench", 3))
    arm = our_arm(None, SETTINGS)
    with AnswerCluster(str(model_folder), "cpu", workers=1) as cluster:
        fake_ray.actors[0].dies = TRIES - 1
        rows = run_cases(cases, [arm], [], tmp_path / "out", spread=cluster.spread)
        assert sorted(row.key for row in rows) == ["0", "1", "2"]
        fake_ray.actors[0].dies = 100
        with pytest.raises(InputError, match=f"was lost with its worker {TRIES} times"):
            run_cases(cases, [arm], [], tmp_path / "dead", spread=cluster.spread)
        fake_ray.actors[0].dies = 0
        wrong = our_arm(None, AnswerSettings(method="beside"))
        with pytest.raises(InputError, match="beside"):
            run_cases(cases, [wrong], [], tmp_path / "wrong", spread=cluster.spread)
        (tmp_path / "bench/test/images/0001.png").unlink()
        with pytest.raises(InputError, match="a picture of '1' can't be read"):
            run_cases(cases, [arm], [], tmp_path / "gone", spread=cluster.spread)
    assert not fake_ray.open


def test_the_order_of_references_is_answered_there_too(
    model_folder: Path, tmp_path: Path, fake_ray: FakeRay
) -> None:
    folder = write_anchor(tmp_path / "bench", cases=4, side=64)
    words = ["bench", "anchor", "answer", str(folder)]
    more = ["--model", str(model_folder), "--steps", "1"]
    assert main([*words, str(tmp_path / "one"), *more]) == 0
    assert main([*words, str(tmp_path / "many"), *more, "--ray", "--cases", "2"]) == 0
    assert main([*words, str(tmp_path / "many"), *more, "--ray"]) == 0
    assert pictures(tmp_path / "many") == pictures(tmp_path / "one")
    assert len(pictures(tmp_path / "one")) == 4


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (["--ray", "ray://none"], "no Ray cluster at 'ray://none'"),
        (["--ray", "--ray-workers", "0"], "--ray-workers is 0"),
        (["--ray-workers", "2"], "without --ray"),
        (["--ray", "--answers", "x"], "leave one out"),
    ],
)
def test_options_that_do_not_fit(
    more: list[str], problem: str, model_folder: Path, tmp_path: Path, fake_ray: FakeRay,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = run(kontextbench(tmp_path / "bench"), model_folder, tmp_path / "out", *more)
    if "--answers" in more:
        words.remove("--model")
        words.remove(str(model_folder))
    assert main(words) == 1
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_ray_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    words = run(kontextbench(tmp_path / "bench"), Path("tiny"), tmp_path / "out", "--ray")
    assert main(words) == 1
    assert "pip install ray, here and on every machine of the cluster, or leave --ray out" in (
        capsys.readouterr().err
    )


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_on_a_real_cluster(model_folder: Path, tmp_path: Path) -> None:
    bench, one, many = kontextbench(tmp_path / "bench"), tmp_path / "one", tmp_path / "many"
    assert main(run(bench, model_folder, one)) == 0
    assert main(run(bench, model_folder, many, "--ray", "--ray-workers", "2")) == 0
    assert pictures(many / "pictures") == pictures(one / "pictures")
    assert json.loads((many / "results.json").read_text())["arms"][ASKED]["all"]
