"""The manifest and the folder of results: what survives a crash, and what is never overwritten."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from embedded_nodes import ROOT

from kontext_core.errors import InputError
from standalone.batch import journal as journal_module
from standalone.batch.journal import MANIFEST, Journal
from standalone.batch.store import Store


def test_what_was_written_is_there_for_the_next_command(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"12345")
    entry = {"file": "a.png", "bytes": 5}
    with Journal(tmp_path) as journal:
        nonce = journal.nonce
        journal.write("begin", nonce=nonce)
        journal.write("sent", key="k", server="http://x", id="1", seed=4)
        journal.write("sent", key="j", server="http://y", id="2", seed=5)
        journal.write("done", key="k", files=[entry], seed=4)
        journal.write("failed", key="l", error="ü\nx")
    lines = (tmp_path / MANIFEST).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["event"] for line in lines] == [
        "begin", "sent", "sent", "done", "failed",
    ]  # fmt: skip
    with Journal(tmp_path) as again:
        assert again.nonce == nonce
        assert again.finished("k") is not None and again.finished("j") is None
        sent = again.sent("j")
        assert sent is not None and (sent["server"], sent["id"]) == ("http://y", "2")
        assert again.sent("k") is None and again.sent("l") is None
        # A result that was deleted or cut is wanted again.
        (tmp_path / "a.png").write_bytes(b"1234")
        assert again.finished("k") is None
        (tmp_path / "a.png").unlink()
        assert again.finished("k") is None


def test_every_line_is_on_the_disk_before_the_batch_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []

    def fsync(handle: int) -> None:
        synced.append(os.fstat(handle).st_size)

    monkeypatch.setattr(journal_module.os, "fsync", fsync)
    with Journal(tmp_path) as journal:
        synced.clear()
        journal.write("sent", key="k", server="s", id="i")
        assert synced == [(tmp_path / MANIFEST).stat().st_size]


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_line_cut_by_a_crash_has_not_happened(cut: int, tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.write("sent", key="a", server="s", id="1")
        journal.write("sent", key="b", server="s", id="2")
    path = tmp_path / MANIFEST
    path.write_bytes(path.read_bytes()[:-cut])
    with Journal(tmp_path) as journal:
        assert journal.sent("a") is not None and journal.sent("b") is None
        journal.write("sent", key="c", server="s", id="3")
    with Journal(tmp_path) as journal:
        assert journal.sent("a") is not None and journal.sent("c") is not None


DAMAGED = [
    b"nonsense\n",
    b'{"event": "done", "key": "a"}\n',
    b'{"event": "done", "key": "a", "files": [{"file": 1, "bytes": 2}]}\n',
    b'{"event": "sent", "key": 3, "server": "s", "id": "i"}\n',
    b'{"event": "sent", "key": "a", "server": 1, "id": 2}\n',
    b"[]\n",
    b"\xff\xfe\n",
]


@pytest.mark.parametrize("line", DAMAGED)
def test_a_damaged_line_is_named(line: bytes, tmp_path: Path) -> None:
    good = b'{"event": "begin"}\n'
    (tmp_path / MANIFEST).write_bytes(good + line + good)
    with pytest.raises(InputError, match=r"line 2 of .* is damaged"):
        Journal(tmp_path)
    # And nothing was done to it.
    assert (tmp_path / MANIFEST).read_bytes() == good + line + good


def test_one_command_at_a_time(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from standalone.batch.journal import Journal\n"
        "with Journal(Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "in\n"
        with pytest.raises(InputError, match="another batch is writing into"):
            Journal(tmp_path)
        other.kill()
        other.wait()
    # The system frees what a dead process held.
    with Journal(tmp_path) as journal:
        journal.write("begin")


def test_a_thread_that_comes_too_late_writes_nothing(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        pass
    with pytest.raises(InputError, match="is closed"):
        journal.write("done", key="k", files=[])


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal(tmp_path) as journal:

        def full(handle: int, line: bytes) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(journal_module.os, "write", full)
        with pytest.raises(InputError, match="free some space"):
            journal.write("begin")
        monkeypatch.undo()
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InputError, match="can't write into"):
        Journal(file)


def test_names_are_never_taken_twice(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"the user's own")
    store = Store(tmp_path)
    first = store.put("a", ".png", b"one")
    second = store.put("a", ".png", b"two")
    assert (first["file"], second["file"]) == ("a_2.png", "a_3.png")
    assert (tmp_path / "a.png").read_bytes() == b"the user's own"
    assert (tmp_path / "a_3.png").read_bytes() == b"two"
    assert first["bytes"] == 3 and first["sha256"] == hashlib.sha256(b"one").hexdigest()
    # What a killed command had fetched already is not fetched into another name.
    assert store.put("a", ".png", b"one") == first
    assert store.put("sub/b", ".png", b"x")["file"] == "sub/b.png"
    store.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.png", "a_2.png", "a_3.png", "sub",
    ]  # fmt: skip


@pytest.mark.parametrize("links", [True, False])
def test_threads_never_overwrite_each_other(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:

        def link(source: object, target: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", link)
    store = Store(tmp_path)
    contents = [str(number).encode() for number in range(24)]
    threads = [
        threading.Thread(target=store.put, args=("same", ".png", content)) for content in contents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.close()
    assert sorted(path.read_bytes() for path in tmp_path.iterdir()) == sorted(contents)


def test_a_result_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="free some space"):
        store.put("a", ".png", b"x" * 100)
    monkeypatch.undo()
    assert not (tmp_path / "a.png").exists()
    # What a killed command left unfinished goes with the next.
    (tmp_path / ".unfinished" / "half").write_bytes(b"x")
    Store(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="file modes are posix")
def test_results_are_as_readable_as_other_files(tmp_path: Path) -> None:
    store = Store(tmp_path)
    plain = tmp_path / "plain"
    plain.touch()
    store.put("a", ".png", b"x")
    assert (tmp_path / "a.png").stat().st_mode == plain.stat().st_mode


def test_the_manifest_is_opened_for_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows rewrites line ends of files that are opened without this flag."""
    flags = []
    real = os.open

    def opened(path: Path, flag: int, *more: int) -> int:
        if Path(path).name == MANIFEST:
            flags.append(flag)
        return real(path, flag & ~journal_module.BINARY, *more)

    monkeypatch.setattr(journal_module, "BINARY", 1 << 29)
    monkeypatch.setattr(os, "open", opened)
    with Journal(tmp_path) as journal:
        journal.write("begin", nonce="x")
    assert flags and all(flag & (1 << 29) for flag in flags)


def test_every_file_opened_by_its_number_and_written_is_opened_for_bytes() -> None:
    """As a kind: who writes through `os.open` names O_BINARY, or writes nothing (a reserved name)."""
    import ast

    writers = []
    for path in sorted((ROOT / "standalone").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = {ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Call)}
        if any(call.startswith("os.write(") for call in calls):
            writers.append(path.name)
            opens = [c for c in calls if c.startswith("os.open(") and "O_RDONLY" not in c]
            assert opens and all("BINARY" in call for call in opens), path
    assert writers == ["journal.py"]
