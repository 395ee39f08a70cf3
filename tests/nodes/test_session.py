"""Sessions by nodes: turns are kept once, reopened, branched and replayed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import draw


@pytest.fixture
def outputs(host: Any, tmp_path: Path) -> Path:
    host.outputs = tmp_path / "output"
    host.outputs.mkdir()
    return host.outputs


def picture(seed: int = 1) -> Any:
    return draw(seed, 1, 79, 111, 3).mul(0.2).add(0.5).clamp(0, 1)


class Graph:
    """Runs nodes as hosts do: with the prompt that they are part of."""

    def __init__(self, pack: Any) -> None:
        self.pack = pack

    def start(self, **inputs: Any) -> Any:
        return self.pack.run("KontextSessionStart", image=picture(), **inputs)

    def pick(self, **inputs: Any) -> Any:
        return self.pack.run("KontextSessionPick", **inputs)

    def turn(self, session: Any, node_id: str = "2", **inputs: Any) -> Any:
        """The prompt has whatever is no object."""
        values = {"prompt": "make it blue", "seed": 1, "steps": 2, **inputs}
        plain = {
            key: value for key, value in values.items() if isinstance(value, str | int | float)
        }
        prompt = {
            node_id: {"class_type": "KontextSessionTurn", "inputs": {**plain, "session": ["1", 0]}},
            "1": {"class_type": "KontextSessionStart", "inputs": {}},
        }
        node = self.pack.nodes["KontextSessionTurn"]

        class Hidden:
            pass

        Hidden.prompt, Hidden.unique_id = prompt, node_id  # type: ignore[attr-defined]
        before = getattr(node, "hidden", None)
        node.hidden = Hidden
        try:
            return self.pack.run("KontextSessionTurn", session=session, **values)
        finally:
            node.hidden = before


@pytest.fixture
def graph(pack: Any, outputs: Path) -> Graph:
    return Graph(pack)


def turns(outputs: Path, pack: Any, name: str = "session") -> list[Any]:
    session = pack.module("kontext_core.session").Session
    return session(outputs / "kontext_sessions" / f"{name}.kontext").turns()


def test_one_wire_from_turn_to_turn(graph: Graph, outputs: Path, pack: Any) -> None:
    begun = graph.start()
    first = graph.turn(begun.args[0])
    second = graph.turn(first.args[0], "3", prompt="make it red", note="better")
    found = turns(outputs, pack)
    assert [(t.number, t.parent, t.prompt, t.note) for t in found] == [
        (0, None, "", ""), (1, 0, "make it blue", ""), (2, 1, "make it red", "better"),
    ]  # fmt: skip
    session, image, latent = second.args
    assert session.number == 2
    assert image.shape == (1, 79, 111, 3)
    assert latent["samples"].shape[1] == 16
    shown = second.ui["kontext_session"]
    assert [(t["number"], t["parent"], t["seed"], t["chosen"]) for t in shown] == [
        (0, None, None, False), (1, 0, "1", False), (2, 1, "1", True),
    ]  # fmt: skip
    assert all(t["picture"].startswith("data:image/jpeg;base64,") for t in shown)
    assert second.ui["kontext_session_of"] == begun.ui["kontext_session_of"]


def test_the_same_graph_adds_nothing_and_computes_nothing(
    graph: Graph, outputs: Path, pack: Any, host: Any
) -> None:
    """As after a restart; the ids of nodes don't count, and a note is put otherwise."""
    first = graph.turn(graph.start().args[0])
    done = len(host.steps)
    assert done == 2
    again = graph.turn(graph.start().args[0], "77", note="new words")
    assert len(host.steps) == done
    assert again.args[0] == first.args[0]
    assert again.args[1].equal(first.args[1])
    assert [t.note for t in turns(outputs, pack)] == ["", "new words"]


