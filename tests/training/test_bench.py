"""`python -m kontext_lab bench tiny` on small random networks: what it writes and prints."""

from __future__ import annotations

import json
import math
import os
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from kontext_core import InputError, Pipeline, edit, load_pipeline
from kontext_core.metrics import ms_ssim, ssim, wilson
from kontext_core.partial import open_partial
from kontext_lab.__main__ import main
from kontext_lab.bench import report
from kontext_lab.bench.chart import Chart, Line
from kontext_lab.bench.drift import drift, local_chains
from kontext_lab.bench.held_out import (
    WORDING_SETS,
    answers,
    assess,
    held_out_cases,
    summary,
    untouched_area,
)
from kontext_lab.bench.plan import QUICK, BenchProgress, Settings, scaled
from kontext_lab.bench.probes import (
    blanked,
    exchange_images,
    exchanged_pictures,
    exchanged_words,
    scrambled,
)
from kontext_lab.bench.reconstruction import SCENES, reconstruction
from kontext_lab.bench.report import check_folder, read_results, write_report
from kontext_lab.bench.run import FORMAT, bench
from kontext_lab.bench.tables import tables
from kontext_lab.world.tasks import TASKS

KEPT = {name: getattr(report, name) for name in ("page", "sheets", "_remove")}
SMALL = replace(QUICK, steps=1, step_counts=(1, 2), guidances=(2.5,), turns=2, rebuilt=2, timed=1)


class Count(BenchProgress):
    amount = 0

    def done(self, amount: int) -> None:
        self.amount += amount


progress = Count()


@pytest.fixture(scope="module")
def found(model_folder: Path):
    return bench(load_pipeline(model_folder), SMALL, str(model_folder), progress)


@pytest.mark.parametrize("wordings", WORDING_SETS)
def test_cases_are_the_same_for_the_same_seed_and_never_trained(wordings: str) -> None:
    few, more = (held_out_cases("recolour", n, wordings=wordings) for n in (2, 4))
    for a, b in zip(few, more, strict=False):
        assert a.sample == b.sample and a.seed == b.seed and torch.equal(a.target, b.target)
        assert any(scene.held_out for scene in (*a.sample.references, a.sample.target))
    other = held_out_cases("recolour", 2, wordings=wordings, seed=1)
    assert [case.sample.prompt for case in other] != [case.sample.prompt for case in few]
    with pytest.raises(InputError, match="unknown task 'dance'"):
        held_out_cases("dance", 1)
    with pytest.raises(InputError, match="unknown wordings 'loud'"):
        held_out_cases("recolour", 1, wordings="loud")


def test_an_answer_is_what_edit_gives(small_pipeline: Pipeline) -> None:
    """Whatever it shares its batch with; so that every case of a page can be made again."""
    cases = [*held_out_cases("recolour", 3), *held_out_cases("compose", 2)]
    made = answers(small_pipeline, cases, steps=2, batch=2)
    for case, picture in zip(cases, made, strict=True):
        images = [reference.movedim(0, -1)[None] for reference in case.references]
        alone = edit(
            small_pipeline, case.sample.prompt, images, seed=case.seed, steps=2, width=64, height=64
        )
        # Measured 2e-6: sums in another order.
        assert (alone[0].movedim(-1, 0) - picture).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("put the star of image 1 on image 2", "put the star of image 2 on image 1"),
        ("take the first one, not the 2nd", "take the second one, not the 1st"),
        ("Image one gives the cat, picture two the rest", "Image two gives the cat, picture one the rest"),
        ("the one in photo #2 and 12 others", "the one in photo #1 and 12 others"),
        ("the former's colour on the latter", "the latter's colour on the former"),
    ],
)  # fmt: skip
def test_exchanging_the_images_in_words(before: str, after: str) -> None:
    assert exchange_images(before) == after
    assert exchange_images(after) == before


