"""Jobs with random cancels over two models in turn, seeded: what `python -m tests.attack jobs` does.

The host runs the pack's own nodes. While jobs wait, run and are cancelled, another client asks after the queue,
the history and the jobs without a pause: every answer has to come within a second, and none may be a 500.
In the end memory is where it was after the first jobs, nothing is left unfinished, and a run of our own works.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import random
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedded_host import Bench, live, node
from embedded_nodes import ROOT
from host_client import Client
from PIL import Image
from small_models import write_model_folder

from standalone.loader import install_host, load_pack

# An answer that takes longer counts as a hang. Read beside the processor's time of this process, so that
# a machine that is busy with other things is not taken for one.
HANG = 1.0
# However busy the machine is: the host waits for something.
STUCK = 20.0
# Jobs after which memory is flat (measured: 445 MB after 300, 448 MB after 1000), and the bytes that
# it may grow by from there.
WARM_UP = 300
GROWTH = 32 << 20
ASKED = ("/queue", "/jobs?limit=20", "/history?max_items=20", "/prompt", "/history", "/jobs")


@dataclass
class Outcome:
    """How jobs ended, how many answers there were of each status, and what must not be."""

    ended: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0
    longest: float = 0.0
    grown: int = 0


def attack(seed: int, count: int, folder: Path, say: Callable[[str], None] = str) -> Outcome:
    """`count` jobs on a host of its own below `folder`."""
    dice, outcome = random.Random(seed), Outcome()
    bench = Bench(folder / "base", ROOT / "workflows" / "input")
    for number in range(2):
        for kind in ("diffusion_models", "text_encoders", "vae"):
            write_model_folder(bench.folders.models / kind / f"small{number}", seed=number)
        noise = Image.effect_noise((64, 64), 80).convert("RGB")
        noise.save(bench.folders.input / f"{number}.png")
    pack = load_pack(ROOT, "kontext-studio")
    install_host(pack, bench.runtime)
    bench.nodes |= pack.nodes
    with live(bench) as server:
        client, stop = Client(server.url), threading.Event()
        heart = threading.Thread(target=_beat, args=(client, stop, outcome), daemon=True)
        heart.start()
        ids: list[str] = []
        after_warm_up = 0
        while len(ids) < count:
            some = min(dice.randint(1, 6), count - len(ids))
            ids += [_send(client, _prompt(dice), outcome) for _ in range(some)]
            while _waiting(client) > 3:
                _cancel(client, ids, dice)
                time.sleep(dice.uniform(0, 0.1))
            if not after_warm_up and len(ids) >= WARM_UP:
                _settle(client)
                after_warm_up = _memory()
            if len(ids) % 20 < some:
                say(f"{len(ids)} jobs, {_memory() >> 20} MB, slowest {outcome.slowest:.2f} s")
        _settle(client)
        if after_warm_up:
            outcome.grown = _memory() - after_warm_up
        stop.set()
        heart.join(60)
        _judge(client, ids, outcome)
    left = [str(path) for path in folder.rglob("*.part")]
    outcome.failures += [f"left behind: {path}" for path in left]
    if outcome.grown > GROWTH:
        outcome.failures.append(f"grown by {outcome.grown >> 20} MB")
    return outcome


def _prompt(dice: random.Random) -> dict[str, Any]:
    """An edit of a few steps on one of two models, small enough for seconds."""
    name = f"small{dice.randrange(2)}"
    return {
        "1": node("KontextLoadModel", model_name=name, precision="auto", memory="auto"),
        "2": node("KontextLoadTextEncoders", t5_name=name, clip_l_name=name, padding="256"),
        "3": node("KontextLoadVAE", model_name=name, precision="auto"),
        "4": node("LoadImage", image=f"{dice.randrange(2)}.png"),
        "5": node(
            "KontextEdit", model=["1", 0], clip=["2", 0], vae=["3", 0], image1=["4", 0],
            prompt="put the red star on image one", seed=dice.randrange(5),
            steps=dice.randint(1, 4), guidance=2.5, width=64, height=64,
        ),
        "6": node("PreviewImage", images=["5", 0]),
    }  # fmt: skip


def _send(client: Client, prompt: dict[str, Any], outcome: Outcome) -> str:
    prompt_id = str(uuid.uuid4())
    body = json.dumps({"prompt": prompt, "prompt_id": prompt_id}).encode()
    status, answer = client.call("/prompt", body)
    outcome.statuses[status] += 1
    if status != 200 and len(outcome.failures) < 20:
        outcome.failures.append(f"a prompt was refused: {status} {answer[:300]!r}")
    return prompt_id


def _cancel(client: Client, ids: list[str], dice: random.Random) -> None:
    """One of the ways in which people stop a job, or none."""
    way, some = dice.randrange(6), dice.choice(ids[-8:])
    if way == 0:
        client.call("/interrupt", b"{}")
    elif way == 1:
        client.call("/queue", json.dumps({"delete": [some]}).encode())
    elif way == 2:
        client.call(f"/jobs/{some}/cancel", b"{}")
    elif way == 3 and dice.random() < 0.1:
        client.call("/free", json.dumps({"unload_models": True, "free_memory": True}).encode())


def _waiting(client: Client) -> int:
    return json.loads(client.call("/prompt")[1])["exec_info"]["queue_remaining"]


def _settle(client: Client) -> None:
    while _waiting(client):
        time.sleep(0.02)
    gc.collect()


def _beat(client: Client, stop: threading.Event, outcome: Outcome) -> None:
    number = 0
    while not stop.is_set():
        path, number = ASKED[number % len(ASKED)], number + 1
        start, used = time.monotonic(), time.process_time()
        status, body = client.call(path)
        waited = time.monotonic() - start
        took = min(waited, time.process_time() - used)
        outcome.statuses[status] += 1
        outcome.slowest = max(outcome.slowest, took)
        if status != 200:
            outcome.failures.append(f"{status} {body[:200]!r} to {path}")
        outcome.longest = max(outcome.longest, waited)
        if took > HANG or waited > STUCK:
            outcome.failures.append(f"{waited:.2f} s, {took:.2f} of work, for {path}")
        time.sleep(0.1)


def _judge(client: Client, ids: list[str], outcome: Outcome) -> None:
    history = json.loads(client.call("/history")[1])
    for prompt_id in ids:
        item = history.get(prompt_id)
        events = [event for event, _ in item["status"]["messages"]] if item else []
        if item is None:
            outcome.ended["taken out"] += 1
        elif "execution_interrupted" in events:
            outcome.ended["interrupted"] += 1
        elif item["status"]["status_str"] == "success":
            outcome.ended["done"] += 1
        else:
            outcome.ended["failed"] += 1
            outcome.failures.append(f"a job failed: {str(item['status']['messages'][-1])[:600]}")
    if not client.run(_prompt(random.Random(0))).ok:
        outcome.failures.append("the queue no longer works")


def _memory() -> int:
    """Resident bytes of this process; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * 4096


def main(arguments: list[str]) -> int:
    """The command: 0 when nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack jobs")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    logging.getLogger("standalone").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        outcome = attack(
            options.seed, options.count, Path(folder), lambda text: print(text, flush=True)
        )
    print(f"seed {options.seed}: jobs {dict(outcome.ended)}, answers {dict(outcome.statuses)}")
    print(
        f"slowest answer {outcome.slowest:.2f} s of work, {outcome.longest:.2f} s waited; "
        f"grown by {outcome.grown / 2**20:.1f} MB"
    )
    for text in outcome.failures[:30]:
        print("-", text)
    print(f"{len(outcome.failures)} failures")
    return 1 if outcome.failures else 0
