"""Published benchmarks by our runner: reading them, rows that survive a kill, scores, reports, commands."""

from __future__ import annotations

import builtins
import io
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmark_copies import CATEGORIES, gedit_rows, imgedit, kontextbench, multibanana, png
from judge_server import JudgeServer, chat
from PIL import Image

from kontext_core import InputError, Pipeline
from kontext_core.errors import UnscoredError
from kontext_core.models.autoencoder import AutoEncoder
from kontext_lab.__main__ import main
from kontext_lab.evaluation.answer import Answer
from kontext_lab.evaluation.cases import EditCase, read_cases, turns
from kontext_lab.evaluation.intervals import bootstrap
from kontext_lab.evaluation.report import Wins, pairs, summary, tables, wins_by_figure
from kontext_lab.evaluation.rows import EditRow, read_rows, row_file
from kontext_lab.evaluation.runner import AnswerSettings, Arm, our_arm, run_cases
from kontext_lab.evaluation.scorers import NamedScorer, make_scorer, pixels
from kontext_lab.evaluation.vae import pictures_of, reconstruct, table

GREY = torch.full((1, 64, 64, 3), 0.5)


def grey(case: EditCase, seed: int) -> torch.Tensor:
    return GREY


# Reading.


def test_kontextbench_as_a_folder(tmp_path: Path) -> None:
    cases = read_cases("kontextbench", kontextbench(tmp_path))
    assert [case.key for case in cases] == ["0", "1", "2", "3", "4"]
    assert [case.category for case in cases] == list(CATEGORIES)
    assert cases[1].instruction == "make it brighter, 1"
    assert cases[0].pictures()[0].shape == (1, 64, 64, 3)
    assert cases[0].right() is None and cases[0].area() is None


def test_imgedit(tmp_path: Path) -> None:
    cases = read_cases("imgedit", imgedit(tmp_path))
    assert [(case.key, case.category) for case in cases] == [("1082", "replace"), ("68", "remove")]
    assert read_cases("imgedit", tmp_path / "basic_edit.json")[0].images == cases[0].images


def test_multibanana_keeps_the_order_of_its_pictures(tmp_path: Path) -> None:
    one, other = read_cases("multibanana", multibanana(tmp_path))
    assert (one.key, one.category, one.instruction) == (
        "3_back/006", "3_back", "put image 1 before image 2",
    )  # fmt: skip
    # Answers that its own scripts left there are no references.
    assert len(one.images) == 3
    assert [picture.shape[2] for picture in other.pictures()] == [64 + n for n in range(11)]


def test_parquet_of_gedit_and_kontextbench(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.Table.from_pylist(gedit_rows()), tmp_path / "train-0.parquet")
    assert [c.instruction for c in read_cases("gedit", tmp_path)] == ["make it blue", "greener"]
    assert [c.instruction for c in read_cases("gedit", tmp_path, language="cn")] == ["变蓝"]
    rows = [
        {
            "image": {"bytes": png("red"), "path": "0.png"},
            "key": "0",
            "category": "Text Editing",
            "instruction": "x",
        }
    ]
    file = tmp_path / "k" / "test-0.parquet"
    file.parent.mkdir()
    parquet.write_table(arrow.Table.from_pylist(rows), file)
    for path in (file, file.parent):
        (case,) = read_cases("kontextbench", path)
        assert case.pictures()[0].shape == (1, 64, 64, 3)
    file.write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match="is it a parquet file"):
        read_cases("kontextbench", file)


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match="pip install pyarrow"):
        read_cases("kontextbench", tmp_path)