@pytest.mark.parametrize("wordings", WORDING_SETS)
def test_every_exchangeable_sentence_is_exchanged(wordings: str) -> None:
    for task in ("compose", "transfer", "combine"):
        cases = [c for c in held_out_cases(task, 40, wordings=wordings) if c.sample.swapped]
        turned = [exchanged_words(case) for case in cases]
        # Says how many only: blind sentences are not to be read.
        assert sum(case is None for case in turned) == 0
        assert len(cases) > 5


def test_probes_change_what_they_say() -> None:
    case = next(c for c in held_out_cases("compose", 20) if c.sample.swapped is not None)
    pictures, words = exchanged_pictures(case), exchanged_words(case)
    assert torch.equal(pictures.references[0], case.references[1])
    assert pictures.sample.prompt == case.sample.prompt != words.sample.prompt
    assert pictures.sample.target == words.sample.target == case.sample.swapped
    assert torch.equal(pictures.target, words.target)
    assert not torch.equal(pictures.target, case.target)
    assert float(blanked(case).references[0].std()) == 0
    mixed = scrambled(case)
    assert sorted(mixed.sample.prompt.split()) == sorted(case.sample.prompt.split())
    assert mixed.sample.prompt != case.sample.prompt
    alone = held_out_cases("text_to_image", 1)[0]
    assert blanked(alone) is exchanged_pictures(alone) is exchanged_words(alone) is None


def test_an_answer_is_nearer_to_its_own_roles_or_to_the_exchanged_ones() -> None:
    case = next(c for c in held_out_cases("compose", 20) if c.sample.swapped is not None)
    other = exchanged_words(case)
    blurred = 0.7 * case.target + 0.3 * other.target
    rows = [summary(assess([one], blurred[None])) for one in (case, other)]
    assert [row["nearer"] for row in rows] == [1, 0]
    alone = held_out_cases("text_to_image", 1)[0]
    assert summary(assess([alone], alone.target[None]))["nearer"] is None


def test_right_answers_count_as_right_and_untouched() -> None:
    cases = [held_out_cases(task, 1)[0] for task in TASKS]
    row = summary(assess(cases, torch.stack([case.target for case in cases])))
    # The judge has its own tests; one slip in these twenty is not what is asked here.
    assert row["n"] == len(TASKS) and row["success"] >= 0.9
    assert row["psnr"] == row["untouched"] == 100 and row["ssim"] > 0.9999
    references = [c for c in cases if c.references]
    copies = torch.stack([case.references[0] for case in references])
    assert summary(assess(references, copies))["success"] == 0


def test_untouched_area_leaves_a_margin() -> None:
    before, after = torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)
    after[:, :, 8, 8] = 1
    assert int((1 - untouched_area(before, after)).sum()) == 7 * 7


def test_wilson_interval() -> None:
    assert wilson(0, 0) == (0, 1)
    # Newcombe (1998), table I: 81 of 263 and 15 of 148.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson(0, 20)[0] == 0 and wilson(20, 20)[1] == 1
    with pytest.raises(InputError):
        wilson(3, 2)


def test_structural_distance_grows_with_blur_and_ignores_nothing() -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 3, 64, 64)
    assert torch.allclose(ms_ssim(x, x), torch.ones(2), atol=1e-5)
    soft = torch.nn.functional.avg_pool2d(x, 3, 1, 1)
    softer = torch.nn.functional.avg_pool2d(soft, 5, 1, 2)
    assert bool((1 - ms_ssim(x, soft) < 1 - ms_ssim(x, softer)).all())
    # One scale of 16 pixels is SSIM itself.
    a, b = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
    assert torch.allclose(ms_ssim(a, b), ssim(a, b).clamp(min=0), atol=1e-6)


def test_reconstruction_has_a_row_for_every_kind(small_pipeline: Pipeline) -> None:
    rows = reconstruction(small_pipeline, 2)
    assert set(rows) == {*SCENES, "all"}
    assert all(math.isfinite(value) for row in rows.values() for value in row.values())


