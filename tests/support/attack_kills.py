"""`kill -9` at random moments of writing, seeded: what `python -m tests.attack kills` does.

Every job writes again and again in a process of its own until it is killed. What has a name by then must be
whole, and after the job's next run, or the host's next start, nothing unfinished may be left.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

SUPPORT = Path(__file__).resolve().parent
if str(SUPPORT) not in sys.path:
    # The process that jobs are forked from starts with this file.
    sys.path.insert(0, str(SUPPORT))

import torch  # noqa: E402
from embedded_host import Bench, fetch, live, node, wait_for  # noqa: E402
from files import published_flux  # noqa: E402
from forms import form  # noqa: E402
from host_client import Client  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from kontext_core import save_image  # noqa: E402
from kontext_core.convert import quantize_file  # noqa: E402
from kontext_core.errors import KontextError  # noqa: E402
from kontext_core.framing import Framing  # noqa: E402
from kontext_core.session import Session  # noqa: E402
from kontext_core.tables.rows import Row  # noqa: E402
from kontext_lab.bench import report  # noqa: E402
from standalone.batch.columns import Columns  # noqa: E402
from standalone.batch.journal import MANIFEST, Journal  # noqa: E402
from standalone.batch.place import Result  # noqa: E402
from standalone.batch.plan import make_jobs  # noqa: E402
from standalone.batch.runner import Runner  # noqa: E402
from standalone.batch.store import Store  # noqa: E402

# Seconds after its start at which a job is killed at the latest; the host takes longer to begin.
LONGEST = 1.0
ROWS = 24
KINDS = ("Q8_0", "Q4_K_M")


@dataclass
class Outcome:
    """What came of it: kills by job, how many of them left something half-written, and what must not be."""

    kills: Counter[str] = field(default_factory=Counter)
    unfinished: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def noise(number: int, size: int) -> bytes:
    """A PNG of three bytes a pixel."""
    data = io.BytesIO()
    pixels = random.Random(number).randbytes(size * size * 3)
    Image.frombytes("RGB", (size, size), pixels).save(data, "PNG", compress_level=0)
    return data.getvalue()


def times(once: bool) -> range:
    return range(1 if once else 1 << 30)


def quantize(folder: Path, once: bool) -> None:
    source = folder / "source.safetensors"
    if not source.exists():
        save_file(published_flux().state_dict(), source)
    for number in times(once):
        quantize_file(source, folder / "new.gguf", KINDS[number % 2], overwrite=True)


def check_quantize(folder: Path) -> list[str]:
    path, known = folder / "new.gguf", folder.parent / "known.json"
    if not path.exists():
        return []
    if not known.exists():
        digests = []
        for kind in KINDS:
            whole = folder.parent / f"{kind}.gguf"
            quantize_file(folder / "source.safetensors", whole, kind)
            digests.append(hashlib.sha256(whole.read_bytes()).hexdigest())
        known.write_text(json.dumps(digests))
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    return [] if found in json.loads(known.read_text()) else [f"{path} is none of two"]


def picture(folder: Path, once: bool) -> None:
    for number in times(once):
        image = torch.rand(1, 200, 200, 3, generator=torch.Generator().manual_seed(number))
        save_image(image, folder / "a.png", {"prompt": "x" * 5000})


def check_pictures(folder: Path) -> list[str]:
    return unreadable(folder, "*.png", lambda path: Image.open(path).load())


def unreadable(folder: Path, pattern: str, read: Callable[[Path], object]) -> list[str]:
    def complaint(path: Path) -> str:
        try:
            read(path)
        except (OSError, SyntaxError, ValueError) as error:
            return f"{path}: {error}"
        return ""

    return [text for path in folder.rglob(pattern) if (text := complaint(path))]


def host(folder: Path, once: bool) -> None:
    """Uploads, the user's files, settings and saved pictures; at its next start it only cleans."""
    bench = Bench(folder)
    with live(bench) as server:
        client = Client(server.url)
        pictures = [noise(number, 800) for number in range(0 if once else 3)]
        wait_for(lambda: not once or not left_in(folder))
        for number in range(0 if once else 1 << 30):
            name = f"{number % 3}.png"
            body, kind = form({"overwrite": "true", "subfolder": "sub"}, name, pictures[number % 3])
            client.call("/upload/image", body, kind)
            text = json.dumps({"nodes": [number] * 100_000}).encode()
            fetch(f"{server.url}/userdata/workflows%2F{number % 3}.json", "POST", text)
            client.call("/settings", json.dumps({"a": "x" * 100_000, "n": number}).encode())
            if number % 4:
                continue
            prompt = {
                "1": node("LoadImage", image=f"sub/{name}"),
                "2": node("SaveImage", images=["1", 0], filename_prefix=f"out/{number % 2}"),
                "3": node("PreviewImage", images=["1", 0]),
            }
            client.call("/prompt", json.dumps({"prompt": prompt}).encode())
            wait_for(lambda: not json.loads(client.call("/queue")[1])["queue_pending"])


