"""`--ray`: the worker itself, the ways back from it, and a real cluster where Ray is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import types
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from fake_ray import FakeRay, RayError, RayTaskError
from host_client import load_prompt
from PIL import Image

from kontext_core.__main__ import main
from kontext_core.cluster import PATIENCE
from kontext_core.errors import InputError
from kontext_core.tables.rows import Row
from standalone.batch.cluster import Cluster, Remote, WorkerPlace
from standalone.batch.columns import Columns
from standalone.batch.place import PlaceLost, RowFailed, RowRefused, Stopped
from standalone.batch.plan import PlannedRow, make_jobs
from standalone.batch.worker import Worker as Runner

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = ROOT / "workflows/api/one_reference_edit.json"
PICTURE = ROOT / "workflows/input/kontext_star.png"


def job(folder: Path, **values: Any) -> PlannedRow:
    (folder / "a.png").write_bytes(PICTURE.read_bytes())
    rows = [Row(1, "n", {"image": "a.png", "steps": 1, **values})]
    return make_jobs(rows, Columns(load_prompt(WORKFLOW)), folder)[0]


class Scripted:
    """A runner that gives what the prompt's words ask for."""

    seen: list[dict[str, bytes]] = []

    def __init__(self, models: str | None) -> None:
        self.models = models

    def run(self, prompt: dict[str, Any], pictures: dict[str, bytes]) -> Any:
        self.seen.append(pictures)
        words = prompt["4"]["inputs"]["text"]
        if words == "task":
            error = RayTaskError("trace")
            error.cause = ValueError("a fault")
            return error
        if words == "died":
            return RayError("actor died")
        answers = {"refused": {"refused": "no"}, "failed": {"failed": "node 8: no"}}
        return answers.get(
            words, {"files": [] if words == "none" else [(".png", b"x")], "seconds": 2}
        )


