"""Which inputs columns go to, on the shipped workflows and on ones that leave a doubt."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from kontext_core.errors import InputError
from kontext_core.tables.rows import Row, parse_rows
from standalone.batch.columns import Columns
from standalone.batch.plan import PlannedRow, apply_seed, make_jobs
from standalone.convert import read_workflow
from standalone.prompt import seeds_of

ROOT = Path(__file__).resolve().parents[2]
EDIT = ROOT / "workflows/api/one_reference_edit.json"
TWO = ROOT / "workflows/api/two_references.json"


def node(kind: str, title: str = "", **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs, "_meta": {"title": title or kind}}


@pytest.fixture
def edit() -> Columns:
    return Columns(read_workflow(EDIT))


def found(columns: Columns, column: str) -> list[str]:
    return [str(target) for target in columns.resolve(column)]


def test_columns_of_the_shipped_edit(edit: Columns) -> None:
    assert found(edit, "prompt") == ["4.text"]
    assert found(edit, "image") == found(edit, "image1") == ["5.image"]
    assert found(edit, "seed") == ["8.seed"]
    assert found(edit, "steps") == ["8.steps"]
    assert found(edit, "8.steps") == found(edit, "Kontext: Sampler.steps") == ["8.steps"]
    assert found(edit, "KontextSampler.steps") == ["8.steps"]
    assert found(edit, "Reference: image 1.fit") == ["6.fit"]
    assert [target.is_picture for target in edit.resolve("image")] == [True]
    two = Columns(read_workflow(TWO))
    first, second = found(two, "image1"), found(two, "image2")
    assert first != second
    with pytest.raises(InputError, match="could be any of"):
        two.resolve("image")
    with pytest.raises(InputError, match="needs 3 LoadImage nodes, the workflow has 2"):
        two.resolve("image3")


def test_words_and_seeds_in_other_graphs() -> None:
    prompt = {
        "1": node("CLIPTextEncode", "Good", text="a", clip=["9", 0]),
        "2": node("CLIPTextEncode", "Bad", text="b", clip=["9", 0]),
        "3": node("FluxGuidance", conditioning=["1", 0], guidance=2.5),
        "4": node("KSampler", positive=["3", 0], negative=["2", 0], seed=1),
        "5": node("RandomNoise", noise_seed=1),
        "6": node("LoadImageMask", image="m.png", channel="red"),
    }
    columns = Columns(prompt)
    assert found(columns, "prompt") == ["1.text"]
    assert found(columns, "negative") == ["2.text"]
    assert found(columns, "seed") == ["4.seed", "5.noise_seed"]
    assert found(columns, "mask") == ["6.image"]
    both = {**prompt, "1": node("CLIPTextEncodeFlux", clip_l="a", t5xxl="b", guidance=2.5)}
    assert found(Columns(both), "prompt") == ["1.clip_l", "1.t5xxl"]
    doubt = {**prompt, "7": node("CLIPTextEncode", "Third", text="c")}
    with pytest.raises(InputError, match=r"1.text \(Good\), 7.text \(Third\)"):
        Columns(doubt).resolve("prompt")
    one_node = {**doubt, "8": node("KontextEdit", prompt="x", seed=1)}
    assert found(Columns(one_node), "prompt") == ["8.prompt"]


BAD_COLUMNS = [
    ("stepz", "did you mean 'steps'"),
    ("99.steps", "names no node; there are"),
    ("Kontext: Samplr.steps", "did you mean 'Kontext: Sampler'"),
    ("8.stepz", "names no input of node 8; it has"),
    ("mask", "no input for the column 'mask'"),
    ("negative", "no input for the column 'negative'"),
]


@pytest.mark.parametrize(("column", "message"), BAD_COLUMNS)
def test_a_column_that_is_no_input(edit: Columns, column: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        edit.resolve(column)
    # A misspelt column stops the batch before anything runs, even if one row alone has it.
    with pytest.raises(InputError, match=message):
        make_jobs([Row(1, "a"), Row(2, "b", {column: "1"})], edit, Path())


def test_two_nodes_of_one_title() -> None:
    columns = Columns({"1": node("A", "T", x=1), "2": node("B", "T", x=1)})
    assert found(columns, "A.x") == ["1.x"]
    with pytest.raises(InputError, match="fits the nodes 1, 2; write the id instead"):
        columns.resolve("T.x")


def test_values_become_the_kind_that_the_input_is() -> None:
    prompt = {"1": node("X", whole=1, part=1.5, text="t", on=True, none=None, linked=["2", 0])}
    columns = Columns(prompt)
    before = copy.deepcopy(prompt)
    filled, pictures = columns.fill(
        {"whole": "12", "part": "2", "text": 5, "on": "no", "none": "x", "1.linked": "y"}
    )
    assert filled["1"]["inputs"] == {
        "whole": 12, "part": 2, "text": "5", "on": False, "none": "x", "linked": "y",
    }  # fmt: skip
    assert (pictures, prompt) == ([], before)
    # What the editor saved as 1 may be a slider of fractions; the server judges.
    assert columns.fill({"whole": "1.5"})[0]["1"]["inputs"]["whole"] == 1.5
    assert columns.fill({"on": True, "whole": 2**64 - 1})[0]["1"]["inputs"]["whole"] == 2**64 - 1
    for column, value in (("whole", "x"), ("whole", "nan"), ("part", "inf"), ("whole", True)):
        with pytest.raises(InputError, match=f"{column} is .*; expected a number"):
            columns.fill({column: value})
    with pytest.raises(InputError, match="expected true or false"):
        columns.fill({"on": "maybe"})


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    (tmp_path / "a.png").write_bytes(b"a")
    (tmp_path / "b.png").write_bytes(b"b")
    (tmp_path / "empty.png").write_bytes(b"")
    return tmp_path


def jobs(text: str, folder: Path, seed: str = "keep", **common: Any) -> list[PlannedRow]:
    return make_jobs(parse_rows(text), Columns(read_workflow(EDIT)), folder, common, seed)


def test_a_job_has_the_rows_values_and_pictures(pictures: Path) -> None:
    [first, second] = jobs(
        "prompt,image,seed,#note\nred,a.png,5,x\n,b.png,,\n", pictures, prompt="blue", steps="3"
    )
    assert first.prompt["4"]["inputs"]["text"] == "red"
    assert second.prompt["4"]["inputs"]["text"] == "blue"
    assert first.prompt["8"]["inputs"]["steps"] == 3
    assert (first.seed, second.seed, first.has_seed, second.has_seed) == (5, 2, True, False)
    # The picture is named only once a server has it.
    assert first.prompt["5"]["inputs"]["image"] == "kontext_shapes.png"
    digest = first.pictures[0].digest
    assert first.with_pictures({digest: "there.png"})["5"]["inputs"]["image"] == "there.png"
    assert first.prompt["5"]["inputs"]["image"] == "kontext_shapes.png"


def test_a_seed_is_the_same_number_everywhere(pictures: Path) -> None:
    """In the dry run, in the manifest and in what is sent: one that a spreadsheet exported too."""
    found = jobs("prompt,seed\na,5.0\nb,5\nc,18446744073709551615.0\n", pictures)
    assert [job.seed for job in found] == [5, 5, 2**64 - 1]
    assert all(type(job.prompt["8"]["inputs"]["seed"]) is int for job in found)
    [row] = jobs('{"prompt": "a", "seed": 5.0, "8.steps": "4.0"}', pictures)
    assert (row.seed, row.prompt["8"]["inputs"]["steps"]) == (5, 4)


ROW_PROBLEMS = [
    ("image,prompt\nnone.png,x", "there is no picture 'none.png'"),
    ("image,prompt\n../a.png,x", r"without '\.\.'"),
    ("image,prompt\nempty.png,x", "is empty; copy it anew"),
    ("seed,prompt\nx,y", "seed is 'x'; expected a whole number from 0 to"),
    ("seed,prompt\n5.5,y", r"seed is '5\.5'; expected a whole number"),
    ("seed,prompt\n-1,y", "seed is '-1'; expected a whole number"),
    ("seed,prompt\n1.23457E+14,y", "seed is .* its last digits are lost"),
    ("8.seed,prompt\n1.2E14,y", "8.seed is .* its last digits are lost"),
    ("10.filename_prefix,prompt\n../../x,y", "can't be a file's"),
]


@pytest.mark.parametrize(("text", "problem"), ROW_PROBLEMS)
def test_a_bad_row_is_a_job_with_a_problem(text: str, problem: str, pictures: Path) -> None:
    [job] = jobs(text, pictures)
    with pytest.raises(InputError, match=problem):
        raise InputError(job.problem)


def test_keys_change_with_everything_that_decides_the_result(pictures: Path) -> None:
    text = "name,prompt,image\nn,x,a.png\n"
    key = jobs(text, pictures)[0].key
    assert jobs(text, pictures)[0].key == key
    assert jobs("name,prompt,image,#c\nn,x,a.png,1\n", pictures)[0].key == key
    # A row before it changes nothing.
    assert jobs("name,prompt,image\nm,y,b.png\nn,x,a.png\n", pictures)[1].key == key
    others = [
        jobs(text.replace(",x,", ",y,"), pictures)[0],
        jobs(text.replace("a.png", "b.png"), pictures)[0],
        jobs(text.replace("\nn,", "\nm,"), pictures)[0],
        jobs(text, pictures, steps="3")[0],
        jobs(text, pictures, seed="7")[0],
        jobs(text, pictures, seed="random")[0],
    ]
    (pictures / "a.png").write_bytes(b"changed")
    others.append(jobs(text, pictures)[0])
    assert len({key, *(job.key for job in others)}) == len(others) + 1
    # The same row twice is two rows.
    twice = make_jobs([Row(1, "n"), Row(2, "n")], Columns(read_workflow(EDIT)), pictures)
    assert twice[0].key != twice[1].key


def test_seeds(pictures: Path) -> None:
    text = "prompt,seed\na,\nb,5\nc,\n"
    for seed, expected in (("keep", [2, 5, 2]), ("100", [100, 5, 102])):
        made = jobs(text, pictures, seed)
        for job in made:
            apply_seed(job, seed, "n")
        assert [job.seed for job in made] == expected
    seeds = []
    for nonce in ("n", "n", "m"):
        made = jobs(text, pictures, "random")
        for job in made:
            apply_seed(job, "random", nonce)
        seeds.append([job.seed for job in made])
    assert seeds[0] == seeds[1] != seeds[2]
    assert seeds[0][0] != seeds[0][2] and seeds[0][1] == 5
    assert 0 <= seeds[0][0] < 2**53
    with pytest.raises(InputError, match="expected keep, random, or a whole number"):
        apply_seed(jobs(text, pictures)[0], "-1", "n")
    prompt = {"1": node("A", seed=1), "2": node("B", noise_seed=2, seed=["1", 0])}
    assert seeds_of(prompt) == {"1.seed": 1, "2.noise_seed": 2}
    assert seeds_of({"1": node("A", x=1)}) is None