def check_host(folder: Path) -> list[str]:
    broken = check_pictures(folder)
    broken += unreadable(folder, "*.json", lambda path: json.loads(path.read_bytes()))
    return broken + [str(path) for path in folder.rglob("*.damaged")]


class Place:
    """Gives every row a file that its name tells."""

    name = "here"

    def run(self, job: Any, sent: Callable[[str], None], stop: Any) -> Result:
        sent(job.row.name)
        return Result([(".bin", content(job.row.name))], 0.0)

    def answers(self) -> bool:
        return True


def content(name: str) -> bytes:
    return random.Random(name).randbytes(300_000)


def batch(folder: Path, once: bool) -> None:
    prompt = {"1": {"class_type": "A", "inputs": {"text": "t", "seed": 3}}}
    rows = [Row(n, f"row{n}", {"text": str(n)}) for n in range(1, ROWS + 1)]
    out = folder / "out"
    while True:
        with Journal(out) as journal:
            store = Store(out)
            summary = Runner(
                make_jobs(rows, Columns(prompt), folder), [Place()], journal, store
            ).run()
            store.close()
            if once:
                if summary.done + summary.already != ROWS:
                    raise ValueError(f"{summary.done} rows done, {summary.already} before")
                return
        # All done before it was killed: once more, from the first row.
        for path in [out / MANIFEST, *out.glob("*.bin")]:
            path.unlink()


def check_batch(folder: Path) -> list[str]:
    out = folder / "out"
    files = {path.name: path.read_bytes() for path in out.glob("*.bin")}
    broken = [name for name, found in files.items() if found != content(name[: -len(".bin")])]
    text = (out / MANIFEST).read_bytes() if (out / MANIFEST).exists() else b""
    for line in text.split(b"\n")[:-1]:
        try:
            event = json.loads(line)
        except ValueError as error:
            broken.append(f"a line of the manifest: {error}")
            continue
        broken += [
            f"{entry['file']} is done and not there"
            for entry in event.get("files", [])
            if entry["file"] not in files
        ]
    return broken


def write_report(folder: Path, once: bool) -> None:
    drawn = {str(n): Image.frombytes("RGB", (300, 300), os.urandom(270_000)) for n in range(3)}
    report.sheets = lambda found: drawn  # type: ignore[assignment]
    report.page = lambda results, *_: f"<title>{results['n']}</title>"  # type: ignore[assignment]
    for number in times(once):
        results = {"format": report.FORMAT, "n": number}
        found = SimpleNamespace(results=results, shown={}, loop=[], chains=[])
        report.write_report(found, folder / "out")  # type: ignore[arg-type]


def check_report(folder: Path) -> list[str]:
    out = folder / "out"
    if not out.exists():
        # Killed before the first was there, or between two renames: whoever reads puts it right.
        had = (folder / ".out.unfinished" / "old").exists()
        with contextlib.suppress(Exception):
            report.read_results(out)
        return ["the result is gone"] if had and not out.exists() else []
    number = report.read_results(out)["n"]
    page = (out / "index.html").read_text()
    if page != f"<title>{number}</title>" or len(list((out / "sheets").iterdir())) != 3:
        return [f"results of {number} beside {page}"]
    return check_pictures(folder)


def session(folder: Path, once: bool) -> None:
    """Adds turns, and notes each as done once it is there."""
    path, size = folder / "a.kontext", (160, 160)
    file = Session(path) if path.exists() else Session.create(path)
    turns = file.turns()
    parent = turns[-1].number if turns else None
    with (folder / "done").open("ab", buffering=0) as done:
        for _ in times(once):
            number = 0 if parent is None else parent + 1
            dice = torch.Generator().manual_seed(number)
            turn = file.add(
                torch.rand(1, *size, 3, generator=dice),
                torch.randn(1, 16, 20, 20, generator=dice),
                Framing(size, (0, 0, *size), size, size),
                parent=parent,
                references=[torch.rand(1, *size, 3, generator=dice)],
            )
            done.write(b"%d\n" % turn.number)
            parent = turn.number


