"""The editor's workflow format becomes a prompt as the Queue button would make it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from embedded_host import Bench, node
from embedded_nodes import ROOT
from templates import NAMES, WORKFLOWS, api_format, editor_format, needs_comfyui

from standalone.changes import apply_changes
from standalone.convert import info_of, read_workflow, to_prompt
from standalone.errors import WorkflowError


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def slot(name: str, kind: str = "INT", link: int | None = None, widget: bool = False) -> Any:
    entry = {"name": name, "type": kind, "link": link}
    return entry | ({"widget": {"name": name}} if widget else {})


def out(kind: str = "INT") -> dict[str, Any]:
    return {"name": kind, "type": kind, "links": []}


def ui(
    id: int, type: str, inputs: Any = (), outputs: Any = (), values: Any = (), **more: Any
) -> Any:
    base = {"id": id, "type": type, "inputs": list(inputs), "outputs": list(outputs), "mode": 0}
    return base | {"widgets_values": values if isinstance(values, dict) else list(values)} | more


def graph(nodes: list[Any], links: list[Any], **more: Any) -> dict[str, Any]:
    return {"nodes": nodes, "links": links, "version": 0.4} | more


SIMPLE = graph(
    [
        ui(1, "Number", [slot("number", widget=True)], [out()], [7]),
        ui(2, "Show", [slot("value", "INT,STRING", 1)]),
        ui(3, "Note", values=["for readers"]),
        ui(4, "MarkdownNote", values=["# for readers"]),
    ],
    [[1, 1, 0, 2, 0, "INT"]],
)


def changed(**edit: Any) -> dict[str, Any]:
    return copy.deepcopy(SIMPLE) | edit


def test_nodes_links_and_titles(bench: Bench) -> None:
    data = copy.deepcopy(SIMPLE)
    data["nodes"][0]["title"] = "My number"
    before = copy.deepcopy(data)
    assert to_prompt(data, info_of(bench.nodes)) == {
        "1": node("Number", number=7) | {"_meta": {"title": "My number"}},
        "2": node("Show", value=["1", 0]) | {"_meta": {"title": "Show It"}},
    }
    assert data == before


@pytest.mark.parametrize(
    "values",
    [
        ["hi", 9, "randomize", "loud", 0.25],
        ["hi", 9, "loud", 0.25],
        {"text": "hi", "seed": 9, "mood": "loud", "strength": 0.25},
    ],
)
def test_widget_values_with_and_without_the_seeds_extra_value(bench: Bench, values: Any) -> None:
    data = graph([ui(1, "Words", outputs=[out("STRING")], values=values)], [])
    inputs = to_prompt(data, info_of(bench.nodes))["1"]["inputs"]
    assert inputs == {"text": "hi", "seed": 9, "mood": "loud", "strength": 0.25}


def test_missing_widget_values_are_defaults(bench: Bench) -> None:
    data = graph([ui(1, "Words", values=["hi"])], [])
    inputs = to_prompt(data, info_of(bench.nodes))["1"]["inputs"]
    assert inputs == {"text": "hi", "seed": 0, "mood": "calm", "strength": 0.5}


def test_the_upload_buttons_value_is_skipped(bench: Bench) -> None:
    data = graph([ui(1, "LoadImageMask", values=["a.png", "red", "image"])], [])
    assert to_prompt(data, info_of(bench.nodes))["1"]["inputs"] == {
        "image": "a.png",
        "channel": "red",
    }


def test_a_widget_made_an_input_takes_the_link(bench: Bench) -> None:
    data = graph(
        [
            ui(1, "Number", [slot("number", widget=True)], [out()], [3]),
            ui(2, "Words", [slot("seed", "INT", 1, widget=True)], [out("STRING")], ["a", 5, "fixed", "calm", 1.0]),
        ],
        [[1, 1, 0, 2, 0, "INT"]],
    )  # fmt: skip
    inputs = to_prompt(data, info_of(bench.nodes))["2"]["inputs"]
    assert inputs == {"text": "a", "seed": ["1", 0], "mood": "calm", "strength": 1.0}


def test_reroutes_and_primitives_disappear(bench: Bench) -> None:
    data = graph(
        [
            ui(1, "PrimitiveNode", outputs=[out()], values=[42, "fixed"]),
            ui(2, "Number", [slot("number", "INT", 1, widget=True)], [out()], [7]),
            ui(3, "Reroute", [slot("", "*", 2)], [out("*")]),
            ui(4, "Reroute", [slot("", "*", 3)], [out("*")]),
            ui(5, "Show", [slot("value", "INT", 4)]),
        ],
        [[1, 1, 0, 2, 0, "INT"], [2, 2, 0, 3, 0, "*"], [3, 3, 0, 4, 0, "*"], [4, 4, 0, 5, 0, "*"]],
    )
    prompt = to_prompt(data, info_of(bench.nodes))
    assert sorted(prompt) == ["2", "5"]
    assert prompt["2"]["inputs"] == {"number": 42}
    assert prompt["5"]["inputs"] == {"value": ["2", 0]}


def chain(mode: int) -> dict[str, Any]:
    """Number -> Add (in a mode) -> Show."""
    return graph(
        [
            ui(1, "Number", outputs=[out()], values=[7]),
            ui(2, "Add", [slot("a", "INT", 1), slot("b")], [out()], mode=mode),
            ui(3, "Show", [slot("value", "INT", 2)]),
        ],
        [[1, 1, 0, 2, 0, "INT"], [2, 2, 0, 3, 0, "INT"]],
    )


def test_a_muted_node_is_gone_with_its_links(bench: Bench) -> None:
    prompt = to_prompt(chain(2), info_of(bench.nodes))
    assert sorted(prompt) == ["1", "3"] and prompt["3"]["inputs"] == {}


def test_a_bypassed_node_passes_its_input_on(bench: Bench) -> None:
    prompt = to_prompt(chain(4), info_of(bench.nodes))
    assert sorted(prompt) == ["1", "3"] and prompt["3"]["inputs"] == {"value": ["1", 0]}


def test_an_unknown_node_that_is_bypassed_does_no_harm(bench: Bench) -> None:
    data = chain(4)
    data["nodes"][1]["type"] = "NoSuchNode"
    assert to_prompt(data, info_of(bench.nodes))["3"]["inputs"] == {"value": ["1", 0]}


def with_subgraph(outer_link: int | None, outer_values: list[Any]) -> dict[str, Any]:
    inside = {
        "id": "sub-1",
        "name": "Doubled",
        "inputs": [{"name": "x", "type": "INT", "linkIds": [11]}],
        "outputs": [{"name": "y", "type": "INT", "linkIds": [13]}],
        "nodes": [
            ui(1, "Number", [slot("number", "INT", 11, widget=True)], [out()], [5]),
            ui(2, "Add", [slot("a", "INT", 12), slot("b", "INT", 14)], [out()]),
        ],
        "links": [
            {"id": 11, "origin_id": -10, "origin_slot": 0, "target_id": 1, "target_slot": 0},
            {"id": 12, "origin_id": 1, "origin_slot": 0, "target_id": 2, "target_slot": 0},
            {"id": 14, "origin_id": 1, "origin_slot": 0, "target_id": 2, "target_slot": 1},
            {"id": 13, "origin_id": 2, "origin_slot": 0, "target_id": -20, "target_slot": 0},
        ],
    }
    return graph(
        [
            ui(1, "Number", outputs=[out()], values=[9]),
            ui(8, "sub-1", [slot("x", "INT", outer_link, widget=True)], [out()], outer_values),
            ui(9, "Show", [slot("value", "INT", 2)]),
        ],
        [[1, 1, 0, 8, 0, "INT"], [2, 8, 0, 9, 0, "INT"]],
        definitions={"subgraphs": [inside]},
    )


@pytest.mark.parametrize(
    ("outer_link", "outer_values", "number"),
    [(1, [], ["1", 0]), (None, [6], 6), (None, [], 5)],
)
def test_a_subgraph_is_unfolded(bench: Bench, outer_link, outer_values, number) -> None:
    prompt = to_prompt(with_subgraph(outer_link, outer_values), info_of(bench.nodes))
    assert sorted(prompt) == ["1", "8:1", "8:2", "9"]
    assert prompt["8:1"]["inputs"] == {"number": number}
    assert prompt["8:2"]["inputs"] == {"a": ["8:1", 0], "b": ["8:1", 0]}
    assert prompt["9"]["inputs"] == {"value": ["8:2", 0]}


def test_a_muted_subgraph_is_gone(bench: Bench) -> None:
    data = with_subgraph(1, [])
    data["nodes"][1]["mode"] = 2
    assert sorted(to_prompt(data, info_of(bench.nodes))) == ["1", "9"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "JSON object"),
        ({}, "not a workflow"),
        ({"a": 1}, "not a workflow"),
        ({"1": {"inputs": {}}}, "not a workflow"),
        ({"1": {"class_type": "A", "inputs": []}}, "not a workflow"),
        (changed(links=[]), "link 1 is cut"),
        (changed(links=[[1, 99, 0, 2, 0, "INT"]]), "node 99"),
        (changed(links=[[1, "x"]]), "damaged"),
        (changed(nodes=[{"id": 1}]), "damaged"),
        (graph([ui(5, "NoSuchNode", title="Magic")], []), "node 5 ('Magic') is of the type 'NoSuchNode'"),
        (graph([ui(3, "Note")], []), "no nodes that could run"),
    ],
)  # fmt: skip
def test_bad_files_are_refused_in_words(bench: Bench, data: Any, words: str) -> None:
    with pytest.raises(WorkflowError) as caught:
        to_prompt(data, info_of(bench.nodes))
    assert words in str(caught.value)


def test_a_circle_of_reroutes_is_refused(bench: Bench) -> None:
    data = graph(
        [
            ui(1, "Reroute", [slot("", "*", 2)], [out("*")]),
            ui(2, "Reroute", [slot("", "*", 1)], [out("*")]),
            ui(3, "Show", [slot("value", "INT", 3)]),
        ],
        [[1, 1, 0, 2, 0, "*"], [2, 2, 0, 1, 0, "*"], [3, 2, 0, 3, 0, "*"]],
    )
    with pytest.raises(WorkflowError, match="circle"):
        to_prompt(data, info_of(bench.nodes))


def test_api_format_comes_through_with_or_without_its_envelope(bench: Bench) -> None:
    prompt = {"1": node("Number", number=7)}
    assert to_prompt(prompt, info_of(bench.nodes)) == prompt
    assert to_prompt({"prompt": prompt}, info_of(bench.nodes)) == prompt


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "can't be read"), ("{", "is not JSON"), ("[" * 100000, "is not JSON")],
)
def test_files_that_hold_no_json(text: str | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "w.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(WorkflowError, match=words):
        read_workflow(path)


def shown_by_its_subgraph(index: str, name: str, values: list[Any]) -> dict[str, Any]:
    """The subgraph node shows a widget from inside as its own."""
    data = with_subgraph(None, values)
    node = data["nodes"][1]
    node["inputs"] = [slot("x", "INT", None)]
    node["properties"] = {"proxyWidgets": [["-1", "other"], [index, name]]}
    return data


@pytest.mark.parametrize(("index", "name"), [("1", "number"), ("-1", "x")])
def test_a_subgraphs_widgets_are_those_it_shows(bench: Bench, index: str, name: str) -> None:
    data = shown_by_its_subgraph(index, name, [1, 77])
    data["definitions"]["subgraphs"][0]["nodes"][0]["inputs"][0]["link"] = (
        11 if index == "-1" else None
    )
    assert to_prompt(data, info_of(bench.nodes))["8:1"]["inputs"] == {"number": 77}


@pytest.mark.parametrize("values", [[], [1], [1, None]])
def test_a_widget_that_its_subgraph_has_no_value_for_keeps_its_own(
    bench: Bench, values: Any
) -> None:
    data = shown_by_its_subgraph("1", "number", values)
    data["definitions"]["subgraphs"][0]["nodes"][0]["inputs"][0]["link"] = None
    assert to_prompt(data, info_of(bench.nodes))["8:1"]["inputs"] == {"number": 5}


@pytest.mark.parametrize("outermost", [None, 99])
def test_subgraphs_in_subgraphs(bench: Bench, outermost: int | None) -> None:
    """What runs is called after the whole way to it; the outermost value counts."""
    data = shown_by_its_subgraph("1", "number", [1, 77])
    data["definitions"]["subgraphs"][0]["nodes"][0]["inputs"][0]["link"] = None
    inner = data["nodes"][1]
    data["definitions"]["subgraphs"].append(
        {
            "id": "sub-2",
            "inputs": [],
            "outputs": [{"name": "z", "type": "INT", "linkIds": [21]}],
            "nodes": [inner],
            "links": [
                {"id": 21, "origin_id": 8, "origin_slot": 0, "target_id": -20, "target_slot": 0}
            ],
        }
    )
    more = {"properties": {"proxyWidgets": [["8", "number"]]}} if outermost else {}
    inner["properties"]["proxyWidgets"][1] = ["1", "number"]
    values = [outermost] if outermost else []
    data["nodes"][1] = ui(3, "sub-2", [], [out()], values, **more)
    data["links"] = [[2, 3, 0, 9, 0, "INT"]]
    prompt = to_prompt(data, info_of(bench.nodes))
    assert sorted(prompt) == ["1", "3:8:1", "3:8:2", "9"]
    assert prompt["3:8:1"]["inputs"] == {"number": outermost or 77}
    assert prompt["9"]["inputs"] == {"value": ["3:8:2", 0]}


SAVED = sorted(
    path for path in (ROOT / "tests/data/saved").glob("*.json") if ".api." not in path.name
)
# Inputs that a node has got since a file was saved, with what the editor gives them.
SINCE = {
    "KontextLoadModel": {"memory": "auto"},
    "KontextLoadTextEncoders": {"padding": "256"},
    "KontextStitch": {"like_image": 1},
    "KontextFinish": {"other_shape": "refuse", "match_colours": False},
    "KontextEdit": {
        "like_image": 1, "paste_back": True, "strength": 1.0, "method": "offset", "denoise": 1.0,
        "count": 1,
    },
    "KontextReference": {"resolution": 1.0, "name": ""},
    "KontextSampler": {"nag_scale": 1.0, "nag_tau": 2.5, "nag_alpha": 0.25, "mask_mode": "soft"},
}  # fmt: skip


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_what_was_saved_becomes_what_was_exported(path: Path, tmp_path: Path) -> None:
    """An old file gets what was added since, as in the editor."""
    from standalone.loader import load_pack

    made = to_prompt(read_workflow(path), info_of(Bench(tmp_path).nodes | load_pack(ROOT).nodes))
    exported = json.loads(path.with_suffix(".api.json").read_text(encoding="utf-8"))
    for entry in exported.values():
        entry["inputs"] = SINCE.get(entry["class_type"], {}) | entry["inputs"]
    assert made == exported


def test_widgets_of_kinds_that_only_the_editor_knows(bench: Bench) -> None:
    """It lists them among the inputs, so that the values behind them stay in their places."""
    info = {
        "input": {"required": {"tint": ["COLOR", {}], "size": ["INT", {}], "more": ["INT", {}]}}
    }
    slots = [slot("tint", "COLOR", widget=True), slot("size", widget=True)]
    data = graph([ui(1, "Strange", slots, values=["#fff", 3])], [])
    made = to_prompt(data, lambda kind: info)
    assert made["1"]["inputs"] == {"tint": "#fff", "size": 3, "more": 0}


# Changes from the command line


def words_prompt() -> dict[str, Any]:
    words = node("Words", text="hi", seed=9, mood="calm", strength=0.25)
    return {"1": words | {"_meta": {"title": "My words"}}, "2": node("Show", value=["1", 0])}


def test_changes_are_read_as_the_inputs_type(bench: Bench, tmp_path: Path) -> None:
    prompt = words_prompt()
    (tmp_path / "prompt.txt").write_text("make it night\n")
    changes = ["1.seed=12", "My words.mood=loud", "Words.strength=0.75"]
    apply_changes(prompt, [*changes, f"1.text=@{tmp_path / 'prompt.txt'}"], bench.nodes)
    expected = {"text": "make it night", "seed": 12, "mood": "loud", "strength": 0.75}
    assert prompt["1"]["inputs"] == expected
    apply_changes(prompt, ["1.text=@@home = here"], bench.nodes)
    assert prompt["1"]["inputs"]["text"] == "@home = here"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("1.seed", "NODE.INPUT=VALUE"),
        ("seed=1", "NODE.INPUT=VALUE"),
        ("1.seed=many", "a whole number, got 'many'"),
        ("1.strength=", "a number"),
        ("1.colour=red", "no input 'colour'; it has text, seed, mood, strength"),
        ("9.seed=1", "no node is called '9'; there are 1 (My words), 2 (Show)"),
        ("1.text=@/no/such/file", "can't be read"),
    ],
)
def test_bad_changes_are_refused_in_words(bench: Bench, change: str, words: str) -> None:
    with pytest.raises(WorkflowError) as caught:
        apply_changes(words_prompt(), [change], bench.nodes)
    assert words in str(caught.value)


@pytest.mark.parametrize("content", ["", " \n\t"])
def test_an_empty_prompt_file_is_refused(bench: Bench, tmp_path: Path, content: str) -> None:
    (tmp_path / "empty.txt").write_text(content)
    with pytest.raises(WorkflowError, match=r"empty\.txt is empty"):
        apply_changes(words_prompt(), [f"1.text=@{tmp_path / 'empty.txt'}"], bench.nodes)


def test_a_name_that_two_nodes_have_is_refused(bench: Bench) -> None:
    prompt = {"1": node("Number", number=1), "2": node("Number", number=1)}
    with pytest.raises(WorkflowError, match="1, 2; use the id"):
        apply_changes(prompt, ["Number.number=2"], bench.nodes)


@pytest.mark.parametrize("name", [name for name in NAMES if not needs_comfyui(name)])
def test_the_packs_workflows_become_their_api_twins(name: str, tmp_path: Path) -> None:
    from standalone.loader import load_pack

    bench = Bench(tmp_path, ROOT / "workflows/input")
    nodes = bench.nodes | load_pack(ROOT).nodes
    assert to_prompt(editor_format(name), info_of(nodes)) == api_format(name)


def test_a_template_is_found_by_its_older_name() -> None:
    assert read_workflow(WORKFLOWS / "two_references.json") == editor_format("two_references")
    with pytest.raises(WorkflowError, match="check the path"):
        read_workflow(WORKFLOWS / "three_references.json")
