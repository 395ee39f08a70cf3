"""Sessions on every host: what a second run, a changed node and a lost file do."""

from __future__ import annotations

import uuid
from typing import Any

from host_client import Client, Run
from hosts import Server

from kontext_core.session import Session


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def turn(before: str, prompt: str, seed: int) -> dict[str, Any]:
    return node(
        "KontextSessionTurn", session=[before, 0], prompt=prompt, seed=seed, steps=1, guidance=2.5,
        keep="unchanged", note="",
    )  # fmt: skip


def graph(name: str) -> dict[str, Any]:
    """Two turns, one wire."""
    return {
        "1": node("LoadImage", image="kontext_shapes.png"),
        "2": node("KontextSessionStart", image=["1", 0], name=name),
        "3": turn("2", "make the background blue", 1),
        "4": turn("3", "make it night", 2),
        "5": node("PreviewImage", images=["4", 1]),
    }


def sampled(run: Run) -> int:
    """Steps that were told while it ran."""
    assert run.ok, run.error
    return len(run.data("progress"))


def timeline(run: Run, node_id: str) -> list[tuple[int, int | None]]:
    [told] = [d["output"]["kontext_session"] for d in run.data("executed") if d["node"] == node_id]
    return [(one["number"], one["parent"]) for one in told]


def test_turns_on_one_wire(client: Client, server: Server) -> None:
    name = f"api/{uuid.uuid4().hex}"
    path = server.output / "kontext_sessions" / f"{name}.kontext"
    run = client.run(graph(name))
    assert sampled(run) >= 2
    assert timeline(run, "4") == [(0, None), (1, 0), (2, 1)]
    assert [t.prompt for t in Session(path).turns()] == [
        "", "make the background blue", "make it night",
    ]  # fmt: skip
    # Again: nothing is added, nothing is painted.
    assert sampled(client.run(graph(name))) == 0
    # A node in the middle: what follows it is made anew beside what was there.
    changed = graph(name)
    changed["3"]["inputs"]["seed"] = 7
    assert timeline(client.run(changed), "4") == [(0, None), (3, 0), (4, 3)]
    # And back: both are in the file.
    back = graph(name)
    back["4"]["inputs"]["note"] = "the first way"
    run = client.run(back)
    assert sampled(run) == 0
    assert timeline(run, "4") == [(0, None), (1, 0), (2, 1)]
    assert Session(path).turn(2).note == "the first way"
    # Any turn, reopened; the newest, at every run.
    pick = {
        "1": node("KontextSessionPick", name=name, number=3, which="this turn"),
        "2": turn("1", "make the circle red", 1),
        "3": node("PreviewImage", images=["2", 1]),
    }
    assert timeline(client.run(pick), "2") == [(0, None), (3, 0), (5, 3)]
    pick["1"]["inputs"]["number"] = -1
    assert timeline(client.run(pick), "2")[-1] == (6, 5)
    assert timeline(client.run(pick), "2")[-1] == (7, 6)
    # A file that was taken away is begun anew.
    path.unlink()
    run = client.run(back)
    assert sampled(run) >= 2
    assert len(Session(path).turns()) == 3


def test_errors_reach_the_client(client: Client) -> None:
    for inputs, message in (
        ({"name": "../../out", "number": 0}, "expected a plain one"),
        ({"name": "nowhere", "number": 0}, "there is no session at"),
    ):
        prompt = {
            "1": node("KontextSessionPick", which="this turn", **inputs),
            "2": node("PreviewImage", images=["1", 1]),
        }
        assert message in client.run(prompt).error
