"""The embedded host's engine: order, lists, laziness, caching, errors, interruption."""

from __future__ import annotations

import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from embedded_host import Bench, Number, Picky, Recorder, Steps, node

from standalone import errors as standalone_errors
from standalone.engine import Job


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_values_travel_along_links_through_coroutines(bench: Bench) -> None:
    prompt = {
        "3": node("Show", value=["2", 0]),
        "2": node("Add", a=["1", 0], b=["1", 0]),
        "1": node("Number", number=21),
    }
    assert bench.shown(prompt) == ["42"]
    assert Number.calls == [21]


def test_a_long_chain_runs(bench: Bench) -> None:
    prompt = {"0": node("Number", number=0)}
    for index in range(1, 200):
        prompt[str(index)] = node("Add", a=[str(index - 1), 0], b=1)
    prompt["end"] = node("Show", value=["199", 0])
    assert bench.shown(prompt) == ["199"]


def test_a_list_output_runs_the_next_node_once_per_item(bench: Bench) -> None:
    prompt = {
        "1": node("Spread", count=3),
        "2": node("Add", a=["1", 0], b=10),
        "3": node("Total", items=["2", 0]),
        "4": node("Show", value=["2", 0]),
        "5": node("Show", value=["3", 0]),
    }
    assert bench.shown(prompt) == ["10", "11", "12", "33"]


def test_only_the_lazy_branch_that_is_asked_for_runs(bench: Bench) -> None:
    prompt = {
        "1": node("Number", number=1),
        "2": node("Number", number=2),
        "3": node("Choose", second=True, one=["1", 0], two=["2", 0]),
        "4": node("Show", value=["3", 0]),
    }
    assert bench.shown(prompt) == ["2"]
    assert Number.calls == [2]


def test_a_second_run_uses_the_cache_and_shows_again(bench: Bench) -> None:
    prompt = {"1": node("Number", number=5), "2": node("Show", value=["1", 0])}
    bench.run(prompt)
    outcome, recorder = bench.run(prompt)
    assert Number.calls == [5]
    assert recorder.of("execution_cached")[0]["nodes"] == ["1", "2"]
    assert recorder.of("executed")[0]["output"] == {"text": ["5"]}
    assert recorder.of("executing") == []
    assert outcome.outputs == {"2": {"text": ["5"]}}


def test_what_a_node_on_the_way_shows_is_not_told_again(bench: Bench) -> None:
    prompt = {
        "1": node("Number", number=5),
        "2": node("Peek", value=["1", 0]),
        "3": node("Show", value=["2", 0]),
    }
    _, first = bench.run(prompt)
    assert [data["node"] for data in first.of("executed")] == ["2", "3"]
    prompt["3"] = node("Show", value=["2", 0]) | {"_meta": {"title": "again"}}
    prompt["4"] = node("Add", a=["2", 0])
    prompt["5"] = node("Show", value=["4", 0])
    _, second = bench.run(prompt)
    assert [data["node"] for data in second.of("executed")] == ["3", "5"]


def test_a_changed_constant_runs_only_what_depends_on_it(bench: Bench) -> None:
    prompt = {
        "1": node("Number", number=5),
        "2": node("Number", number=6),
        "3": node("Add", a=["1", 0], b=["2", 0]),
        "4": node("Show", value=["3", 0]),
    }
    bench.run(prompt)
    Number.calls.clear()
    prompt["2"]["inputs"]["number"] = 7
    assert bench.shown(prompt) == ["12"]
    assert Number.calls == [7]


def test_a_fingerprint_decides_whether_a_node_runs_again(bench: Bench) -> None:
    prompt = {"1": node("Picky", value=2), "2": node("Show", value=["1", 0])}
    bench.run(prompt)
    bench.run(prompt)
    assert Number.calls == [2]
    Picky.mark = "b"
    bench.run(prompt)
    assert Number.calls == [2, 2]
    Picky.mark = float("nan")
    bench.run(prompt)
    bench.run(prompt)
    assert Number.calls == [2, 2, 2, 2]


def test_equal_nodes_that_know_their_id_don_t_share_a_result(bench: Bench) -> None:
    prompt = {
        "1": node("Who"),
        "2": node("Who"),
        "3": node("Show", value=["1", 0]),
        "4": node("Show", value=["2", 0]),
    }
    assert bench.shown(prompt) == ["1 None", "2 None"]


def test_hidden_values_reach_the_node(bench: Bench) -> None:
    prompt = {"1": node("Who"), "2": node("Show", value=["1", 0])}
    outcome, _ = bench.run(prompt, extra_pnginfo={"workflow": 1})
    assert outcome.outputs["2"]["text"] == ["1 {'workflow': 1}"]


