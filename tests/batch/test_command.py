"""`python -m standalone batch` as a program: killed, stopped, run again, in JSON, dry."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from embedded_nodes import ROOT
from fake_comfy import FakeComfy, wait_for

from standalone.__main__ import main
from standalone.batch.journal import MANIFEST

PROMPT = {
    "5": {"class_type": "LoadImage", "inputs": {"image": "x.png"}},
    "8": {"class_type": "Edit", "inputs": {"image": ["5", 0], "prompt": "", "seed": 1}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0]}},
}


@pytest.fixture
def fake() -> Iterator[FakeComfy]:
    made = FakeComfy().start()
    yield made
    made.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "workflow.json").write_text(json.dumps(PROMPT))
    (tmp_path / "a.png").write_bytes(b"a")
    lines = [f"row{number},prompt {number},a.png" for number in range(1, 7)]
    (tmp_path / "rows.csv").write_text("\n".join(["name,prompt,image", *lines]))
    return tmp_path


def words(folder: Path, *fakes: FakeComfy, rows: str = "rows.csv") -> list[str]:
    servers = [word for fake in fakes for word in ("--server", fake.url)]
    return [
        "batch", str(folder / "workflow.json"), "--rows", str(folder / rows),
        "--output", str(folder / "out"), *servers, "--patience", "1",
    ]  # fmt: skip


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "standalone", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A suite started in a shell's background inherits an ignored Ctrl-C.
        preexec_fn=None if os.name == "nt" else _with_ctrl_c,
    )


def _with_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def events(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "out" / MANIFEST).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def prompts(fake: FakeComfy) -> Counter[str]:
    return Counter(run["8"]["inputs"]["prompt"] for run in fake.runs.values())


def test_all_rows_and_the_summary(folder: Path, fake: FakeComfy, capsys: Any) -> None:
    assert main(words(folder, fake)) == 0
    assert capsys.readouterr().out == f"6 rows done: {folder / 'out' / MANIFEST}\n"
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        MANIFEST, *(f"row{number}.png" for number in range(1, 7)),
    ]  # fmt: skip
    sent = json.loads((folder / "out/row3.png").read_bytes())
    assert sent["8"]["inputs"]["prompt"] == "prompt 3"
    assert main([*words(folder, fake), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["done"], told["already"], len(told["rows"])) == (0, 6, 6)
    row = told["rows"][0]
    assert (row["name"], row["seed"], row["server"]) == ("row1", 1, fake.url)
    assert (row["seconds"], row["files"]) == (2.5, ["row1.png"])
    assert len(fake.runs) == 6


def test_killed_and_run_again(folder: Path, fake: FakeComfy) -> None:
    """What was done stays done, what was running is collected, the rest runs: each row once."""
    fake.held = {"prompt 3", "prompt 4"}
    process = start(words(folder, fake))
    wait_for(lambda: len(fake.queue) == 2, "two rows are held")
    # Rows are taken in their order, so those before the held ones are in the manifest.
    process.kill()
    process.communicate()
    first = dict(fake.runs)
    assert {event["event"] for event in events(folder)} == {"begin", "sent", "done"}
    # One ends while nobody looks, the other after the command is back.
    fake.finish(fake.queue[0])
    process = start([*words(folder, fake), "--json"])
    wait_for(lambda: len(fake.runs) > len(first), "new rows are sent")
    fake.finish(fake.queue[0])
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    told = json.loads(out)
    assert (told["done"], told["already"]) == (4, 2)
    assert prompts(fake) == {f"prompt {number}": 1 for number in range(1, 7)}


@pytest.mark.skipif(os.name != "posix", reason="signals are posix")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_and_run_again(number: int, folder: Path, fake: FakeComfy) -> None:
    fake.held = {"prompt 3", "prompt 4"}
    process = start(words(folder, fake))
    wait_for(lambda: len(fake.queue) == 2, "two rows are held")
    process.send_signal(number)
    out, errors = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, "")
    assert "2 of 6 rows are done; run the same command again" in errors
    assert "Traceback" not in errors
    # One of the two still waited and was taken back; the running one is left to end.
    assert len(fake.queue) == 1
    fake.finish(fake.queue[0])
    fake.held = set()
    assert main(words(folder, fake)) == 0
    counts = prompts(fake)
    assert sorted(counts) == [f"prompt {n}" for n in range(1, 7)]
    assert sum(counts.values()) == 7


def test_a_server_that_dies_in_the_middle(folder: Path, fake: FakeComfy) -> None:
    other = FakeComfy().start()
    other.held = {""}
    process = start([*words(folder, fake, other), "--json"])
    wait_for(lambda: len(other.queue) == 2, "the other has two rows")
    other.stop()
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    told = json.loads(out)
    assert {row["server"] for row in told["rows"]} == {fake.url}
    assert sum(row["lost"] for row in told["rows"]) == 2
    assert "its rows go elsewhere" in errors


def test_bad_rows_are_told_and_the_rest_runs(folder: Path, fake: FakeComfy, capsys: Any) -> None:
    (folder / "rows.jsonl").write_text(
        '{"name": "a", "prompt": "good", "image": "a.png"}\n'
        '{"name": "b", "prompt": "bad", "image": "../../etc/passwd"}\n'
        '{"name": "../../c", "prompt": "bad", "image": "a.png"}\n'
        '{"name": "d", "prompt": "fails", "image": "a.png"}\n'
        '{"name": "e", "prompt": "refused", "image": "a.png"}\n'
    )
    fake.errors, fake.refusals = {"fails": "out of memory"}, {"refused": "not there"}
    assert main(words(folder, fake, rows="rows.jsonl")) == 3
    said = capsys.readouterr()
    assert said.out.startswith("1 rows done, 4 failed")
    for text in ("row 2 (b) failed: the picture '../../etc/passwd'", "row 3 (0003) failed",
                 "row 4 (d) failed: node 8 (Edit): OutOfMemoryError", "not there"):  # fmt: skip
        assert text in said.err
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["a.png", MANIFEST]
    assert prompts(fake) == {"good": 1, "fails": 1}
    # The next command tries the bad ones again.
    fake.errors, fake.refusals = {}, {}
    assert main([*words(folder, fake, rows="rows.jsonl"), "--quiet"]) == 3
    assert prompts(fake) == {"good": 1, "fails": 2, "refused": 1}


def test_a_dry_run_asks_nobody_and_writes_nothing(folder: Path, capsys: Any) -> None:
    (folder / "rows.csv").write_text("prompt,image\na,a.png\nb,none.png\n")
    nobody = FakeComfy(port=9)
    assert main([*words(folder, nobody), "--dry-run", "--seed", "40"]) == 3
    out = capsys.readouterr().out
    assert "column prompt -> 8.prompt" in out
    assert "row 1 a: seed 40, 1 pictures" in out and "there is no picture 'none.png'" in out
    assert main([*words(folder, nobody), "--dry-run", "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert told["columns"] == {"prompt": ["8.prompt"], "image": ["5.image"]}
    assert [bool(row["error"]) for row in told["rows"]] == [False, True]
    assert not (folder / "out").exists()


def test_a_server_without_the_nodes_is_left_out(folder: Path, fake: FakeComfy, capsys: Any) -> None:
    poor = FakeComfy(kinds=("LoadImage", "SaveImage")).start()
    assert main(words(folder, fake, poor)) == 0
    assert not poor.runs
    assert main([*words(folder, poor)[:-2], "--output", str(folder / "other")]) == 1
    assert "has no node Edit" in capsys.readouterr().err
    poor.stop()
    assert main([*words(folder, poor)[:-2], "--output", str(folder / "other")]) == 1
    assert "no server can run this workflow" in capsys.readouterr().err
    assert not (folder / "other").exists()


def test_the_name_of_an_earlier_release(folder: Path, fake: FakeComfy) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kontext_core", *words(folder, fake)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "this is `python -m standalone batch` now" in done.stderr
    assert len(fake.runs) == 6


def test_no_server_left(folder: Path, fake: FakeComfy) -> None:
    fake.held = {"prompt 2"}
    process = start(words(folder, fake))
    manifest = folder / "out" / MANIFEST
    # The fake has a result before the command has it.
    wait_for(lambda: manifest.exists() and manifest.read_text().count('"done"') == 5, "five rows")
    fake.stop()
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 4, errors
    assert "5 rows done, 1 left, as no server answers" in out


def test_a_folder_with_common_values_and_counted_seeds(folder: Path, fake: FakeComfy) -> None:
    pictures = folder / "pictures"
    pictures.mkdir()
    for name in ("p1.png", "p2.png"):
        (pictures / name).write_bytes(name.encode())
    (pictures / "p2.txt").write_text("its own")
    arguments = words(folder, fake, rows="pictures")
    assert main([*arguments, "--set", "prompt=all of them", "--seed", "100"]) == 0
    sent = [json.loads((folder / f"out/p{n}.png").read_bytes())["8"]["inputs"] for n in (1, 2)]
    assert [one["prompt"] for one in sent] == ["all of them", "its own"]
    assert [one["seed"] for one in sent] == [100, 101]
    # Random seeds are kept in the manifest, and stay what they are.
    assert main([*arguments, "--set", "prompt=x", "--seed", "random"]) == 0
    seeds = [event["seed"] for event in events(folder) if event["event"] == "done"][2:]
    assert len(set(seeds)) == 2
    runs = len(fake.runs)
    assert main([*arguments, "--set", "prompt=x", "--seed", "random"]) == 0
    assert len(fake.runs) == runs


BAD = [
    (["--set", "steps"], "expected COLUMN=VALUE"),
    (["--set", "stepz=1"], "no input for the column 'stepz'"),
    (["--server", "ftp://x"], "is not a server's URL"),
    (["--depth", "0"], "--depth is 0"),
]


@pytest.mark.parametrize(("more", "message"), BAD)
def test_what_can_not_start(
    more: list[str], message: str, folder: Path, fake: FakeComfy, capsys: Any
) -> None:
    assert main([*words(folder, fake), *more]) == 1
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ")
    assert not (folder / "out").exists() and not fake.runs


@pytest.mark.parametrize("more", [["--seed", "-1"], ["--seed", "x"], ["--retries", "x"], []])
def test_options_are_checked_at_once(more: list[str], capsys: Any) -> None:
    arguments = ["batch", "w.json", "--rows", "r.csv", "--output", "o"][: 6 if more else 4]
    with pytest.raises(SystemExit) as caught:
        main([*arguments, *more])
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err