@pytest.mark.parametrize(
    "change",
    [{"seed": 2}, {"prompt": "other"}, {"steps": 1}, {"guidance": 3.0}, {"keep": "nothing"}],
)
def test_whatever_changes_is_a_turn_beside(
    change: dict[str, Any], graph: Graph, outputs: Path, pack: Any
) -> None:
    begun = graph.start().args[0]
    graph.turn(begun)
    graph.turn(begun, **change)
    assert [t.parent for t in turns(outputs, pack)] == [None, 0, 0]


def test_a_turn_knows_how_its_model_saved_work(graph: Graph, outputs: Path, pack: Any) -> None:
    begun = graph.start().args[0]
    model = pack.run("KontextLoadModel", model_name="embedded: tiny").args[0]
    named = pack.run("KontextAccelerate", model=model, preset="balanced", keep_8_bit=True).args[0]
    knobs = pack.run("KontextAccelerate", model=model, preset="custom", warm_up=0.0).args[0]
    for one in (model, named, knobs):
        graph.turn(begun, model=one)
    _, *found = turns(outputs, pack)
    kept = [turn.settings.get("accelerate") for turn in found]
    context = {"first": 0.0, "every": 4, "last": 1, "order": 1}
    assert kept == [None, "balanced+8bit", {"context": context, "bits": 16}]


def test_another_mask_or_reference_is_a_turn_beside(graph: Graph, outputs: Path, pack: Any) -> None:
    begun = graph.start().args[0]
    mask = torch.zeros(1, 79, 111)
    mask[:, 10:40, 10:60] = 1
    masked = graph.turn(begun, mask=mask)
    graph.turn(begun, mask=1 - mask)
    vae = pack.run("KontextLoadVAE", model_name="embedded: tiny").args[0]
    for seed in (2, 3):
        chain = pack.run("KontextReference", image=picture(seed), vae=vae).args[0]
        graph.turn(begun, references=chain)
    assert len(turns(outputs, pack)) == 5
    outside = mask[0] == 0
    assert masked.args[1][0][outside].equal(graph.start().args[1][0][outside])
    # Nothing was painted on it.
    empty = graph.turn(begun, mask=torch.zeros(1, 64, 64))
    assert empty.ui["kontext_notes"] == ["the mask is empty: the turn ran without it"]


def test_turns_are_reopened_branched_and_replayed(graph: Graph, outputs: Path, pack: Any) -> None:
    first = graph.turn(graph.start().args[0])
    graph.turn(first.args[0], prompt="second")
    picked = graph.pick(number=1)
    assert picked.args[1].equal(first.args[1])
    assert picked.args[3] == "make it blue"
    assert [t["number"] for t in picked.ui["kontext_session"] if t["chosen"]] == [1]
    branch = graph.turn(picked.args[0], prompt="third")
    assert turns(outputs, pack)[branch.args[0].number].parent == 1
    before = graph.pick(session=first.args[0], number=1, which="turn before")
    assert (before.args[0].number, before.args[3]) == (0, "make it blue")
    replayed = graph.turn(before.args[0], prompt=before.args[3], seed=9)
    assert not replayed.args[1].equal(first.args[1])
    assert graph.pick(number=-1).args[0].number == replayed.args[0].number == 4


def test_a_session_of_that_name_is_gone_on_with(graph: Graph, outputs: Path, pack: Any) -> None:
    graph.turn(graph.start().args[0])
    other = pack.run("KontextSessionStart", image=picture(5))
    assert other.args[0].number == 2
    assert [t.parent for t in turns(outputs, pack)] == [None, 0, None]


def test_a_file_taken_away_is_made_anew(graph: Graph, outputs: Path, pack: Any) -> None:
    node = pack.nodes["KontextSessionStart"]
    before = node.fingerprint_inputs(name="session")
    graph.turn(graph.start().args[0])
    assert node.fingerprint_inputs(name="session") == before
    (outputs / "kontext_sessions" / "session.kontext").unlink()
    after = node.fingerprint_inputs(name="session")
    assert after != before
    graph.start()
    assert node.fingerprint_inputs(name="session") == after