def test_messages_come_in_comfyuis_order(bench: Bench) -> None:
    prompt = {"1": node("Number", number=5), "2": node("Show", value=["1", 0])}
    _, recorder = bench.run(prompt)
    names = [name for name, _ in recorder.messages if name != "progress_state"]
    assert names == [
        "execution_start",
        "execution_cached",
        "executing",
        "executing",
        "executed",
        "execution_success",
    ]
    states = recorder.of("progress_state")
    assert [s["nodes"]["1"]["state"] for s in states][:2] == ["running", "finished"]
    assert states[-1]["nodes"]["2"]["state"] == "finished"
    assert {"value", "max", "node_id", "display_node_id", "prompt_id"} <= set(
        states[0]["nodes"]["1"]
    )


def test_progress_tells_steps_and_shows_previews(bench: Bench) -> None:
    prompt = {"1": node("Steps", count=3), "2": node("Show", value=["1", 0])}
    _, recorder = bench.run(prompt)
    assert [(p["value"], p["max"], p["node"]) for p in recorder.of("progress")] == [
        (1, 3, "1"),
        (2, 3, "1"),
        (3, 3, "1"),
    ]
    assert len(recorder.previews) == 3
    state = recorder.of("progress_state")[-1]["nodes"]["1"]
    assert (state["state"], state["value"], state["max"]) == ("finished", 3, 3)


def test_a_failing_node_ends_the_run_and_is_named(bench: Bench) -> None:
    prompt = {
        "1": node("Number", number=5),
        "2": node("Fail", value=["1", 0]),
        "3": node("Show", value=["2", 0]),
    }
    outcome, recorder = bench.run(prompt)
    assert outcome.status == "error" and not outcome.interrupted
    (error,) = recorder.of("execution_error")
    assert error["node_id"] == "2" and error["node_type"] == "Fail"
    assert error["exception_type"] == "ValueError"
    assert error["exception_message"] == "5 is wrong\n"
    assert error["executed"] == ["1"] and error["current_inputs"] == {"value": [5]}
    assert any("execute" in line for line in error["traceback"])
    assert outcome.messages[-1][0] == "execution_error"


def test_only_the_cores_own_cancelled_is_an_interrupt(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By class, in every copy of the core: another library may call an error by the same name."""
    from kontext_core import errors

    copy = ModuleType("copy_of_errors")
    vars(copy)["KontextError"] = type("KontextError", (Exception,), {})
    vars(copy)["Cancelled"] = type("Cancelled", (vars(copy)["KontextError"],), {})

    def interrupted(kind: type[Exception]) -> bool:
        def execute(cls: Any, **_: Any) -> Any:
            raise kind("stopped")

        bench.nodes["Number"] = type("Number", (Number,), {"execute": classmethod(execute)})
        prompt = {"1": node("Number", number=1), "2": node("Show", value=["1", 0])}
        outcome, _ = bench.run(prompt)
        assert outcome.status == "error"
        return outcome.interrupted

    monkeypatch.setattr(standalone_errors, "_copies", [errors])
    assert interrupted(errors.Cancelled)
    assert not interrupted(copy.Cancelled)
    standalone_errors.know_errors(copy)
    assert interrupted(copy.Cancelled)


def test_interrupt_stops_within_one_step_and_leaves_the_engine_usable(bench: Bench) -> None:
    Steps.go_on.clear()
    prompt = {"1": node("Steps", count=100), "2": node("Show", value=["1", 0])}
    recorder, box = Recorder(), []
    job = Job("p", prompt, ["2"])
    thread = threading.Thread(target=lambda: box.append(bench.engine.run(job, recorder)))
    thread.start()
    assert Steps.reached.wait(60)
    bench.runtime.interrupt()
    Steps.go_on.set()
    thread.join(60)
    (outcome,) = box
    assert outcome.interrupted
    assert recorder.of("progress") == []
    (message,) = recorder.of("execution_interrupted")
    assert message["node_id"] == "1"
    assert bench.shown({"1": node("Number", number=1), "2": node("Show", value=["1", 0])}) == ["1"]


def test_a_node_that_returns_too_little_is_told_so(bench: Bench, monkeypatch) -> None:
    monkeypatch.setattr(Number, "execute", classmethod(lambda cls, number: None))
    prompt = {"1": node("Number", number=5), "2": node("Show", value=["1", 0])}
    outcome, _ = bench.run(prompt)
    assert outcome.error is not None
    assert "returned 0 outputs, its schema has 1" in outcome.error["exception_message"]