@pytest.mark.parametrize(
    "line, problem",
    [
        ('{"key": 1', "is not JSON"),
        ("[1]", "is not an object"),
        ('{"file_name": "images/0000.png", "category": "x", "instruction": "y"}', "None as key"),
        ('{"key": "1", "category": "x", "instruction": "y", "file_name": "../../secret.png"}', "without '..'"),
        ('{"key": "../1", "category": "x", "instruction": "y", "file_name": "images/0000.png"}', "can't be a file's"),
        ('{"key": 0, "category": "x", "instruction": "y", "file_name": "images/0000.png"}', "twice"),
    ],
)  # fmt: skip
def test_damaged_rows_are_refused(tmp_path: Path, line: str, problem: str) -> None:
    path = kontextbench(tmp_path, 1) / "test/metadata.jsonl"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(InputError, match=problem):
        read_cases("kontextbench", tmp_path)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    for kind, problem in (
        ("kontextbench", "neither metadata.jsonl nor parquet"), ("imgedit", "basic_edit.json"),
        ("multibanana", "no case of the kind"), ("other", "unknown kind"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=problem):
            read_cases(kind, tmp_path)


# Rows and the runner.


def test_a_run_goes_on_and_later_scorers_are_added(tmp_path: Path) -> None:
    cases = read_cases("kontextbench", kontextbench(tmp_path / "bench"))
    made: list[tuple[str, int]] = []

    def make(case: EditCase, seed: int) -> torch.Tensor:
        made.append((case.key, seed))
        return GREY

    out = tmp_path / "out"
    run_cases(cases[:2], [Arm("asked", make)], [], out, seeds=(0, 1))
    rows = run_cases(
        cases[:3], [Arm("asked", make)], [NamedScorer("pixels", pixels)], out, seeds=(0, 1)
    )
    assert made == [(key, seed) for key in "012" for seed in (0, 1)]
    assert [(row.key, row.seed) for row in rows] == made
    assert all(set(row.scores["pixels"]) == {"psnr", "ssim", "changed"} for row in rows)
    lines = (out / "rows.jsonl").read_text().splitlines()
    assert len(lines) == 4 + 6
    assert read_rows(out) == rows
    run_cases(cases[:3], [Arm("asked", make)], [NamedScorer("pixels", pixels)], out, seeds=(0, 1))
    assert len((out / "rows.jsonl").read_text().splitlines()) == 10


def test_a_torn_line_is_taken_away_and_a_damaged_one_told(tmp_path: Path) -> None:
    row = EditRow("a", "c", 0, "asked", "a.png", 1.0)
    with row_file(tmp_path) as file:
        file.add(row)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(path.read_bytes() + b'{"key": "b", "cat')
    with row_file(tmp_path) as file:
        assert list(file.rows) == [("a", 0, "asked")]
        file.add(EditRow("b", "c", 0, "asked", "b.png", None))
    assert [each.key for each in read_rows(tmp_path)] == ["a", "b"]
    path.write_bytes(b'{"key": 1}\n' + path.read_bytes())
    with pytest.raises(InputError, match="line 1 of .* is no row"):
        read_rows(tmp_path)


def test_two_runs_do_not_write_one_folder(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with (
        row_file(tmp_path),
        pytest.raises(InputError, match="another run writes"),
        row_file(tmp_path),
    ):
        pass


WORKER = """
import sys, time
from pathlib import Path
import torch
from kontext_lab.evaluation.cases import read_cases
from kontext_lab.evaluation.runner import Arm, run_cases
from kontext_lab.evaluation.scorers import make_scorer

def make(case, seed):
    time.sleep(0.02)
    return torch.full((1, 64, 64, 3), float(case.key) / 100)

cases = read_cases("kontextbench", sys.argv[1])
run_cases(cases, [Arm("asked", make)], [make_scorer("pixels")], sys.argv[2])
"""


def test_a_run_killed_at_random_moments_ends_as_one_that_was_not(tmp_path: Path) -> None:
    bench, out = kontextbench(tmp_path / "bench", 12), tmp_path / "out"
    rng = random.Random(0)
    killed = 0
    for _ in range(12):
        worker = subprocess.Popen([sys.executable, "-c", WORKER, str(bench), str(out)])
        before = 0
        while worker.poll() is None:
            rows = out / "rows.jsonl"
            now = rows.stat().st_size if rows.exists() else 0
            # Killed once it has written something more, wherever it is by then.
            if now > before + 400 and killed < 3:
                time.sleep(rng.uniform(0, 0.03))
                os.kill(worker.pid, signal.SIGKILL)
                killed += 1
                worker.wait()
                break
            before = min(before or now, now)
            time.sleep(0.002)
        if worker.returncode == 0:
            break
    assert worker.returncode == 0 and killed == 3
    rows = read_rows(out)
    assert sorted(int(row.key) for row in rows) == list(range(12))
    for row in rows:
        with Image.open(out / row.file) as picture:
            assert picture.getpixel((50, 50))[0] == round(int(row.key) / 100 * 255)
    assert not list(out.rglob(".kontext-*"))


def test_answers_of_others_are_scored(tmp_path: Path) -> None:
    cases = read_cases("kontextbench", kontextbench(tmp_path / "bench", 2))
    given = tmp_path / "given"
    given.mkdir()
    (given / "0.png").write_bytes(png("red"))
    (given / "1-0.png").write_bytes(png("red", (128, 128)))
    arm = Arm("asked", answers=given)
    rows = run_cases(cases, [arm], [NamedScorer("pixels", pixels)], tmp_path / "out")
    assert rows[0].scores["pixels"] == {"psnr": 100.0, "ssim": 1.0, "changed": 0.0}
    assert rows[0].seconds is None and rows[1].scores["pixels"]["psnr"] < 10
    (given / "0.png").unlink()
    with pytest.raises(InputError, match="no answer to '0'"):
        run_cases(cases, [arm], [], tmp_path / "other")


def test_our_pipeline_answers_in_a_benchmarks_size(
    small_pipeline: Pipeline, tmp_path: Path
) -> None:
    (case, *_) = read_cases("kontextbench", kontextbench(tmp_path))
    wide = EditCase("w", "c", "x", case.images, size=(800, 480))
    arm = our_arm(small_pipeline, AnswerSettings(steps=1))
    assert arm.make is not None
    assert arm.make(case, 0).shape == (1, 64, 64, 3)
    assert arm.make(wide, 0).shape == (1, 48, 80, 3)


def test_what_can_not_be_scored_is_counted_not_averaged(tmp_path: Path) -> None:
    cases = read_cases("kontextbench", kontextbench(tmp_path / "bench", 4))

    def moody(answer: Answer) -> dict[str, float]:
        if answer.case.key in "13":
            raise UnscoredError("rubbish")
        return {"overall": 8.0}

    rows = run_cases(cases, [Arm("asked", grey)], [NamedScorer("vlm", moody)], tmp_path / "out")
    found = summary(rows)["asked"]["all"]
    assert found["figures"]["vlm.overall"] == {"n": 2, "mean": 8.0, "low": 8.0, "high": 8.0}
    assert found["unscored"] == {"vlm": 2}
    assert "vlm 2" in tables(summary(rows))[0].plain()
    # Tried again, and filed once it works.
    works = NamedScorer("vlm", lambda answer: {"overall": 2.0})
    rows = run_cases(cases, [Arm("asked", grey)], [works], tmp_path / "out")
    assert [row.scores["vlm"]["overall"] for row in rows] == [8.0, 2.0, 8.0, 2.0]
    assert not any(row.unscored for row in rows)


def test_turns_edit_the_last_answer_and_are_held_against_the_first_picture(tmp_path: Path) -> None:
    bench = kontextbench(tmp_path / "bench", 4)
    table = bench / "test/metadata.jsonl"
    # Four instructions of two pictures, by turns.
    table.write_text(
        table.read_text().replace("0002.png", "0000.png").replace("0003.png", "0001.png")
    )
    cases = turns(read_cases("kontextbench", bench), 2)
    assert [(c.key, c.category, c.after) for c in cases[:2]] == [
        ("0/turn-1", "turn 1", ""), ("0/turn-2", "turn 2", "0/turn-1"),
    ]  # fmt: skip

    def darker(case: EditCase, seed: int) -> torch.Tensor:
        return case.pictures()[0] * 0.5

    score = [NamedScorer("pixels", pixels)]
    rows = run_cases(cases, [Arm("asked", darker)], score, tmp_path / "out")
    first = cases[0].pictures()[0]
    got = torch.from_numpy(np.asarray(Image.open(tmp_path / "out" / rows[1].file)) / 255).float()
    # 8-bit steps, twice.
    assert float((got - 0.25 * first[0]).abs().max()) < 1.5 / 255
    assert rows[1].scores["pixels"]["psnr"] < rows[0].scores["pixels"]["psnr"]
    assert run_cases(cases, [Arm("asked", darker)], score, tmp_path / "out") == rows
    with pytest.raises(InputError, match="no picture has more than 2"):
        turns(cases, 3)


# Scores.


def test_pixels_inside_and_outside_a_mask() -> None:
    before = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(1))
    after = before.clone()
    after[:, :16] = 1 - after[:, :16]
    mask = torch.zeros(1, 32, 32)
    mask[:, :16] = 1
    found = pixels(Answer(EditCase("a", "c", "x", ()), [before], after, mask=mask))
    assert found["psnr_outside"] == 100 and found["psnr_inside"] < 15 and found["changed"] > 0.4
    with pytest.raises(UnscoredError, match="another shape"):
        pixels(Answer(EditCase("a", "c", "x", ()), [before], after[:, :16]))


def test_a_target_where_there_is_one() -> None:
    score = make_scorer("target").score
    case = EditCase("a", "c", "x", ())
    assert score(Answer(case, [GREY], GREY, target=GREY))["psnr"] == 100
    with pytest.raises(UnscoredError, match="no right answer"):
        score(Answer(case, [GREY], GREY))


@pytest.mark.parametrize(
    "spec, problem",
    [("ssim", "unknown scorer 'ssim'"), ("lpips", "needs its weights"), ("viescore", "needs an address"),
     ("lpips=nowhere", "alexnet-owt"), ("clip=nowhere", "no model folder"), ("auraface=nowhere.onnx", "no file")],
)  # fmt: skip
def test_scorers_say_what_they_need(spec: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        make_scorer(spec)


def test_intervals_hold_the_mean_and_shrink_with_more_cases() -> None:
    generator = torch.Generator().manual_seed(0)
    few, many = (torch.randn(n, generator=generator).tolist() for n in (10, 1000))
    (a, b), (c, d) = bootstrap(few), bootstrap(many)
    assert a < sum(few) / 10 < b and c < sum(many) / 1000 < d
    # 1.96 / sqrt(1000) either way is 0.124 in all; 0.121 measured.
    assert d - c == pytest.approx(0.124, rel=0.1)
    assert bootstrap(few) == (a, b) and all(math.isnan(x) for x in bootstrap([]))


def test_win_rates_by_a_figure() -> None:
    def row(
        key: str, value: float | None, scorer: str = "viescore", name: str = "overall"
    ) -> EditRow:
        scores = {} if value is None else {scorer: {name: value}}
        return EditRow(key, "c", 0, "asked", "x.png", None, scores)

    one = [row("a", 8), row("b", 5), row("c", 5), row("d", None), row("e", 1)]
    other = [row("a", 7), row("b", 5), row("c", 6), row("d", 3), row("f", 3)]
    both = pairs(one, other)
    assert [a.key for a, _ in both] == ["a", "b", "c", "d"]
    assert wins_by_figure(both, "viescore", "overall") == Wins(1, 1, 1, 1)
    assert "1 won, 1 tied, 1 lost; won of decided 50 % (9-91)" in Wins(1, 1, 1).line()
    less = pairs([row("a", 0.1, "lpips", "input")], [row("a", 0.2, "lpips", "input")])
    assert wins_by_figure(less, "lpips", "input").wins == 1
    with pytest.raises(InputError, match="score them with it first"):
        wins_by_figure(both, "clip", "text")
    with pytest.raises(InputError, match="no case and seed in common"):
        pairs(one, [row("z", 1)])


# Commands.


def test_the_commands(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench, out = kontextbench(tmp_path / "bench"), tmp_path / "one"

    def reply(asked: dict[str, Any], count: int) -> tuple[int, str]:
        words = asked["messages"][0]["content"][0]["text"]
        if "better" in words:
            return 200, chat('{"better": "tie"}')
        if "followed" in words:
            # Every fifth question is answered with rubbish, however often it is asked.
            rubbish = "brighter, 3" in words
            return 200, chat("no" if rubbish else '{"followed": 8, "kept": 9}')
        return 200, chat('{"natural": 2, "clean": 2}')

    with JudgeServer(reply) as server:
        run = [
            "bench", "run", "--data", str(bench), "--model", str(model_folder), "--steps", "2", "--out", str(out),
            "--scorers", f"pixels,viescore={server.url}", "--judge-model", "m", "--judge-tries", "1",
        ]  # fmt: skip
        assert main([*run, "--fewer-steps", "1"]) == 0
        said = capsys.readouterr().out
        assert "Answers as asked" in said and "Answers as 1 step" in said
        assert (
            "asked against 1 step, viescore.overall: 0 won, 4 tied, 0 lost; 1 without a verdict"
            in said
        )
        found = json.loads((out / "results.json").read_text())["arms"]["asked"]
        assert found["all"]["figures"]["viescore.overall"]["mean"] == 4.0
        assert found["Style Reference"]["unscored"] == {"viescore": 1}
        assert (
            len(list(out.glob("sheet-*.png"))) == 5
            and "| **all** |" in (out / "tables.md").read_text()
        )
        other = tmp_path / "other"
        again = [str(other) if word == str(out) else word for word in run]
        assert main(again) == 0
        capsys.readouterr()
        judged = [
            "bench",
            "compare",
            str(out),
            str(other),
            "--judge",
            server.url,
            "--judge-model",
            "m",
        ]
        assert main([*judged, "--data", str(bench)]) == 0
        assert "m: 0 won, 5 tied, 0 lost" in capsys.readouterr().out
        assert main(judged) == 1
        assert main(["bench", "compare", str(out), str(other), "--by", "pixels.psnr"]) == 0
        assert "0 won, 5 tied, 0 lost" in capsys.readouterr().out
    assert main([*run, "--guidance", "3"]) == 1
    assert "guidance 2.5, now it is 3.0" in capsys.readouterr().err


# Autoencoders.


def test_the_table_of_autoencoders(
    small_autoencoder: AutoEncoder,
    model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, size in (("10.png", (70, 50)), ("2.png", (64, 64)), ("in/3.webp", (40, 90))):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.open(io.BytesIO(png("red", size))).save(path)
    files = pictures_of(tmp_path)
    assert [path.name for path in files] == ["2.png", "10.png", "3.webp"]
    found = reconstruct(small_autoencoder, files, size=32)
    assert found["pictures"] == 3 and set(found["all"]) >= {
        "psnr",
        "ssim",
        "distance",
        "psnr_error",
    }
    assert "pdist" not in found["all"] and " - " in table({"x": found}).plain()
    whole = reconstruct(small_autoencoder, files[1:2], size=None)
    assert "psnr_error" not in whole["all"]
    with pytest.raises(InputError, match="multiple of 16"):
        reconstruct(small_autoencoder, files, size=40)
    words = [
        "bench",
        "vae",
        "--vae",
        str(model_folder),
        "--pictures",
        str(tmp_path),
        "--size",
        "32",
    ]
    assert main([*words, "--out", str(tmp_path / "vae.json")]) == 0
    assert "PSNR" in capsys.readouterr().out
    assert json.loads((tmp_path / "vae.json").read_text())[str(model_folder)]["pictures"] == 3


def test_an_autoencoder_that_loses_nothing_has_no_distance() -> None:
    class Exact:
        device, dtype = torch.device("cpu"), torch.float32
        encode: Callable[[torch.Tensor], torch.Tensor] = staticmethod(lambda x: x)
        decode: Callable[[torch.Tensor], torch.Tensor] = staticmethod(lambda x: x)

    files = sorted((Path(__file__).resolve().parents[2] / "workflows/input").glob("*.png"))[:2]
    found = reconstruct(Exact(), files, size=64)["all"]  # type: ignore[arg-type]
    # 8-bit pictures to -1..1 and back: 100 dB is what `psnr` gives at most; 0 and 1 measured.
    assert found["psnr"] > 99 and found["ssim"] > 0.9999 and found["distance"] < 1e-4
