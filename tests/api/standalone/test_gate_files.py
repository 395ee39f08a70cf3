"""Attacks on names, files and pictures: nothing outside is opened, nothing is answered with 500."""

from __future__ import annotations

import json
import os
import resource
import struct
import threading
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from embedded_host import Bench, fetch, node, wait_for
from forms import form, png
from host_client import Client
from PIL import Image

SUM = {"1": node("Number", number=5), "2": node("Show", value=["1", 0])}


def weights(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = json.dumps({"__metadata__": {"title": text}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def test_metadata_of_known_files_only(bench: Bench, client: Client, tmp_path: Path) -> None:
    weights(bench.folders.models / "loras/mine.safetensors", "mine")
    weights(bench.folders.models / "other/hidden.safetensors", "secret")
    weights(tmp_path / "outside/secret.safetensors", "secret")
    (bench.folders.models / "loras/zero.safetensors").symlink_to("/dev/zero")
    os.mkfifo(bench.folders.models / "loras/pipe.safetensors")
    (bench.folders.models / "loras/note.txt").write_text("{}")
    assert client.get("/view_metadata/loras?filename=mine.safetensors") == {"title": "mine"}
    outside = str(tmp_path / "outside")
    attacks = [
        (quote(outside, safe=""), "secret.safetensors"),
        (quote("../../outside", safe=""), "secret.safetensors"),
        ("..", "secret.safetensors"),
        ("%2e%2e%2f%2e%2e%2foutside", "secret.safetensors"),
        ("other", "hidden.safetensors"),
        ("loras", "../other/hidden.safetensors"),
        ("loras", outside + "/secret.safetensors"),
        ("loras", "zero.safetensors"),
        ("loras", "pipe.safetensors"),
        ("loras", "note.txt"),
        ("loras", "none.safetensors"),
        ("loras", ""),
        ("loras", "a\0b"),
        ("%2fdev", "zero"),
        ("loras", "/dev/zero"),
    ]
    for folder, name in attacks:
        answer = fetch(f"{client.url}/view_metadata/{folder}?filename={quote(name)}")
        assert answer.status in (403, 404) and b'secret"' not in answer.body, (folder, name)
    assert client.get("/prompt")["exec_info"]["queue_remaining"] == 0


@pytest.mark.parametrize("quality", ["²", "-1", "0", "1000", "٣", "9" * 5000, "x"])
def test_any_quality_gives_a_picture_in_bounds(client: Client, quality: str) -> None:
    query = f"filename=shipped.png&type=input&preview=jpeg;{quote(quality)}"
    assert fetch(f"{client.url}/view?{query}").status == 200


NAMES = ["a\0b.png", "a" * 251 + ".png", "a" * 300 + ".png", "b/" * 3000 + "a.png", "a\nb.png"]
NAMES += ["\udcff.png", ".", "..", "/", "folder.png", "~", "a" * 247 + ".png"]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_no_name_is_answered_with_500(bench: Bench, client: Client, name: str) -> None:
    (bench.folders.input / "folder.png").mkdir()
    (bench.folders.user / "default/folder.png").mkdir(parents=True)
    quoted = quote(name.encode(errors="surrogateescape"), safe="")
    stored = f"{client.url}/userdata/{quoted}"
    asked = [
        ("GET", f"{client.url}/view?type=input&filename={quoted}"),
        ("GET", f"{client.url}/view?type=input&filename=a.png&subfolder={quoted}"),
        ("GET", f"{client.url}/view_metadata/loras?filename={quoted}"),
        ("GET", f"{client.url}/userdata?dir={quoted}"),
        ("GET", f"{client.url}/v2/userdata?path={quoted}"),
        ("GET", stored),
        ("POST", stored),
        ("POST", f"{stored}/move/{quoted}"),
        ("DELETE", stored),
        ("GET", f"{client.url}/models/{quoted}"),
        ("GET", f"{client.url}/extensions/{quoted}"),
        ("GET", f"{client.url}/{quoted}"),
        ("GET", f"{client.url}/history/{quoted}"),
    ]
    for method, url in asked:
        answer = fetch(url, method, b"{}" if method == "POST" else None)
        assert answer.status < 500, (method, url[:120], answer.body[:200])
    if name.isprintable():
        for overwrite in ("true", "false"):
            body, kind = form({"overwrite": overwrite}, name, png())
            assert client.call("/upload/image", body, kind)[0] in (200, 400)
    # And as a picture of a prompt.
    prompt = {"1": node("LoadImage", image=name), "2": node("PreviewImage", images=["1", 0])}
    status = client.call("/prompt", json.dumps({"prompt": prompt}).encode())[0]
    assert status == (
        200 if name in os.listdir(bench.folders.input) and "r.png" not in name else 400
    )
    # A preview may be on its way.
    wait_for(lambda: not list(bench.folders.input.parent.rglob("*.part")))


def test_a_longest_name_is_taken(bench: Bench, client: Client) -> None:
    name = "a" * 251 + ".png"
    assert client.upload(name, png()) == name
    assert client.view({"filename": name, "subfolder": "", "type": "input"}).size == (4, 4)
    # There is no room for the number of a second one.
    body, kind = form({}, name, png(color=(9, 9, 9)))
    assert client.call("/upload/image", body, kind)[0] == 400


def test_a_full_disk_is_told(bench: Bench, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file may grow: what a full disk is to a program."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, old[1]))
    try:
        body, kind = form({}, "large.png", png() + b"x" * 4096)
        answers = [
            client.call("/upload/image", body, kind),
            client.call("/userdata/a.txt", b"x" * 4096),
            client.call("/settings", json.dumps({"a": "x" * 4096}).encode()),
        ]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, before)
    for status, answer in answers:
        assert status == 400 and json.loads(answer)["error"]["message"], answer
    assert client.get("/settings") == {"Comfy.TutorialCompleted": False}
    assert [p.name for p in bench.folders.input.iterdir()] == []
    assert not [p for p in bench.folders.user.rglob("*") if p.is_file()]


def bomb(side: int) -> bytes:
    """A PNG of one bit a pixel and a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((1 + side // 8) * side), 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def test_pictures_beyond_the_limit_are_refused_at_every_door(bench: Bench, client: Client) -> None:
    (bench.folders.input / "bomb.png").write_bytes(bomb(16384))
    frames = [Image.new("P", (2000, 2000), i) for i in range(40)]
    frames[0].save(bench.folders.input / "long.gif", save_all=True, append_images=frames[1:])
    for query in ("preview=webp;90", "channel=a", "channel=rgb", "preview=jpeg"):
        assert fetch(f"{client.url}/view?filename=bomb.png&type=input&{query}").status == 415
    reference = json.dumps({"filename": "bomb.png", "type": "input"})
    body, kind = form({"original_ref": reference}, "m.png", png(mode="RGBA", color=(0, 0, 0, 1)))
    assert client.call("/upload/mask", body, kind)[0] == 400
    reference = json.dumps({"filename": "shipped.png", "type": "input"})
    body, kind = form({"original_ref": reference}, "m.png", bomb(16384))
    assert client.call("/upload/mask", body, kind)[0] == 400
    show = {"2": node("PreviewImage", images=["1", 0])}
    status, answer = client.post(
        "/prompt", {"prompt": {"1": node("LoadImage", image="bomb.png"), **show}}
    )
    assert status == 400 and "16384x16384" in answer["error"]["details"]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run = client.run({"1": node("LoadImage", image="long.gif"), **show})
    assert "InputError" in run.error and "all its frames" in run.error
    # KB; one frame is 48 MB as floats, the 34 that the limit allows would be 1.6 GB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000


def test_the_limit_is_a_setting(
    bench: Bench, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (600, 600)).save(bench.folders.input / "mine.png")
    url = f"{client.url}/view?filename=mine.png&type=input&channel=rgb"
    assert fetch(url).status == 200
    monkeypatch.setenv("KONTEXT_MAX_PICTURE_MB", "4")
    answer = fetch(url)
    assert answer.status == 415 and b"349525 in all" in answer.body
    monkeypatch.setenv("KONTEXT_MAX_PICTURE_MB", "much")
    assert b"expected a whole number of MiB" in fetch(url).body


def test_others_are_served_while_a_picture_is_decoded(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from standalone.server import pictures

    go_on, real = threading.Event(), pictures._converted

    def slow(*arguments: Any) -> Any:
        assert go_on.wait(60)
        return real(*arguments)

    monkeypatch.setattr(pictures, "_converted", slow)
    done: list[int] = []
    url = f"{client.url}/view?filename=shipped.png&type=input&channel=rgb"
    threads = [threading.Thread(target=lambda: done.append(fetch(url).status)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        client.get("/prompt")
    assert client.run(SUM).ok and done == []
    go_on.set()
    for thread in threads:
        thread.join()
    assert done == [200] * 5


# State that was stored


def test_a_damaged_settings_file_is_set_aside(
    bench: Bench, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    from standalone.server.user import UserRoutes

    path = bench.folders.user / "default/comfy.settings.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"bad": NaN, "deep": {"a": [Infinity]}, "Comfy.Locale": "fr"}')
    UserRoutes(bench.folders)
    assert "damaged" in caplog.text
    answer = fetch(client.url + "/settings")
    assert json.loads(answer.body, parse_constant=None)["Comfy.Locale"] == "fr"
    assert b"NaN" not in answer.body and b"Infinity" not in answer.body
    assert client.post("/settings", {"a": 1})[0] == 200
    assert client.get("/settings") == {
        "Comfy.TutorialCompleted": False,
        "Comfy.Locale": "fr",
        "a": 1,
    }
    assert "NaN" in path.with_name("comfy.settings.json.damaged").read_text()


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b"{", b"[" * 100_000, b"null"])
def test_any_settings_file_can_be_started_with(
    bench: Bench, client: Client, content: bytes
) -> None:
    path = bench.folders.user / "default/comfy.settings.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert client.get("/settings") == {"Comfy.TutorialCompleted": False}


@pytest.mark.parametrize("body", [b'{"a": NaN}', b"", b"{", b'"\\ud800"', b"1e999"])
def test_no_workflow_is_stored_that_the_editor_cant_read(client: Client, body: bytes) -> None:
    url = client.url + "/userdata/workflows%2Fa.json"
    assert fetch(url, "POST", body).status == 400 and fetch(url).status == 404
    assert fetch(url, "POST", b'{"a": 1}').status == 200


def test_history_and_jobs_stay_json(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    from embedded_nodes import Show

    from standalone.comfy_api import nodes as n

    def execute(cls: Any, value: Any) -> Any:
        shown = [float("nan"), float("inf"), "\ud800", {1: object(), (1, 2): b"x"}, 10**5000]
        return n.NodeOutput(ui={"images": shown, "text": ["5"]})

    monkeypatch.setattr(Show, "execute", classmethod(execute))
    run = client.run({"1": node("Number", number=5), "2": node("Show", value=["1", 0])})
    assert run.ok

    def constant(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    for path in ("/history", f"/history/{run.prompt_id}", "/jobs", f"/jobs/{run.prompt_id}"):
        answer = fetch(client.url + path)
        assert answer.status == 200
        json.loads(answer.body, parse_constant=constant)


@pytest.mark.parametrize("number", ["nan", "inf", "-Infinity", "1e999"])
def test_no_number_is_infinite(client: Client, number: str) -> None:
    words = node("Words", text="", seed=1, mood="calm", strength=number)
    prompt = {"1": words, "2": node("Show", value=["1", 0])}
    status, answer = client.post("/prompt", {"prompt": prompt})
    assert status == 400 and answer["node_errors"]["1"]
