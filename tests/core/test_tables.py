"""Rows from every kind of file, single bad rows, and names that lead elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kontext_core.errors import InputError
from kontext_core.tables.names import inside, natural, plain_name
from kontext_core.tables.numbers import whole_number
from kontext_core.tables.rows import parse_rows, read_rows


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


TABLES = {
    "comma.csv": 'name,prompt,seed\na,"red, and ""big""",1\n\nb,"two\nlines",\n',
    "semicolon.csv": 'name;prompt;seed\na;"red, and ""big""";1\nb;"two\nlines";\n',
    "tab.tsv": 'name\tprompt\tseed\na\t"red, and ""big"""\t1\nb\t"two\nlines"\t\n',
    "named separator.csv": 'sep=;\nname;prompt;seed\na;"red, and ""big""";1\nb;"two\nlines";\n',
    "named in quotes.csv": '\ufeff"SEP=|"\r\nname|prompt|seed\r\na|"red, and ""big"""|1\r\nb|"two\nlines"|\r\n',
    "named tab.tsv": 'sep=\t\nname\tprompt\tseed\na\t"red, and ""big"""\t1\nb\t"two\nlines"\t\n',
    "empty columns.csv": 'name,prompt,seed,,\na,"red, and ""big""",1,, \nb,"two\nlines",,,,,\n,,,,\n',
    "mark.csv": '\ufeffname,prompt,seed\r\na,"red, and ""big""",1\r\nb,"two\nlines",\r\n',
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_every_dialect(name: str, tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path, name, TABLES[name]))
    assert [(row.number, row.name) for row in rows] == [(1, "a"), (2, "b")]
    assert rows[0].values == {"prompt": 'red, and "big"', "seed": "1"}
    # An empty cell leaves what the workflow has.
    assert rows[1].values == {"prompt": "two\nlines"}


def test_json_lines_and_lists(tmp_path: Path) -> None:
    objects = [
        {"name": "a", "prompt": "x\u2028y", "seed": 7},
        {"prompt": "", "big": 1.5, "no": None},
    ]
    text = "\n".join(json.dumps(one, ensure_ascii=False) for one in objects)
    rows = read_rows(write(tmp_path, "rows.jsonl", text))
    assert [row.values for row in rows] == [
        {"prompt": "x\u2028y", "seed": 7},
        # An empty text that is written out is meant.
        {"prompt": "", "big": 1.5},
    ]
    assert [row.name for row in rows] == ["a", "0002"]
    assert rows == read_rows(write(tmp_path, "rows.json", json.dumps(objects)))
    assert read_rows(write(tmp_path, "p.txt", "one\n\n two \n"))[1].values == {"prompt": "two"}


def test_a_folder_is_sorted_as_people_do(tmp_path: Path) -> None:
    for name in ("b10.png", "b2.PNG", "a.jpg", ".hidden.png", "notes.md", "b2.txt"):
        write(tmp_path, name, "words" if name == "b2.txt" else "x")
    (tmp_path / "folder.png").mkdir()
    rows = read_rows(tmp_path)
    assert [row.name for row in rows] == ["a", "b2", "b10"]
    assert rows[1].values == {"image": "b2.PNG", "prompt": "words"}
    assert rows[2].values == {"image": "b10.png"}
    write(tmp_path, "b10.txt", b"\xff\xfe\x00")
    assert "b10.txt can't be read" in read_rows(tmp_path)[2].problem
    assert sorted(["a10", "A9", "a2"], key=natural) == ["a2", "A9", "a10"]


def test_every_row_has_a_name_of_its_own() -> None:
    text = "name,image\ncat,\n,a/cat.png\nCat,\n,\n,x.png\n"
    rows = parse_rows(text)
    assert [row.name for row in rows] == ["cat", "cat_2", "Cat_3", "x"]
    assert [row.number for row in rows] == [1, 2, 3, 4]


