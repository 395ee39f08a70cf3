"""Folders of examples: every layout, and what is told of folders that can't be used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kontext_core.errors import InputError
from kontext_core.finetune import read_examples


def test_files_by_name(folder: Path) -> None:
    found = read_examples(folder)
    assert [(one.name, len(one.references)) for one in found] == [
        ("a", 1), ("b", 1), ("c", 1), ("d", 2),
    ]  # fmt: skip
    assert found[3].prompt == "put the red star on image d"
    assert [path.name for path in found[3].references] == ["d_ref1.png", "d_ref2.png"]


def test_folders_and_tables_give_the_same(folder: Path, tmp_path: Path) -> None:
    split, rows = tmp_path / "split", []
    for name, count in (("a", 1), ("b", 1), ("c", 1), ("d", 2)):
        parts = {"target": "target", "control": "ref1", "control2": "ref2"}
        for place, kind in list(parts.items())[: 1 + count]:
            (split / place).mkdir(parents=True, exist_ok=True)
            (split / place / f"{name}.png").write_bytes(
                (folder / f"{name}_{kind}.png").read_bytes()
            )
        text = (folder / f"{name}.txt").read_text(encoding="utf-8")
        (split / "target" / f"{name}.txt").write_text(text, encoding="utf-8")
        row = {"file_name": f"target/{name}.png", "instruction": text.strip(), "name": name}
        row |= {f"image{n}": f"control{n if n > 1 else ''}/{name}.png" for n in range(1, count + 1)}
        rows.append(json.dumps(row))
    bytes_of = [
        [one.name, one.prompt, *(p.read_bytes() for p in (one.target, *one.references))]
        for one in read_examples(folder)
    ]
    for made in (split, split / "metadata.jsonl"):
        (split / "metadata.jsonl").write_text("\n".join(rows), encoding="utf-8")
        if made is split:
            (split / "metadata.jsonl").unlink()
        assert bytes_of == [
            [one.name, one.prompt, *(p.read_bytes() for p in (one.target, *one.references))]
            for one in read_examples(made)
        ]


def empty(folder: Path) -> None:
    (folder / "b.txt").write_text("  \n", encoding="utf-8")


def gone(folder: Path) -> None:
    (folder / "c_target.png").unlink()


def cut(folder: Path) -> None:
    path = folder / "a_ref1.png"
    path.write_bytes(path.read_bytes()[:200])


def stray(folder: Path) -> None:
    (folder / "a_target.png").rename(folder / "a_tarqet.png")


def gap(folder: Path) -> None:
    (folder / "d_ref1.png").rename(folder / "d_ref3.png")


def no_text(folder: Path) -> None:
    (folder / "a.txt").unlink()


def lonely(folder: Path) -> None:
    (folder / "e.txt").write_text("nothing", encoding="utf-8")


def table(folder: Path) -> None:
    (folder / "metadata.csv").write_text(
        "target,prompt,image\na_target.png,good,a_ref1.png\nz.png,bad,../b_ref1.png\n",
        encoding="utf-8",
    )


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (empty, ["b.txt: is empty"]),
        (gone, ["c_ref1.png: has no target", "c.txt: has no picture c_target"]),
        (cut, ["a_ref1.png"]),
        (stray, ["a_tarqet.png: belongs to no example", "a_ref1.png: has no target"]),
        (gap, ["d: has references 2, 3"]),
        (no_text, ["a.txt: not there"]),
        (lonely, ["e.txt: has no picture e_target"]),
        (table, ["metadata.csv, row 2", "'z.png'", "'../b_ref1.png'"]),
    ],
)
def test_problems_are_told_by_the_name_of_the_file(
    folder: Path, damage: Callable[[Path], None], named: list[str]
) -> None:
    damage(folder)
    with pytest.raises(InputError) as told:
        read_examples(folder)
    assert "nothing was started" in str(told.value)
    for words in named:
        assert words in str(told.value)


def test_an_empty_folder_says_what_it_expects(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="NAME_target.png"):
        read_examples(tmp_path)
    with pytest.raises(InputError, match="no training folder"):
        read_examples(tmp_path / "nowhere")
