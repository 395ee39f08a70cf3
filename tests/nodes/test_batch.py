"""Kontext: Batch: rows from a link, a folder, a table and pasted lines, and what is refused."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

COLOURS = {"a.png": (255, 0, 0), "b2.jpg": (0, 255, 0), "b10.png": (0, 0, 255)}


@pytest.fixture
def inputs(host: Any, tmp_path: Path) -> Path:
    """An input folder with three pictures, one with its prompt beside it."""
    host.inputs = tmp_path / "input"
    folder = host.inputs / "set"
    folder.mkdir(parents=True)
    for name, colour in COLOURS.items():
        Image.new("RGB", (32, 16), colour).save(folder / name)
    (folder / "a.txt").write_text("from the file\n", encoding="utf-8")
    (folder / "notes.md").write_text("no picture", encoding="utf-8")
    (folder / ".hidden.png").write_bytes(b"")
    return host.inputs


def run(pack: Any, **given: Any) -> dict[str, Any]:
    result = pack.run("KontextBatch", **given)
    names = ("images", "prompts", "names", "seeds", "count")
    return {name: result[index] for index, name in enumerate(names)} | {"ui": result.ui}


def colours(images: list[Tensor]) -> list[int]:
    """Which channel each picture is full of."""
    return [int(image.mean(dim=(0, 1, 2)).argmax()) for image in images]


def test_a_folder_in_natural_order_with_its_prompts(pack: Any, inputs: Path) -> None:
    got = run(pack, source="set", seed=7)
    assert got["names"] == ["batch/a", "batch/b2", "batch/b10"]
    assert colours(got["images"]) == [0, 1, 2]
    assert all(image.shape == (1, 16, 32, 3) for image in got["images"])
    assert got["prompts"] == ["from the file", "", ""]
    assert (got["seeds"], got["count"]) == ([7, 8, 9], 3)
    assert got["ui"]["kontext_notes"][0] == "batch/a: from the file"


def test_only_the_rows_that_limit_wants_are_made(pack: Any, inputs: Path) -> None:
    """Nine million in all: making them would take gigabytes."""
    lines = "\n".join(f"{number}" for number in range(3000))
    (inputs / "names.txt").write_text("\n".join(f"n{n}" for n in range(3000)), encoding="utf-8")
    got = run(pack, source="names.txt", lines=lines, first=2999, limit=3, name_prefix="")
    assert got["prompts"] == ["2998", "2999", "0"] and got["count"] == 3
    assert got["names"] == ["2999", "3000", "0001_2"]
    with pytest.raises(pack.error("InputError"), match="9000000 rows, at most 1000000"):
        run(pack, source="names.txt", lines=lines, limit=0)


def test_lines_over_a_folder_each_with_each_and_in_pairs(pack: Any, inputs: Path) -> None:
    each = run(pack, source="set", lines="one\n\ntwo\n", name_prefix="")
    assert each["prompts"] == ["one", "two"] * 3
    assert colours(each["images"]) == [0, 0, 1, 1, 2, 2]
    assert each["names"] == ["a", "a_2", "b2", "b2_2", "b10", "b10_2"]
    pairs = run(pack, source="set", lines="one\ntwo\nthree", combine="in pairs")
    assert pairs["prompts"] == ["one", "two", "three"]
    single = run(pack, source="set", lines="one", combine="in pairs")
    assert single["prompts"] == ["one"] * 3
    with pytest.raises(pack.error("InputError"), match="3 and 2 rows to put into pairs"):
        run(pack, source="set", lines="one\ntwo", combine="in pairs")


def test_a_table_with_its_own_seeds_and_names(pack: Any, inputs: Path) -> None:
    (inputs / "set" / "rows.csv").write_text(
        "name;image;prompt;seed;#note\nfirst;b2.jpg;make it; 5;x\nsecond;a.png;;;\n"
    )
    got = run(pack, source="set/rows.csv", seed=100, seeds="the same")
    assert got["names"] == ["batch/first", "batch/second"]
    assert got["prompts"] == ["make it", ""]
    assert got["seeds"] == [5, 100]
    assert colours(got["images"]) == [1, 0]


def test_pasted_rows_name_pictures_of_the_input_folder(pack: Any, inputs: Path) -> None:
    table = run(pack, lines="image,prompt\nset/a.png,x\nset/b10.png,y")
    assert colours(table["images"]) == [0, 2]
    objects = run(pack, lines='{"image": "set/a.png", "seed": 3}\n{"image": "set/b2.jpg"}')
    assert (colours(objects["images"]), objects["seeds"]) == ([0, 1], [3, 1])


def test_linked_pictures_become_rows(pack: Any, inputs: Path, image: Callable[..., Tensor]) -> None:
    batch = torch.cat([image(1), image(2)])
    got = run(pack, images=batch, lines="x\ny", combine="in pairs")
    assert torch.equal(torch.cat(got["images"]), batch)
    assert (got["names"], got["prompts"]) == (["batch/0001", "batch/0002"], ["x", "y"])
    with pytest.raises(pack.error("InputError"), match="two pictures"):
        run(pack, images=batch, source="set")


def test_first_and_limit_keep_names_and_seeds(pack: Any, inputs: Path) -> None:
    whole = run(pack, lines="a\nb\nc\nd", seed=10)
    part = run(pack, lines="a\nb\nc\nd", seed=10, first=2, limit=2)
    for key in ("prompts", "names", "seeds"):
        assert part[key] == whole[key][1:3]
    assert part["count"] == 2
    assert whole["images"] == [None] * 4
    with pytest.raises(pack.error("InputError"), match="only 4 rows"):
        run(pack, lines="a\nb\nc\nd", first=5)


def test_the_last_seed_is_followed_by_zero(pack: Any) -> None:
    assert run(pack, lines="a\nb", seed=2**64 - 1)["seeds"] == [2**64 - 1, 0]


BAD = [
    ({}, "there are no rows"),
    ({"source": "nothing"}, "no file or folder 'nothing'"),
    ({"source": "../outside"}, r"without '\.\.'"),
    ({"source": "/etc"}, "must be a path below"),
    ({"source": "set/link"}, "leads out of"),
    ({"source": "set/notes.md"}, "not a kind of file that holds rows"),
    ({"lines": "image,prompt\n../../secret.png,x"}, r"row 1: the picture '\.\./\.\./secret.png'"),
    ({"lines": "image,prompt\nset/none.png,x\nset/a.png,y"}, "row 1: there is no picture"),
    ({"lines": "prompt,steps\nx,3"}, "no output for the column 'steps'"),
    ({"lines": "prompt,seed\nx,-1"}, "row 1: seed is '-1'"),
    ({"lines": "prompt,seed\nx,1\ny,2.5\nz,1,2"}, "row 3: line 4 has 3 cells"),
    ({"lines": "name,prompt\n../x,a"}, "the name '../x' can't be a file's"),
    ({"lines": "x", "name_prefix": "../"}, "can't be a file's"),
    ({"lines": "image,prompt\nset/a.png,x\n,y"}, "1 of 2 rows have a picture"),
    ({"lines": "image,prompt\nset/notes.md,x"}, "can't be read as a picture"),
]


@pytest.mark.parametrize(("given", "message"), BAD, ids=lambda value: str(value)[:40])
def test_what_is_refused(pack: Any, inputs: Path, given: dict, message: str) -> None:
    outside = inputs.parent / "outside"
    outside.mkdir()
    Image.new("RGB", (16, 16)).save(outside / "secret.png")
    (inputs / "set" / "link").symlink_to(outside, target_is_directory=True)
    with pytest.raises(pack.error("InputError"), match=message):
        run(pack, **given)


def test_bad_rows_are_told_before_the_run(pack: Any, inputs: Path) -> None:
    check = pack.nodes["KontextBatch"].validate_inputs
    assert check(source="set", lines="x") is True
    assert check(source=None, lines=None) is True
    assert "no file or folder" in check(source="nothing", lines="")
    assert "row 1" in check(source="", lines="image,prompt\nnone.png,x")
    many = check(source="", lines="prompt,seed\n" + "x,1,2\n" * 9)
    assert "row 5: line 6" in many and many.endswith("and 4 more")


def test_it_runs_again_when_the_folder_changes(pack: Any, inputs: Path) -> None:
    stamp = pack.nodes["KontextBatch"].fingerprint_inputs
    before = stamp(source="set")
    assert stamp(source="set") == before
    assert stamp(source="") == "" and stamp(source=None) == "" and stamp(source="x") == "missing"
    path = inputs / "set" / "a.txt"
    path.write_text("another", encoding="utf-8")
    os.utime(path, (time.time() + 5,) * 2)
    assert stamp(source="set") != before


def test_too_many_pixels_at_once(pack: Any, inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack.module("nodes.batch"), "MAX_BYTES", 3 * 32 * 16 * 12 - 1)
    with pytest.raises(pack.error("InputError"), match="python -m standalone batch"):
        run(pack, source="set")
    assert run(pack, source="set", limit=2)["count"] == 2


def test_no_input_folder_at_all(pack: Any) -> None:
    with pytest.raises(pack.error("InputError"), match="no input folder"):
        run(pack, source="set")


def test_edit_takes_every_row(pack: Any, inputs: Path) -> None:
    """Each row through Kontext: Edit is what Edit gives for that row alone."""
    got = run(pack, source="set", lines="make it blue")
    first = pack.run("KontextEdit", image1=got["images"][0], prompt=got["prompts"][0],
                     seed=got["seeds"][0], steps=1)[0]  # fmt: skip
    assert first.shape[-1] == 3
    words = run(pack, lines="a red star")
    made = pack.run("KontextEdit", image1=words["images"][0], prompt=words["prompts"][0], steps=1)
    assert made[0].shape[-1] == 3
