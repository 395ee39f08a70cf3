"""The timeline of a session: thumbnails after a run, a turn chosen by mouse and by keyboard."""

from __future__ import annotations

import uuid

import pytest
from editor import Editor
from templates import editor_format

_TURNS = """(type) => {
    const node = app.graph._nodes.find((one) => one.type === type);
    return [...node.kontextSession.querySelectorAll('[data-number]')].map((box) => ({
        number: Number(box.dataset.number),
        said: box.getAttribute('aria-label') ?? box.querySelector('img').alt,
        pressed: box.getAttribute('aria-pressed') ?? box.getAttribute('aria-current'),
        tab: box.tabIndex,
        drawn: box.querySelector('img').naturalWidth > 0,
        caption: box.querySelector('span').textContent,
    }));
}"""
_NUMBER = """() => app.graph._nodes.find((node) => node.type === 'KontextSessionPick')
    .widgets.find((widget) => widget.name === 'number').value"""
_FOCUS = """() => document.querySelector('.kontext-session button[aria-pressed=true]').focus()"""


def open_session(editor: Editor) -> None:
    """The template with a file of its own, in one step each."""
    graph = editor_format("session_of_turns")
    graph["id"] = str(uuid.uuid4())
    for node in graph["nodes"]:
        values = node.get("widgets_values")
        if node["type"] == "KontextSessionStart":
            node["widgets_values"] = [f"test-{uuid.uuid4().hex}"]
        elif node["type"] == "KontextSessionTurn":
            # prompt, seed, its control, steps
            values[3] = 1
    editor.load(graph)
    editor.fit()


@pytest.mark.slow
def test_turns_are_shown_and_chosen(page: Editor) -> None:
    open_session(page)
    before = page.page.evaluate("() => document.querySelector('.kontext-session').textContent")
    assert before == "The turns are shown here after a run."
    page.queue()
    page.page.wait_for_function(
        f"() => ({_TURNS})('KontextSessionPick').length === 5", timeout=300_000
    )
    page.page.wait_for_function(
        f"() => ({_TURNS})('KontextSessionPick').every((turn) => turn.drawn)", timeout=20_000
    )
    page.screenshot("timeline")
    page.near("KontextSessionPick")
    page.page.wait_for_timeout(500)
    page.screenshot("near")
    turns = page.page.evaluate(_TURNS, "KontextSessionPick")
    # The last of them was made after this node had run.
    assert [turn["number"] for turn in turns] == [0, 1, 2, 3, 4]
    assert [turn["caption"] for turn in turns] == ["0", "1", "2", "3", "4 ← 1"]
    assert turns[0]["said"] == "turn 0: start"
    assert turns[2]["said"] == "turn 2, from turn 1: make the circle purple. seed 3"
    assert [turn["pressed"] for turn in turns] == ["false", "true", "false", "false", "false"]
    assert [turn["tab"] for turn in turns] == [-1, 0, -1, -1, -1]
    page.page.evaluate(_FOCUS)
    for key in ("ArrowRight", "Delete", "Enter"):
        page.page.keyboard.press(key)
    assert page.page.evaluate(_NUMBER) == 2
    page.page.wait_for_function(
        f"() => ({_TURNS})('KontextSessionPick')[2].pressed === 'true'", timeout=20_000
    )
    page.page.keyboard.press("End")
    page.page.keyboard.press("ArrowLeft")
    page.page.keyboard.press(" ")
    assert page.page.evaluate(_NUMBER) == 3
    sent = page.prompt()
    [picked] = [n for n in sent.values() if n["class_type"] == "KontextSessionPick"]
    assert picked["inputs"]["number"] == 3
    assert "timeline" not in picked["inputs"]
    page.page.locator(".kontext-session button[data-number='0']").first.click()
    assert page.page.evaluate(_NUMBER) == 0


@pytest.mark.slow
def test_a_branch_says_where_it_came_from(page: Editor) -> None:
    """Of a report as nodes/session_files.py sends it; a turn's own timeline is no choice."""
    open_session(page)
    page.page.evaluate(
        """() => {
          const node = app.graph._nodes.find((one) => one.type === 'KontextSessionTurn');
          const turn = (number, parent, chosen) => ({ number, parent, chosen, prompt: 'blue',
              seed: '18446744073709551615', note: '<b>mine', picture: 'data:image/png;base64,' });
          node.onExecuted({ kontext_session: [turn(0, null), turn(1, 0), turn(4, 0, true)] });
        }"""
    )
    turns = page.page.evaluate(_TURNS, "KontextSessionTurn")
    assert [turn["caption"] for turn in turns] == ["0", "1", "4 ← 0"]
    assert turns[2]["said"] == "turn 4, from turn 0: blue. seed 18446744073709551615. <b>mine"
    assert [turn["pressed"] for turn in turns] == [None, None, "step"]
    buttons = "() => document.querySelectorAll('.kontext-session b').length"
    assert page.page.evaluate(buttons) == 0


@pytest.mark.slow
def test_a_timeline_answered_from_the_cache_has_the_turns_made_since(page: Editor) -> None:
    """A replay runs; the node that was picked from does not, and shows its turn all the same."""
    open_session(page)
    page.queue()
    page.page.wait_for_function(
        f"() => ({_TURNS})('KontextSessionPick').length === 5", timeout=300_000
    )
    page.page.evaluate(
        """() => {
          const other = app.graph._nodes.find((one) => one.title === 'From turn 1');
          other.widgets.find((one) => one.name === 'seed').value = 77;
        }"""
    )
    page.queue()
    page.page.wait_for_function(
        f"() => ({_TURNS})('KontextSessionPick').length === 6", timeout=300_000
    )
    turns = page.page.evaluate(_TURNS, "KontextSessionPick")
    assert turns[5]["said"] == "turn 5, from turn 1: make the circle red. seed 77"
    assert [turn["pressed"] for turn in turns].index("true") == 1
    start = page.page.evaluate(_TURNS, "KontextSessionStart")
    assert [turn["number"] for turn in start] == [0, 1, 2, 3, 4, 5]