def test_drift_hands_every_picture_on(small_pipeline: Pipeline) -> None:
    chains = local_chains(2, 2)
    assert chains[0][1].sample.references == (chains[0][0].sample.target,)
    rows, loop = drift(small_pipeline, chains, steps=1)
    assert [row["turn"] for row in rows] == [1, 2] and len(loop) == 3
    again = replace(chains[1][1], references=(loop[1][1],))
    assert (answers(small_pipeline, [again], steps=1)[0] - loop[2][1]).abs().max() < 1e-4
    assert rows[0]["area"] >= rows[1]["area"] > 0


def test_results_hold_everything(found) -> None:
    results = found.results
    assert set(results["sets"]) == set(WORDING_SETS)
    for rows in results["sets"].values():
        assert set(rows["tasks"]) == set(TASKS)
    assert set(results["steps"]) == {"1", "2"} and len(results["drift"]) == SMALL.turns
    assert set(results["timing"]["latency"]) == {"0", "1", "2"}
    assert set(results["timing"]["batched"]) == set(TASKS)
    assert progress.amount == progress.total > 0


def test_tables_read_alike_everywhere(found) -> None:
    for table in tables(found.results).values():
        assert all(len(row) == len(table.header) for row in table.rows)
        assert table.rows[0][0] in table.plain() and table.rows[0][0] in table.markdown()
        assert table.html().count("<tr") == len(table.rows) + 1


def test_report_is_one_page_with_every_case(found, tmp_path: Path) -> None:
    folder = write_report(found, tmp_path / "deep" / "out")
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert "prefers-color-scheme:dark" in page
    assert "http" not in page.replace("http://www.w3.org/", "")
    assert page.count('class="case ') == sum(len(some) for some in found.shown.values())
    assert read_results(folder) == json.loads(json.dumps(found.results))
    assert {f"{task}.png" for task in TASKS} <= {p.name for p in (folder / "sheets").iterdir()}
    assert sorted(p.name for p in folder.parent.iterdir()) == ["out"]
    write_report(found, folder)  # an older result gives way
    assert sorted(p.name for p in folder.parent.iterdir()) == ["out"]