def check_session(folder: Path) -> list[str]:
    path, done = folder / "a.kontext", folder / "done"
    finished = done.read_bytes().split() if done.exists() else []
    if not path.exists():
        return ["the session is gone"] if finished else []
    try:
        file = Session(path)
        turns = file.turns()
        if len(turns) < len(finished):
            return [f"{len(finished)} turns were done, {len(turns)} are there"]
        for turn in turns[-3:]:
            dice = torch.Generator().manual_seed(turn.number)
            picture = (torch.rand(1, 160, 160, 3, generator=dice) * 255).round() / 255
            latent = torch.randn(1, 16, 20, 20, generator=dice)
            if not file.picture(turn.number).equal(picture):
                return [f"turn {turn.number} has another picture"]
            if not file.latent(turn.number).equal(latent) or len(file.references(turn.number)) != 1:
                return [f"turn {turn.number} has another latent, or a reference too few"]
    except KontextError as error:
        return [str(error)]
    return []


Job = tuple[Callable[[Path, bool], None], Callable[[Path], list[str]]]
JOBS: dict[str, Job] = {
    "quantize": (quantize, check_quantize),
    "host": (host, check_host),
    "batch": (batch, check_batch),
    "report": (write_report, check_report),
    "picture": (picture, check_pictures),
    "session": (session, check_session),
}


def left_in(folder: Path) -> list[str]:
    """What is on its way to a name."""
    found = [
        *folder.rglob(".kontext-*"),
        *folder.rglob(".*unfinished/*"),
        *folder.rglob("*.partial"),
        # SQLite's, of half a turn: undone by whoever opens the session, taken away by the next turn.
        *folder.rglob("*-journal"),
    ]
    return [str(path.relative_to(folder)) for path in found]


class Nursery:
    """A process with everything imported, which forks one for each job."""

    def __init__(self) -> None:
        words = [sys.executable, __file__, "nursery"]
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def _ask(self, *words: object) -> str:
        assert self.process.stdin is not None and self.process.stdout is not None
        print(*words, sep="\t", file=self.process.stdin, flush=True)
        return self.process.stdout.readline().strip()

    def start(self, job: str, folder: Path, once: bool) -> int:
        return int(self._ask("start", job, folder, int(once)))

    def wait(self) -> int:
        """How the job last started ended; minus the signal where it was killed."""
        return int(self._ask("wait"))

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


def nursery() -> None:
    torch.set_num_threads(1)
    pid = 0
    for line in sys.stdin:
        what, *words = line.rstrip("\n").split("\t")
        if what == "wait":
            answer = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        else:
            pid = answer = os.fork()
            if not pid:
                child(words[0], Path(words[1]), words[2] == "1")
        print(answer, flush=True)


def child(job: str, folder: Path, once: bool) -> None:
    code = 1
    try:
        # The two pipes are the nursery's.
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        os.dup2(2, 1)
        JOBS[job][0](folder, once)
        code = 0
    except BaseException:  # noqa: BLE001 - told by the code
        traceback.print_exc()
    finally:
        os._exit(code)


def attack(seed: int, count: int, folder: Path, say: Callable[[str], None] = str) -> Outcome:
    """Kills `count` jobs, each kind in turn."""
    dice, outcome, parent = random.Random(seed), Outcome(), Nursery()
    try:
        for number in range(count):
            job = list(JOBS)[number % len(JOBS)]
            place = folder / job
            if not place.exists():
                place.mkdir()
                if job == "quantize":
                    # Once in peace, so that what it writes can be told from what it should.
                    parent.start(job, place, once=True)
                    parent.wait()
            longest = LONGEST * (3 if job == "host" else 1)
            _kill(parent, job, place, dice.uniform(0.02, longest), outcome)
            if number % 20 == 19:
                say(f"{number + 1} kills, {len(outcome.failures)} failures")
    finally:
        parent.close()
    return outcome


def _kill(parent: Nursery, job: str, place: Path, delay: float, outcome: Outcome) -> None:
    pid = parent.start(job, place, once=False)
    time.sleep(delay)
    os.kill(pid, signal.SIGKILL)
    told = f"{job} killed after {delay:.3f} s"
    ended = parent.wait()
    if ended != -signal.SIGKILL:
        outcome.failures.append(f"{told}: it had ended by itself ({ended})")
    outcome.kills[job] += 1
    outcome.unfinished[job] += bool(left_in(place))
    outcome.failures += [f"{told}: broken: {text}" for text in JOBS[job][1](place)]
    parent.start(job, place, once=True)
    if parent.wait():
        outcome.failures.append(f"{told}: the next run failed")
    outcome.failures += [f"{told}: left: {text}" for text in left_in(place)]
    outcome.failures += [f"{told}: then broken: {text}" for text in JOBS[job][1](place)]


def main(arguments: list[str]) -> int:
    """The command: 0 when nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack kills")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        outcome = attack(options.seed, options.count, Path(folder), print)
    print(f"seed {options.seed}: kills {dict(outcome.kills)}")
    print(f"of them with something half-written: {dict(outcome.unfinished)}")
    for text in outcome.failures[:30]:
        print("-", text)
    print(f"{len(outcome.failures)} failures")
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    nursery()
