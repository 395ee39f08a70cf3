"""Candidates in the editor: an early look at several, one picked by its number, and finished."""

from __future__ import annotations

import pytest
from editor import Editor
from templates import editor_format

_PAIRS = "() => app.graph._nodes.find((node) => node.type === 'KontextCompare').kontextCompare.pairs.length"


@pytest.mark.slow
def test_a_look_a_pick_and_the_rest_of_the_run(page: Editor) -> None:
    page.load(editor_format("choose_among_candidates"))
    page.fit()
    page.set_widget("KontextCandidates", "steps", 3)
    page.set_widget("KontextCandidates", "look", 1)
    page.queue()
    page.page.wait_for_function(f"() => ({_PAIRS})() === 4", timeout=300_000)
    page.near("KontextCompare")
    page.page.wait_for_timeout(500)
    page.page.locator(".kontext-compare button", has_text="Candidates").first.click()
    page.page.wait_for_timeout(500)
    page.screenshot("look")
    page.page.locator(".kontext-compare button[aria-label^='candidate 2']").first.click()
    said = page.page.locator(".kontext-compare [role=status]").first.inner_text()
    assert said.startswith("2 / 4")
    page.set_widget("KontextCandidates", "pick", "2")
    page.queue()
    page.page.wait_for_function(f"() => ({_PAIRS})() === 1", timeout=300_000)
    page.page.wait_for_timeout(500)
    page.screenshot("picked")
    modes = page.page.locator(".kontext-compare [role=group] button").all_inner_texts()
    assert modes == ["Slider", "Difference"]
    assert not [error for error in page.errors if "kontext" in error.lower()]