@pytest.fixture
def ray(fake_ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    monkeypatch.setitem(sys.modules, "scripted", types.SimpleNamespace(Runner=Scripted))
    return fake_ray


def test_without_ray_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "rows.txt").write_text("make it blue")
    arguments = ["batch", str(WORKFLOW), "--rows", str(tmp_path / "rows.txt"), "--ray"]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 1
    assert "pip install ray" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_worker_for_each_gpu(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with Cluster(runner="scripted:Runner") as workers:
        assert [worker.name for worker in workers] == ["ray-1", "ray-2", "ray-3"]
        assert ray.actor_options["num_gpus"] == 1
        assert ray.options["runtime_env"]["env_vars"] == {"PYTHONPATH": str(ROOT)}
        assert all(worker.answers() for worker in workers)
    assert not ray.open
    with Cluster(runner="scripted:Runner", workers=6) as workers:
        assert len(workers) == 6
        assert ray.actor_options["num_gpus"] == 0.5
    monkeypatch.setenv("PYTHONPATH", "/some/where")
    with Cluster(runner="scripted:Runner"):
        paths = ray.options["runtime_env"]["env_vars"]["PYTHONPATH"]
        assert paths == f"{ROOT}{os.pathsep}/some/where"
    # A Ray that starts here is given time; a longer one that somebody set stays.
    assert os.environ[PATIENCE] == "300000"
    monkeypatch.setenv(PATIENCE, "900000")
    with Cluster(runner="scripted:Runner"):
        assert os.environ[PATIENCE] == "900000"
    monkeypatch.delenv(PATIENCE)
    with pytest.raises(InputError, match="no Ray cluster at 'ray://none'"):
        Cluster("ray://none", runner="scripted:Runner")
    assert PATIENCE not in os.environ
    ray.fault = Exception("the raylet failed to start")
    with pytest.raises(InputError, match="Ray does not start .the raylet"):
        Cluster(runner="scripted:Runner")


WAYS = [
    ("refused", RowRefused, "no"),
    ("failed", RowFailed, "node 8: no"),
    ("none", RowFailed, "end it with a Save Image node"),
    ("task", RowFailed, "a fault"),
    ("died", PlaceLost, "ray-1 died"),
]


@pytest.mark.parametrize(("words", "kind", "message"), WAYS)
def test_the_ways_back(
    words: str, kind: type[Exception], message: str, ray: FakeRay, tmp_path: Path
) -> None:
    with Cluster(runner="scripted:Runner", workers=1) as workers:
        with pytest.raises(kind, match=message):
            workers[0].run(job(tmp_path, prompt=words), lambda _: None, Event())


def test_pictures_travel_with_the_row_and_stopping_is_heard(ray: FakeRay, tmp_path: Path) -> None:
    Scripted.seen.clear()
    stop = Event()
    with Cluster(runner="scripted:Runner", workers=1) as workers:
        result = workers[0].run(job(tmp_path, prompt="fine"), lambda _: None, stop)
        assert (result.files, result.seconds) == ([(".png", b"x")], 2)
        [(name, content)] = Scripted.seen[0].items()
        assert name.startswith("kontext_batch/") and content == PICTURE.read_bytes()
        ray.busy = True
        stop.set()
        with pytest.raises(Stopped):
            workers[0].run(job(tmp_path, prompt="fine"), lambda _: None, stop)


def test_the_embedded_host_as_a_worker(tmp_path: Path) -> None:
    """Two rows in one process, the same row twice, one it refuses, one that fails."""
    one = job(tmp_path, prompt="make the background blue")
    names = {one.pictures[0].digest: "kontext_batch/x.png"}
    pictures = {"kontext_batch/x.png": PICTURE.read_bytes()}
    runner = Runner()
    try:
        first = runner.run(one.with_pictures(names), pictures)
        again = runner.run(one.with_pictures(names), pictures)
        [(suffix, content)] = first["files"]
        assert suffix == ".png" and first["seconds"] > 0
        assert again["files"] == first["files"]
        path = tmp_path / "made.png"
        path.write_bytes(content)
        with Image.open(path) as picture:
            assert (
                json.loads(picture.info["prompt"])["5"]["inputs"]["image"] == "kontext_batch/x.png"
            )
        bad = one.with_pictures(names)
        bad["8"]["inputs"]["steps"] = -5
        assert "node 8 (KontextSampler)" in runner.run(bad, pictures)["refused"]
        lost = runner.run(one.with_pictures({one.pictures[0].digest: "none.png"}), {})
        assert "none.png" in lost["refused"]
        (runner.folders.input / "broken.png").write_bytes(PICTURE.read_bytes()[:300])
        broken = one.with_pictures({one.pictures[0].digest: "broken.png"})
        assert "node 5 (LoadImage)" in runner.run(broken, {})["failed"]
        # Results are handed over, not kept.
        assert not list(runner.folders.output.rglob("*.png"))
    finally:
        runner.close()
    assert not runner.base.exists()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_rows_on_a_real_cluster(tmp_path: Path, capsys: Any) -> None:
    """Two workers, rows shared between them, a bad one told, and nothing repeated."""
    (tmp_path / "a.png").write_bytes(PICTURE.read_bytes())
    lines = [f"row{n},a.png,make it {c},{n}" for n, c in enumerate(("red", "blue", "green", "red"))]
    table = tmp_path / "rows.csv"
    table.write_text("\n".join(["name,image,prompt,seed", *lines, "bad,none.png,x,1"]))
    arguments = ["batch", str(WORKFLOW), "--rows", str(table), "--output", str(tmp_path / "out"),
                 "--set", "steps=1", "--ray", "--ray-workers", "2", "--json"]  # fmt: skip
    assert main(arguments) == 3
    told = json.loads(capsys.readouterr().out)
    assert (told["done"], told["failed"]) == (4, 1)
    assert {row["server"] for row in told["rows"]} >= {"ray-1", "ray-2"}
    assert main(arguments) == 3
    assert json.loads(capsys.readouterr().out)["already"] == 4


def test_what_ray_says_stays_out_of_the_answer(
    ray: FakeRay, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    """It prints that a worker died to stdout, where `--json` is read from."""
    monkeypatch.setattr("standalone.batch.worker.Worker", Scripted)
    monkeypatch.setattr(ray, "shutdown", lambda: print("(raylet) A worker died"))
    (tmp_path / "rows.txt").write_text("a red star")
    (tmp_path / "a.png").write_bytes(PICTURE.read_bytes())
    arguments = [
        "batch",
        str(WORKFLOW),
        "--rows",
        str(tmp_path / "rows.txt"),
        "--set",
        "image=a.png",
    ]
    assert main([*arguments, "--output", str(tmp_path / "out"), "--ray", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["done"] == 1 and "A worker died" in captured.err


def test_no_worker_starts(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash on the way, or silence: an error that says what is needed, and no cluster left."""
    ray.busy = True
    with pytest.raises(InputError, match="no worker of the cluster could start .none within 300"):
        Cluster(runner="scripted:Runner")
    ray.busy = False
    monkeypatch.setattr(Remote, "ready", lambda self: RayError("x\nno module named standalone"))
    with pytest.raises(InputError, match="could start .no module named standalone."):
        Cluster(runner="scripted:Runner")
    assert not ray.open


def test_a_dead_workers_name(ray: FakeRay) -> None:
    class Dead:
        ready = types.SimpleNamespace(remote=lambda: RayError("dead"))

    assert not WorkerPlace(ray, Dead(), "ray-1").answers()
