"""What is refused before a run, and in which words: ComfyUI's error JSON."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from embedded_host import Bench, node

from standalone.errors import ValidationError
from standalone.validation import validate


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def refused(bench: Bench, prompt: Any) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        asyncio.run(validate(prompt, bench.nodes))
    return caught.value


def reason(bench: Bench, bad: dict[str, Any], **others: Any) -> dict[str, Any]:
    """The one reason why node 'x' is refused."""
    prompt = {"x": bad, "out": node("Show", value=["x", 0]), **others}
    error = refused(bench, prompt)
    assert error.error["type"] == "prompt_outputs_failed_validation"
    assert list(error.node_errors) == ["x"]
    entry = error.node_errors["x"]
    assert entry["class_type"] == bad["class_type"] and entry["dependent_outputs"] == ["out"]
    (found,) = entry["errors"]
    assert set(found) == {"type", "message", "details", "extra_info"}
    return found


@pytest.mark.parametrize(
    ("bad", "kind", "details"),
    [
        (node("Number"), "required_input_missing", "number"),
        (node("Number", number=-1), "value_smaller_than_min", "number"),
        (node("Number", number=101), "value_bigger_than_max", "number"),
        (node("Number", number="three"), "invalid_input_type", "number, three"),
        (node("Number", number=["gone", 0]), "bad_linked_input", "node gone is missing"),
        (node("Number", number=["n", 1]), "bad_linked_input", "slot 1"),
        (node("Number", number=["n", 0, 0]), "bad_linked_input", "number"),
        (node("Number", number=["words", 0]), "return_type_mismatch", "received_type(STRING)"),
        (node("Picky", value=11), "custom_validation_failed", "value - 11 is too much"),
    ],
)
def test_each_fault_has_its_own_type(bench, bad, kind, details) -> None:
    words = node("Words", text="", seed=1, mood="calm", strength=0.5)
    others = {"n": node("Number", number=1), "words": words}
    found = reason(bench, bad, **others)
    assert found["type"] == kind
    assert details in found["details"]


def test_a_socket_without_widget_takes_no_constant(bench: Bench) -> None:
    prompt = {"x": node("PreviewImage", images=5)}
    (found,) = refused(bench, prompt).node_errors["x"]["errors"]
    assert found["type"] == "invalid_input_type" and "IMAGE" in found["message"]


def test_an_unknown_node_is_named(bench: Bench) -> None:
    error = refused(bench, {"7": {**node("NoSuchNode"), "_meta": {"title": "My node"}}})
    assert error.error["type"] == "missing_node_type"
    assert error.error["extra_info"]["class_type"] == "NoSuchNode"
    assert "NoSuchNode" in str(error) and "My node" in str(error)


def test_a_choice_that_is_not_there_lists_those_that_are(bench: Bench) -> None:
    bad = node("Words", text="", seed=1, mood="angry", strength=0.5)
    error = refused(bench, {"x": bad, "out": node("Show", value=["x", 0])})
    (found,) = error.node_errors["x"]["errors"]
    assert found["type"] == "value_not_in_list"
    assert found["details"] == "mood: 'angry' not in ['calm', 'loud']"
    assert "node x (Words)" in str(error)


def test_nan_is_not_within_any_range(bench: Bench) -> None:
    bad = node("Words", text="", seed=1, mood="calm", strength=float("nan"))
    error = refused(bench, {"x": bad, "out": node("Show", value=["x", 0])})
    assert error.node_errors["x"]["errors"][0]["type"] == "value_smaller_than_min"


def test_a_circle_is_shown_as_a_path(bench: Bench) -> None:
    prompt = {
        "a": node("Add", a=["b", 0]),
        "b": node("Add", a=["a", 0]),
        "out": node("Show", value=["a", 0]),
    }
    error = refused(bench, prompt)
    assert {r["type"] for e in error.node_errors.values() for r in e["errors"]} == {
        "dependency_cycle"
    }
    assert "a (Add) -> b (Add) -> a (Add)" in str(error)


@pytest.mark.parametrize("prompt", [{}, {"1": node("Number", number=1)}])
def test_a_prompt_without_outputs_is_refused(bench: Bench, prompt: Any) -> None:
    assert refused(bench, prompt).error["type"] == "prompt_no_outputs"


@pytest.mark.parametrize(
    "prompt", [[], "text", {"1": 5}, {"1": {"class_type": "Show", "inputs": 3}}]
)
def test_what_is_no_prompt_at_all_is_refused(bench: Bench, prompt: Any) -> None:
    assert refused(bench, prompt).error["type"] == "invalid_prompt"


def test_numbers_as_text_are_converted_in_place(bench: Bench) -> None:
    prompt = {"1": node("Number", number="7"), "2": node("Show", value=["1", 0])}
    asyncio.run(validate(prompt, bench.nodes))
    assert prompt["1"]["inputs"]["number"] == 7


def test_own_validation_replaces_the_range_check(bench: Bench) -> None:
    """The schema's max is 3, but the node's own check takes up to 9: ComfyUI skips the range then."""
    prompt = {"1": node("Picky", value=5), "2": node("Show", value=["1", 0])}
    assert asyncio.run(validate(prompt, bench.nodes)).outputs == ["2"]


def test_good_outputs_run_beside_bad_ones(bench: Bench) -> None:
    prompt = {
        "1": node("Number", number=1),
        "good": node("Show", value=["1", 0]),
        "2": node("Number", number=-5),
        "bad": node("Show", value=["2", 0]),
    }
    checked = asyncio.run(validate(prompt, bench.nodes))
    assert checked.outputs == ["good"]
    assert list(checked.node_errors) == ["2"]
    assert checked.node_errors["2"]["dependent_outputs"] == ["bad"]


def test_targets_leave_other_outputs_out(bench: Bench) -> None:
    prompt = {
        "1": node("Number", number=1),
        "2": node("Show", value=["1", 0]),
        "3": node("Show", value=["1", 0]),
    }
    assert asyncio.run(validate(prompt, bench.nodes, ["3"])).outputs == ["3"]
