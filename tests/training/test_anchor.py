"""The benchmark of order and layout: its folder, its twins, its judge, its answers by our pipeline."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import embedded_host  # noqa: F401  makes `standalone` importable
import pytest
import torch
from embedded_nodes import ROOT
from PIL import Image

from kontext_core import InputError, Pipeline
from kontext_core.names import write_numbers
from kontext_lab.__main__ import main
from kontext_lab.anchor.answering import answer_questions
from kontext_lab.anchor.folder import read_anchor, write_anchor
from kontext_lab.anchor.layouts import FALLING, RISING, SIDE_BY_SIDE, STACKED, arranged
from kontext_lab.anchor.marks import judge_answers, results, tally
from kontext_lab.anchor.questions import CATEGORIES, make_questions
from kontext_lab.evaluation.runner import AnswerSettings
from kontext_lab.world.render import render


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_anchor(tmp_path_factory.mktemp("anchor") / "bench", cases=20, side=128)


def rows(folder: Path) -> list[dict]:
    lines = (folder / "test/metadata.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def answered(folder: Path, to: Path, *, exchanged: bool = False) -> Path:
    """The right answers as a pipeline would save them, or those of the twins."""
    to.mkdir()
    for row in rows(folder):
        key = row["key"]
        of = key[:-1] + ("b" if key.endswith("a") else "a") if exchanged else key
        shutil.copy(folder / f"test/targets/{of}.png", to / f"{key}.png")
    return to


def test_the_folder_has_kontextbenchs_columns_and_every_category(folder: Path) -> None:
    found = rows(folder)
    assert [row["category"] for row in found[::2]] == list(CATEGORIES)
    for row in found:
        assert {"file_name", "key", "category", "instruction"} <= set(row)
        assert row["file_name"] == row["images_file_names"][0]
        for name in (*row["images_file_names"], row["target_file_name"]):
            with Image.open(folder / "test" / name) as picture:
                picture.verify()
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "license: apache-2.0" in card and "20 cases" in card


def test_the_same_seed_gives_the_same_folder_and_fewer_cases_its_beginning(
    folder: Path, tmp_path: Path
) -> None:
    again = write_anchor(tmp_path / "again", cases=4, side=128)
    for path in sorted((again / "test/images").iterdir()):
        assert path.read_bytes() == (folder / "test/images" / path.name).read_bytes()
    assert rows(again) == rows(folder)[:4]
    other = write_anchor(tmp_path / "other", cases=4, seed=1, side=64)
    assert [row["seed"] for row in rows(other)] != [row["seed"] for row in rows(again)]


def test_twins_differ_in_the_order_of_pictures_alone() -> None:
    questions = make_questions(200, 5)
    for one, other in zip(questions[::2], questions[1::2], strict=True):
        assert (one.pair, one.instruction, one.seed) == (other.pair, other.instruction, other.seed)
        assert sorted(map(repr, one.scenes)) == sorted(map(repr, other.scenes))
        assert one.scenes != other.scenes
        assert one.sample.target == other.sample.swapped != one.sample.swapped


def test_names_are_read_by_edit_and_by_everybody_else() -> None:
    named = [q for q in make_questions(60) if q.names]
    for question in named:
        assert all(name in question.instruction for name in question.names)
        read = write_numbers(question.request, question.names)
        assert read.absent == () and "image 1" in read.text and "image 2" in read.text
        assert not any(name in read.text for name in question.names)


def test_layouts_put_each_picture_where_the_words_say() -> None:
    red, blue = torch.zeros(3, 64, 64), torch.zeros(3, 64, 64)
    red[0], blue[2] = 1, 1
    beside, above = arranged(SIDE_BY_SIDE, (red, blue)), arranged(STACKED, (red, blue))
    assert beside.shape == (3, 64, 130) and above.shape == (3, 130, 64)
    assert beside[0, 32, 10] == 1 and beside[2, 32, 120] == 1
    assert above[0, 10, 32] == 1 and above[2, 120, 32] == 1
    falling, rising = arranged(FALLING, (red, blue)), arranged(RISING, (red, blue))
    assert falling[:, 16, 16].tolist() == [1, 0, 0] and falling[:, 48, 48].tolist() == [0, 0, 1]
    assert rising[:, 48, 16].tolist() == [1, 0, 0] and rising[:, 16, 48].tolist() == [0, 0, 1]
    assert falling[:, 16, 48].tolist() == [1, 1, 1]


def test_what_is_read_back_is_what_was_written(folder: Path) -> None:
    for filed, question in zip(read_anchor(folder), make_questions(20), strict=True):
        assert filed.key == question.key
        assert filed.sample.target == question.sample.target
        assert filed.sample.swapped == question.sample.swapped


def test_right_answers_are_right_at_any_size_and_the_twins_are_wrong(
    folder: Path, tmp_path: Path
) -> None:
    good = answered(folder, tmp_path / "good")
    with Image.open(good / "0001a.png") as picture:
        picture.resize((200, 190)).convert("RGB").save(good / "0001a.jpg", quality=95)
    (good / "0001a.png").unlink()
    rows_good = tally(judge_answers(folder, good))
    assert (rows_good["all"].right, rows_good["all"].order) == (20, 20)
    assert (rows_good["all"].pairs, rows_good["all"].pairs_heeded) == (10, 10)
    bad = tally(judge_answers(folder, answered(folder, tmp_path / "bad", exchanged=True)))["all"]
    assert (bad.right, bad.exchanged, bad.pairs_heeded) == (0, 20, 0)


def test_who_takes_no_notice_of_order_gets_no_pair(folder: Path, tmp_path: Path) -> None:
    blind = answered(folder, tmp_path / "blind")
    for path in blind.glob("*b.png"):
        shutil.copy(blind / f"{path.stem[:-1]}a.png", path)
    found = tally(judge_answers(folder, blind))["all"]
    assert (found.order, found.pairs_heeded) == (10, 0)


def test_missing_and_damaged_answers_are_wrong_and_told(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = answered(folder, tmp_path / "some")
    (some / "0001a.png").unlink()
    (some / "0002a.png").write_bytes(b"not a picture")
    found = judge_answers(folder, some)
    assert len(found) == 20 and tally(found)["all"].missing == 2 and tally(found)["all"].right == 18
    assert len(judge_answers(folder, some, only_answered=True)) == 18
    told = results(found)["answers"]
    assert told["0001a"]["problem"] == "no answer" and "0002a" in told["0002a"]["problem"]
    assert main(["bench", "anchor", "judge", str(folder), str(some), "--markdown"]) == 0
    said = capsys.readouterr().out
    assert "| **all** | **20** | **90 % (70-97)**" in said and "0002a: " in said
    with Image.open(some / "anchor.png") as picture:
        assert picture.width > 600
    assert json.loads((some / "anchor.json").read_text())["rows"]["all"]["right"] == 18


def test_our_pipeline_answers_and_goes_on(
    folder: Path, small_pipeline: Pipeline, tmp_path: Path
) -> None:
    place = answer_questions(
        folder, tmp_path / "out", small_pipeline, AnswerSettings(steps=1), cases=6
    )
    made = sorted(path.name for path in place.glob("*.png"))
    assert made == [f"{n:04d}{twin}.png" for n in (1, 2, 3) for twin in "ab"]
    (place / "0002a.png").unlink()
    before = (place / "0001a.png").stat().st_mtime_ns
    answer_questions(folder, place, small_pipeline, AnswerSettings(steps=1), cases=6)
    assert (place / "0002a.png").is_file()
    assert (place / "0001a.png").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="steps 1, now it is 2"):
        answer_questions(folder, place, small_pipeline, AnswerSettings(steps=2), cases=6)


def test_all_that_is_said_of_the_layout_is_asked(
    folder: Path, small_pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def listen(pipeline: Pipeline, words: str, *_: object, **__: object) -> torch.Tensor:
        asked.append(words)
        return torch.zeros(1, 64, 64, 3)

    monkeypatch.setattr("kontext_lab.evaluation.runner.edit", listen)
    answer_questions(folder, tmp_path / "out", small_pipeline, AnswerSettings())
    assert asked == [r["request"] if r["names"] else r["instruction"] for r in rows(folder)]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_rows_fit_a_batch(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int
) -> None:
    from standalone.__main__ import main as standalone

    def batch(workflow: Path) -> int:
        return standalone([
            "batch", str(workflow), "--rows", str(folder / f"rows/{count}.jsonl"), "--images",
            str(folder / "test"), "--output", str(tmp_path / "out"), "--dry-run",
        ])  # fmt: skip

    assert batch(folder / f"workflows/{count}.json") == 0
    said = capsys.readouterr().out
    keys = [r["key"] for r in rows(folder) if len(r["images_file_names"]) == count]
    assert keys and all(key in said for key in keys) and f"{len(keys)} rows could run" in said
    # Another graph has to have as many pictures.
    assert batch(ROOT / "workflows/api/two_references.json") == (0 if count == 2 else 1)
    assert count != 3 or "image3" in capsys.readouterr().err


def test_bad_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is there already"):
        write_anchor(folder, cases=2)
    with pytest.raises(InputError, match="even number"):
        write_anchor(tmp_path / "odd", cases=3)
    with pytest.raises(InputError, match="anchor make"):
        read_anchor(tmp_path)
    with pytest.raises(InputError, match="no answer to any of the 20"):
        judge_answers(folder, tmp_path)
    broken = Path(shutil.copytree(folder, tmp_path / "broken"))
    lines = (broken / "test/scenes.jsonl").read_text().splitlines()
    (broken / "test/scenes.jsonl").write_text(
        "\n".join([lines[0].replace("kind", "kin"), *lines[1:]])
    )
    with pytest.raises(InputError, match="scene of '0001a'"):
        read_anchor(broken)


def test_textures_are_as_wide_in_larger_pictures() -> None:
    scene = next(q.sample.target for q in make_questions(200) if q.sample.target.texture != "plain")
    small, large = render([scene], 64, 64)[0], render([scene], 256, 256)[0]
    shrunk = torch.nn.functional.avg_pool2d(large, 4)
    # 0.003 measured; 0.069 where a texture keeps the width of its lines in pixels.
    assert float((shrunk - small).square().mean().sqrt()) < 0.02