def test_the_newest_is_asked_for_at_every_run(pack: Any) -> None:
    stamp = pack.nodes["KontextSessionPick"].fingerprint_inputs
    assert stamp(name="a", number=-1) != stamp(name="a", number=-1)
    assert stamp(name="a", number=3) == stamp(name="a", number=3)


@pytest.mark.parametrize(
    "name",
    ["", "  ", "../a", "a/../../b", "/etc/a", "C:\\a", "a\0b", "a\nb", "x" * 300, "a?", ".kontext"],
)
def test_names_that_lead_elsewhere(name: str, graph: Graph, pack: Any) -> None:
    with pytest.raises(pack.error("InputError"), match="name is"):
        graph.start(name=name)


def test_a_link_out_of_the_folder(graph: Graph, outputs: Path, pack: Any) -> None:
    (outputs / "kontext_sessions").mkdir()
    (outputs / "kontext_sessions" / "a").symlink_to(outputs.parent)
    with pytest.raises(pack.error("InputError"), match="a link out of"):
        graph.start(name="a/b")


def test_plain_names_with_folders(graph: Graph, outputs: Path) -> None:
    graph.start(name="clients/portrait.kontext")
    assert (outputs / "kontext_sessions" / "clients" / "portrait.kontext").is_file()


def test_errors_say_what_to_do(graph: Graph, outputs: Path, pack: Any) -> None:
    wrong, damaged = pack.error("InputError"), pack.error("SessionError")
    with pytest.raises(damaged, match="there is no session at"):
        graph.pick(name="nowhere")
    begun = graph.start().args[0]
    with pytest.raises(wrong, match="no turn 7"):
        graph.pick(number=7)
    with pytest.raises(wrong, match="is a start, so there is no turn before it"):
        graph.pick(number=0, which="turn before")
    with pytest.raises(wrong, match="the mask is a batch of 2"):
        graph.turn(begun, mask=torch.ones(2, 79, 111))
    with pytest.raises(wrong, match="batch of 2; a turn takes one"):
        pack.run("KontextSessionStart", image=picture().repeat(2, 1, 1, 1))
    Path(begun.path).write_text("no session" * 200)
    with pytest.raises(damaged, match="no session"):
        graph.turn(begun)


def test_without_an_output_folder(pack: Any, host: Any, graph: Graph) -> None:
    host.outputs = None
    with pytest.raises(pack.error("InputError"), match="no output folder"):
        graph.start()


def test_a_bypassed_turn_hands_the_session_on(pack: Any) -> None:
    for node_id in ("KontextSessionTurn", "KontextSessionPick"):
        schema = pack.nodes[node_id].GET_SCHEMA()
        assert schema.inputs[0].io_type == schema.outputs[0].io_type == "KONTEXT_SESSION"


def test_a_turn_for_each_line(graph: Graph, outputs: Path, pack: Any, host: Any) -> None:
    begun = graph.start().args[0]
    words = "make it blue\n\n  make it red \nmake it night"
    made = graph.turn(begun, prompt=words, lines="a turn for each line", seed=7)
    found = turns(outputs, pack)
    assert [(t.parent, t.prompt, t.seed) for t in found[1:]] == [
        (0, "make it blue", 7), (1, "make it red", 8), (2, "make it night", 9),
    ]  # fmt: skip
    assert made.args[0].number == 3
    assert [t["number"] for t in made.ui["kontext_session"]] == [0, 1, 2, 3]
    # A line more is one turn more, and nothing is painted twice.
    done = len(host.steps)
    graph.turn(begun, prompt=words + "\nmake it day", lines="a turn for each line", seed=7)
    assert len(turns(outputs, pack)) == 5
    assert len(host.steps) == done + 2


def test_lines_are_one_instruction_unless_asked_for(graph: Graph, outputs: Path, pack: Any) -> None:
    graph.turn(graph.start().args[0], prompt="make it blue\nand red")
    assert [t.prompt for t in turns(outputs, pack)] == ["", "make it blue\nand red"]