PASTED = [
    ("a red star\nprompt: a, b", ["a red star", "prompt: a, b"]),
    ("prompt\na\nb", ["a", "b"]),
    ("seed,prompt\n1,a\n2,b", ["a", "b"]),
    ("sep=;\nseed;prompt\n1;a\n2;b", ["a", "b"]),
    ('{"prompt": "a"}\n{"prompt": "b"}', ["a", "b"]),
    ("make it big, red and round\nimage of a cat, blue", None),
    ("  \n\n", []),
]


@pytest.mark.parametrize(("text", "prompts"), PASTED)
def test_pasted_text_is_told_apart(text: str, prompts: list[str] | None) -> None:
    expected = text.split("\n") if prompts is None else prompts
    assert [row.values["prompt"] for row in parse_rows(text)] == expected


BAD_ROWS = [
    ("rows.jsonl", '{"a": 1}\nnonsense\n{"a": 2}', "line 2 is not JSON"),
    ("rows.jsonl", '{"a": 1}\n[1]\n{"a": 2}', "line 2 is a list"),
    ("rows.jsonl", '{"a": 1}\n{"a": ["4", 0]}\n{"a": 2}', "'a' is ['4', 0]; expected a text"),
    ("rows.jsonl", '{"a": 1}\n{"a": NaN}\n{"a": 2}', "NaN is not a number"),
    ("rows.jsonl", '{"a": 1}\n{"a": 1e999}\n{"a": 2}', "'a' is inf"),
    ("rows.jsonl", '{"a": 1}\n' + "[" * 100_000 + '\n{"a": 2}', "line 2 is not JSON"),
    ("rows.csv", "a,b\n1,2\n1,2,3\n1,2\n", "line 3 has 3 cells, the header 2"),
    ("rows.csv", "a,b,,\n1,2,,\n1,2,,3\n1,2,,\n", "line 3 has 4 cells, the header 2"),
    ("rows.csv", "sep=,\na,b\n1,2\n1,2,3\n1,2\n", "line 4 has 3 cells, the header 2"),
    ("rows.csv", "name,b\n1,2\n../../x,2\n1,2\n", "'../../x' can't be a file's"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "problem"), BAD_ROWS)
def test_one_bad_row_spoils_no_other(name: str, text: str, problem: str, tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path, name, text))
    assert problem in rows[1].problem
    assert [row.problem for row in (rows[0], rows[2])] == ["", ""]


BAD_FILES = [
    ("none.csv", None, "there are no rows at"),
    ("empty.csv", "", "there are no rows in"),
    ("header.csv", "a,b\n", "a table needs a header and a line below it"),
    ("rows.xlsx", "PK", "not a kind of file that holds rows"),
    ("bytes.csv", b"a,b\n\xff,\xfe", "save it as UTF-8"),
    ("twice.csv", "a,b,a\n1,2,3\n", "column 'a' stands twice"),
    ("blank.csv", "a,,c\n1,2,3\n", "column 2 of the table has no name"),
    ("quote.csv", 'a,b\n"x,1\n', "is damaged"),
    ("rows.json", '{"a": 1}', "the rows are not a list"),
    ("rows.json", "[", "the rows are no JSON"),
]


@pytest.mark.parametrize(("name", "text", "message"), BAD_FILES)
def test_files_without_rows(
    name: str, text: str | bytes | None, message: str, tmp_path: Path
) -> None:
    if text is not None:
        write(tmp_path, name, text)
    with pytest.raises(InputError, match=message):
        read_rows(tmp_path / name)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there are no pictures in"):
        read_rows(tmp_path)


