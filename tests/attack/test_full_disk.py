"""A disk that takes 20 kB a file: a typed error with the file's name, nothing left, and then it works again."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from embedded_host import Bench, live, node
from files import published_flux
from forms import form
from host_client import Client
from PIL import Image
from safetensors.torch import save_file

from kontext_core import save_image
from kontext_core.__main__ import main
from kontext_core.convert import quantize_file
from kontext_core.errors import KontextError
from kontext_core.writing import check_folder
from standalone.batch.journal import MANIFEST, Journal
from standalone.batch.store import Store

resource = pytest.importorskip("resource", reason="Windows has no limits of a process")
LARGEST = 20_000
PICTURE = torch.rand(1, 200, 200, 3, generator=torch.Generator().manual_seed(1))


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process grows beyond a size. Python ignores the signal, so that writing fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def picture(folder: Path) -> None:
    save_image(PICTURE, folder / "new.png")


def quantized(folder: Path) -> None:
    quantize_file(folder.parent / "source.safetensors", folder / "new.gguf", "Q8_0")


def result(folder: Path) -> None:
    Store(folder).put("new", ".png", bytes(50_000))


@pytest.mark.parametrize("work", [picture, quantized, result])
def test_a_full_disk_is_told_with_the_file(work: Callable[[Path], None], tmp_path: Path) -> None:
    if work is quantized:
        save_file(published_flux().state_dict(), tmp_path / "source.safetensors")
    folder = tmp_path / "out"
    folder.mkdir()
    with full_disk(), pytest.raises(KontextError, match=r"new\.(png|gguf).*(space|room)"):
        work(folder)
    assert [path for path in folder.rglob("*") if path.is_file()] == []
    work(folder)
    assert [path.stem for path in folder.rglob("*") if path.is_file()] == ["new"]


def test_the_manifest_of_a_batch(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        with full_disk(), pytest.raises(KontextError, match="manifest.jsonl .* free some space"):
            journal.write("failed", key="a", error="x" * 50_000)
        journal.write("failed", key="b", error="x")
    assert [json.loads(line)["key"] for line in (tmp_path / MANIFEST).open()] == ["b"]


def test_edit(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new.png"
    words = [
        "edit",
        "--model",
        str(model_folder),
        "--prompt",
        "put the red star on image one",
        "--steps",
        "1",
    ]
    words += ["--width", "128", "--height", "128", "--out", str(out)]
    with full_disk():
        code = main(words)
    error = capsys.readouterr().err.splitlines()[-1]
    assert code == 1 and str(out) in error and "free some space" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="as the limit")
def test_the_host(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "base")
    Image.effect_noise((300, 300), 90).convert("RGB").save(bench.folders.input / "a.png")
    prompt = {
        "1": node("LoadImage", image="a.png"),
        "2": node("SaveImage", images=["1", 0], filename_prefix="new"),
    }
    with full_disk():
        outcome, _ = bench.run(prompt)
    assert isinstance(outcome.exception, KontextError)
    assert "new_00001_.png" in str(outcome.exception) and "free some space" in str(
        outcome.exception
    )
    body, kind = form({}, "new.png", (bench.folders.input / "a.png").read_bytes())
    with live(bench) as server:
        client = Client(server.url)
        with full_disk():
            answers = [
                client.call("/upload/image", body, kind),
                client.call("/settings", json.dumps({"a": "x" * 50_000}).encode()),
                client.call("/userdata/new.json", json.dumps(["x" * 50_000]).encode()),
            ]
        for status, answer in answers:
            assert status == 400 and b"free some space" in answer
        assert client.call("/upload/image", body, kind)[0] == 200
    written = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {"a.png", "new.png", "own.js", "index.html"}


def test_a_folder_that_takes_nothing_is_refused_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(KontextError, match="file/out .*choose another folder"):
        check_folder(tmp_path / "file" / "out")
    check_folder(tmp_path / "new" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