def test_a_folder_with_other_files_is_left_alone(found, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(InputError, match="holds other files"):
        write_report(found, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_failed_write_leaves_the_older_result(found, tmp_path: Path, monkeypatch) -> None:
    folder = write_report(found, tmp_path / "out")
    before = (folder / "index.html").read_bytes()

    def broken(*_: object) -> str:
        raise OSError("no space left")

    monkeypatch.setattr("kontext_lab.bench.report.page", broken)
    with pytest.raises(InputError, match="no space left"):
        write_report(found, folder)
    assert (folder / "index.html").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("by", ["reading", "writing"])
@pytest.mark.parametrize("killed", ["before", "between", "after"])
def test_a_kill_around_the_two_renames_is_put_right(
    killed: str, by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two whole results is there, the newer as soon as the older one was moved."""

    def write(number: int) -> None:
        found = SimpleNamespace(
            results={"format": FORMAT, "n": number}, shown={}, loop=[], chains=[]
        )
        write_report(found, tmp_path / "out")  # type: ignore[arg-type]

    class Killed(BaseException):
        pass

    moves: list[Path] = []
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        if len(moves) == ["before", "between"].index(killed):
            raise Killed
        moves.append(target)
        real(source, target)

    monkeypatch.setattr("kontext_lab.bench.report.page", lambda results, *_: str(results["n"]))
    monkeypatch.setattr("kontext_lab.bench.report.sheets", lambda _: {})
    write(1)
    monkeypatch.setattr("kontext_lab.bench.report._remove", lambda *_: None)
    if killed == "after":
        write(2)
    else:
        monkeypatch.setattr(os, "replace", replace)
        with pytest.raises(Killed):
            write(2)
    # As after a kill: nobody holds what lies in the hidden folder.
    for name in ("page", "_remove", "sheets"):
        monkeypatch.setattr(f"kontext_lab.bench.report.{name}", KEPT[name])
    monkeypatch.setattr(os, "replace", real)
    if by == "reading":
        assert read_results(tmp_path / "out")["n"] == (1 if killed == "before" else 2)
    else:
        check_folder(tmp_path / "out")
        assert (tmp_path / "out/index.html").read_text() == ("1" if killed == "before" else "2")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_two_benchmarks_never_write_one_folder(tmp_path: Path) -> None:
    work = tmp_path / ".out.unfinished"
    work.mkdir()
    file, _ = open_partial(work)
    with file, pytest.raises(InputError, match="another benchmark is writing"):
        found = SimpleNamespace(results={"format": FORMAT}, shown={}, loop=[], chains=[])
        write_report(found, tmp_path / "out")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_the_command_prints_json_that_depends_on_the_seed_only(
    found, model_folder: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr("kontext_lab.bench.plan.QUICK", SMALL)
    words = ["bench", "tiny", "--quick", "--model", str(model_folder), "--out", str(tmp_path / "o")]
    assert main([*words, "--json"]) == 0
    output = capsys.readouterr()
    printed = json.loads(output.out)
    assert printed == read_results(tmp_path / "o")
    assert output.err == ""  # no terminal, no progress
    del printed["timing"]
    before = json.loads(json.dumps(found.results))
    assert printed == {key: before[key] for key in printed}
    assert set(before) == {*printed, "timing"}


def test_the_command_prints_tables(
    found, model_folder: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    asked = []

    def quick(pipeline: object, settings: Settings, name: str, progress: BenchProgress):
        asked.append(settings)
        progress.begin(2)
        progress.stage("answers")
        progress.done(2)
        return found

    monkeypatch.setattr("kontext_lab.bench.run.bench", quick)
    words = ["bench", "tiny", "--model", str(model_folder), "--out", str(tmp_path / "o")]
    assert main([*words, "--progress", "--seed", "3", "--cases", "20"]) == 0
    output = capsys.readouterr()
    assert "Success by task" in output.out and str(tmp_path / "o" / "index.html") in output.out
    assert "answers: 100%" in output.err
    assert asked == [scaled(replace(Settings(), seed=3), 20)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--cases", "0"], "cases is 0; expected 1 or more"),
        (["--seed", "-1"], "seed is -1"),
        (["--model", "nothing-here"], "there is no model 'nothing-here'"),
        (["--device", "nonsense"], "device 'nonsense' can't be used here"),
        (["--out", "file.txt"], "file.txt is a file"),
        (["--out", "file.txt/deep"], "can't write into"),
    ],
)
def test_bad_input_is_one_plain_line(
    changes: list[str], message: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file.txt").write_text("text")
    assert main(["bench", "tiny", *changes]) == 1
    output = capsys.readouterr()
    assert output.out == "" and message in output.err and "Traceback" not in output.err
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_more_cases_scale_the_probes() -> None:
    settings = scaled(Settings(), 80)
    assert (settings.cases, settings.probes, settings.chains) == (80, 16, 32)
    assert scaled(Settings(), 1).probes == 1


def test_charts_draw_points_where_they_belong() -> None:
    chart = Chart([Line("up", [(1, 0.0), (28, 1.0)])], "steps", "success", x_ticks=(1, 28),
                  x_log=True, y_range=(0, 1), percent=True)  # fmt: skip
    svg = chart.svg(alone=True)
    assert "100 %" in svg and "prefers-color-scheme" in svg and "currentColor" in svg
    assert svg == chart.svg(alone=True)
    ET.fromstring(svg)
    picture = chart.png(scale=1)
    assert picture.size == chart.size
    blue = [
        (x, y) for x in range(picture.width) for y in range(60, picture.height)
        if picture.getpixel((x, y))[2] > picture.getpixel((x, y))[0] + 100
    ]  # fmt: skip
    low, high = max(blue, key=lambda at: at[1]), min(blue, key=lambda at: at[1])
    assert low[0] < high[0]
    with pytest.raises(InputError, match="nothing to draw"):
        Chart([], "x", "y").svg()