HOSTILE = [
    "../x", "a/../../x", "/etc/passwd", "\\x", "C:\\x", "c:x", "..", ".", "", "a\0b", "a\nb",
    "~", ".hidden", "a/.unfinished/b", "con", "NUL.png", "x" * 300, "a?", "trailing.", "a/b ",
    "\\\\server\\share",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_can_not_be_files(name: str) -> None:
    if name == "a/b ":
        # Blanks around the whole are not meant.
        assert plain_name(name) == "a/b"
        return
    with pytest.raises(InputError, match="can't be a file's"):
        plain_name(name)


def test_good_names() -> None:
    assert plain_name("Katze 1 (rot) ü猫.v2") == "Katze 1 (rot) ü猫.v2"
    assert plain_name("a\\b//c/") == "a/b/c"


def test_pictures_stay_inside_their_folder(tmp_path: Path) -> None:
    folder, outside = tmp_path / "in", tmp_path / "out"
    (folder / "sub").mkdir(parents=True)
    outside.mkdir()
    for path in (folder / "a.png", folder / "sub/b.png", outside / "secret.png"):
        path.write_bytes(b"x")
    (folder / "link.png").symlink_to(outside / "secret.png")
    (folder / "own.png").symlink_to("a.png")
    assert inside(folder, "sub\\b.png") == folder / "sub/b.png"
    assert inside(folder, " a.png ") == folder / "a.png"
    assert inside(folder, "own.png").read_bytes() == b"x"
    for name in ("../out/secret.png", str(outside / "secret.png"), "sub/../../out/secret.png",
                 "C:\\secret.png", "", ".", "a\0"):  # fmt: skip
        with pytest.raises(InputError, match="must be a path below"):
            inside(folder, name)
    with pytest.raises(InputError, match="a link that leads out"):
        inside(folder, "link.png")
    with pytest.raises(InputError, match="there is no picture"):
        inside(folder, "none.png")
    with pytest.raises(InputError, match="is not a file"):
        inside(folder, "sub")
    assert inside(folder, "sub", folder_too=True) == folder / "sub"


WHOLE = [
    ("5", 5), ("-3", -3), (" 7 ", 7), ("5.0", 5), ("5,00", 5), (5.0, 5), (2**64 - 1, 2**64 - 1),
    (str(2**64 - 1), 2**64 - 1), ("18446744073709551615.0", 2**64 - 1), ("5.5", None), (5.5, None),
    # A group of thousands, or three zeros behind the point.
    ("1.000", None), ("1 000", None), ("", None), ("x", None), (True, None), ("\u0665", None),
    ("1_000", None), ("1e-3", None), ("9" * 5000, None), ("inf", None), ("nan", None),
]  # fmt: skip


@pytest.mark.parametrize(("value", "number"), WHOLE)
def test_whole_numbers_of_spreadsheets(value: object, number: int | None) -> None:
    assert whole_number(value, "seed") == number


@pytest.mark.parametrize("value", ["1.23457E+14", "1,23457e+14", "1E14", 1.5e17, 2.0**53, 1e300])
def test_a_number_whose_digits_are_lost_is_refused(value: object) -> None:
    with pytest.raises(InputError, match="seed is .*has rounded it, and its last digits are lost"):
        whole_number(value, "seed")


APART, TOGETHER = "e\u0301te\u0301", "\u00e9t\u00e9"


def test_accents_may_be_composed_or_not(tmp_path: Path) -> None:
    """A table of one system beside pictures of another: names that look the same are the same."""
    for folder, stored in (("a", APART), ("b", TOGETHER)):
        below = tmp_path / folder / stored
        below.mkdir(parents=True)
        write(below, f"{stored}.png", "x")
        write(below, f"{APART if stored == TOGETHER else TOGETHER}.txt", "words")
        for given in (APART, TOGETHER):
            found = inside(tmp_path / folder, f"{given}/{given}.png")
            assert found.read_bytes() == b"x"
            with pytest.raises(InputError, match="there is no picture"):
                inside(tmp_path / folder, f"{given}/other{given}.png")
        [row] = read_rows(below)
        assert (row.name, row.values["prompt"]) == (TOGETHER, "words")
    rows = parse_rows(f"name,prompt\n{APART},x\n{TOGETHER},y\n")
    assert [row.name for row in rows] == [TOGETHER, f"{TOGETHER}_2"]
