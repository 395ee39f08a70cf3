"""Batches on every host: the command on one and on two servers, and the node that makes lists."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import embedded_host  # noqa: F401  makes `standalone` importable
import pytest
from fake_comfy import wait_for
from host_client import Client, load_prompt
from hosts import ROOT, Server
from PIL import Image

from standalone.__main__ import main
from standalone.batch.journal import MANIFEST

WORKFLOW = ROOT / "workflows/api/one_reference_edit.json"
PICTURES = ROOT / "workflows/input"


def rows(folder: Path, count: int) -> Path:
    """A table of edits that take a second or two each, its pictures beside it."""
    names = ("kontext_shapes.png", "kontext_star.png", "kontext_sunset.png")
    for name in names:
        (folder / name).write_bytes((PICTURES / name).read_bytes())
    lines = ["name,image,prompt,seed,steps"]
    for number in range(count):
        colour = ("red", "blue", "green")[number % 3]
        line = f"row{number + 1},{names[number % 3]},make the background {colour},{number},1"
        lines.append(line)
    path = folder / "rows.csv"
    path.write_text("\n".join(lines))
    return path


def words(folder: Path, workflow: Path, table: Path, *urls: str) -> list[str]:
    servers = [word for url in urls for word in ("--server", url)]
    return ["batch", str(workflow), "--rows", str(table), "--output", str(folder / "out"), *servers]


def pixels(path: Path) -> bytes:
    with Image.open(path) as picture:
        return picture.tobytes()


def test_the_command_gives_what_the_client_gives(
    server: Server, client: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = rows(tmp_path, 3)
    bad = "bad,kontext_star.png,x,1,-5\nworse,../secret.png,x,1,1\nlast,kontext_star.png,x,,1\n"
    table.write_text(f"{table.read_text()}\n{bad}")
    assert main([*words(tmp_path, WORKFLOW, table, server.url), "--json"]) == 3
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert (told["done"], told["failed"], told["left"]) == (4, 2, 0)
    assert "row 4 (bad) failed: node 8 (KontextSampler)" in said.err
    assert "row 5 (worse) failed: the picture '../secret.png'" in said.err
    # The workflow's own seed, where the table has none.
    assert [row["seed"] for row in told["rows"]] == [0, 1, 2, 1, 1, 2]
    prompt = load_prompt(WORKFLOW)
    prompt["4"]["inputs"]["text"] = "make the background blue"
    prompt["5"]["inputs"]["image"] = "kontext_star.png"
    prompt["8"]["inputs"].update(seed=1, steps=1)
    direct = client.run(prompt)
    assert direct.ok, direct.error
    assert pixels(tmp_path / "out/row2.png") == client.view(direct.files()[0]).tobytes()
    with Image.open(tmp_path / "out/row2.png") as picture:
        # It carries its own values, so it opens in the editor as what it is.
        carried = json.loads(picture.info["prompt"])
    assert carried["4"]["inputs"]["text"] == "make the background blue"
    assert main([*words(tmp_path, WORKFLOW, table, server.url), "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert (told["done"], told["already"]) == (0, 4)


def test_a_workflow_as_the_editor_saves_it(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = rows(tmp_path, 1)
    saved = ROOT / "workflows/one_reference_edit.json"
    assert main(words(tmp_path / "a", WORKFLOW, table, server.url)) == 0
    assert main(words(tmp_path / "b", saved, table, server.url)) == 0
    assert pixels(tmp_path / "a/out/row1.png") == pixels(tmp_path / "b/out/row1.png")


def test_the_node_runs_what_follows_once_for_each_row(server: Server, client: Client) -> None:
    folder = server.base / "input" / "batch"
    folder.mkdir(exist_ok=True)
    for name in ("kontext_star.png", "kontext_sunset.png"):
        (folder / name).write_bytes((PICTURES / name).read_bytes())
    (folder / "kontext_star.txt").write_text("make the star blue")
    (folder / "kontext_sunset.txt").write_text("make it night")

    def node(class_type: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": class_type, "inputs": inputs}

    batch = node("KontextBatch", source="batch", lines="", combine="each with each", seed=3,
                 seeds="count up", first=1, limit=0, name_prefix="made/")  # fmt: skip
    edit = node("KontextEdit", image1=["1", 0], prompt=["1", 1], seed=["1", 3], steps=1,
                guidance=2.5, width=0, height=0)  # fmt: skip
    prompt = {
        "1": batch, "2": edit, "3": node("SaveImage", images=["2", 0], filename_prefix=["1", 2]),
    }  # fmt: skip
    run = client.run(prompt)
    assert run.ok, run.error
    files = {entry["filename"]: entry for entry in run.files()}
    assert sorted(files) == ["kontext_star_00001_.png", "kontext_sunset_00001_.png"]
    assert {entry["subfolder"] for entry in files.values()} == {"made"}
    # Nothing changed, nothing runs; a changed text does.
    again = client.run(prompt)
    assert set(again.data("execution_cached")[0]["nodes"]) >= {"1", "2"}
    (folder / "kontext_sunset.txt").write_text("make it day, with a longer text")
    changed = client.run(prompt)
    assert "1" not in changed.data("execution_cached")[0]["nodes"]
    alone = {
        "2": node("KontextEdit", image1=["4", 0], prompt="make it night", seed=4, steps=1,
                  guidance=2.5, width=0, height=0),
        "3": node("SaveImage", images=["2", 0], filename_prefix="alone"),
        "4": node("LoadImage", image="kontext_sunset.png"),
    }  # fmt: skip
    single = client.run(alone)
    assert single.ok, single.error
    made = client.view(files["kontext_sunset_00001_.png"])
    assert made.tobytes() == client.view(single.files()[0]).tobytes()


def test_what_the_node_refuses_is_told_before_the_run(client: Client) -> None:
    for source in ("../models", "/etc", "no such folder"):
        inputs = {"source": source, "lines": "", "combine": "in pairs", "seed": 0,
                  "seeds": "count up", "first": 1, "limit": 1, "name_prefix": ""}  # fmt: skip
        prompt = {
            "1": {"class_type": "KontextBatch", "inputs": inputs},
            "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        }
        status, answer = client.post("/prompt", {"prompt": prompt})
        assert status == 400
        assert source in json.dumps(answer["node_errors"]["1"])


@contextlib.contextmanager
def standalone(base: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """An embedded host of the test's own, that it may kill: the process and its URL."""
    command = [sys.executable, "-m", "standalone", "serve", "--port", "0"]
    with subprocess.Popen(
        [*command, "--base-directory", str(base)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().split()[2]
        finally:
            process.kill()


@pytest.mark.slow
def test_two_servers_one_killed_in_the_middle(tmp_path: Path) -> None:
    """Every row is there in the end, each once, and the survivor did what the other had."""
    table = rows(tmp_path, 12)
    manifest = tmp_path / "out" / MANIFEST
    with standalone(tmp_path / "a") as (_, first), standalone(tmp_path / "b") as (doomed, second):
        arguments = [*words(tmp_path, WORKFLOW, table, first, second), "--patience", "20"]
        batch = subprocess.Popen(
            [sys.executable, "-m", "standalone", *arguments, "--json"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        # Its first row is done, its next ones are on it.
        wait_for(lambda: events(manifest, "done", second), "a row of the second server", 300)
        doomed.kill()
        out, errors = batch.communicate(timeout=600)
    assert batch.returncode == 0, errors
    told = json.loads(out)
    assert (told["done"], told["failed"], told["left"]) == (12, 0, 0)
    assert {row["server"] for row in told["rows"]} == {first, second}
    names = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert names == sorted(f"row{number}.png" for number in range(1, 13))
    counts = [event["name"] for event in events(manifest, "done")]
    assert len(counts) == len(set(counts)) == 12


def events(manifest: Path, kind: str, server: str = "") -> list[dict[str, Any]]:
    """What the manifest says so far; a line that is being written is left out."""
    if not manifest.exists():
        return []
    found = [json.loads(line) for line in manifest.read_text().split("\n")[:-1]]
    return [one for one in found if one["event"] == kind and server in ("", one["server"])]
