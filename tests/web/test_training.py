"""The panel of Kontext: Train LoRA: live messages, the report of a run that is over, and what is said."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from editor import Editor
from PIL import Image
from templates import editor_format

_SEEN = """() => {
    const node = app.graph._nodes.find((one) => one.type === 'KontextTrainLora');
    const view = node.kontextTraining;
    return {
        said: view.querySelector('[role=status]')?.textContent ?? view.textContent,
        lines: [...view.querySelectorAll('polyline')].map((one) => one.getAttribute('points')),
        pictures: [...view.querySelectorAll('img')].map((one) => [one.alt, one.naturalWidth > 0]),
        id: String(node.id),
        sent: app.graph.serialize().nodes.find((one) => one.type === 'KontextTrainLora')
            .widgets_values,
    };
}"""
_TELL = """(data) => app.api.dispatchEvent(new CustomEvent('kontext.training', { detail: data }))"""
_EXECUTED = """(data) => app.graph._nodes.find((one) => one.type === 'KontextTrainLora')
    .onExecuted({ kontext_training: [data], kontext_notes: ['a.safetensors: 4 steps'] })"""


def picture() -> str:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(data, "JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def training(state: str, step: int, **more: Any) -> dict[str, Any]:
    curve = [[n, 1 / n] for n in range(1, step + 1)]
    rows = [{"step": 2, "pictures": [picture()]}]
    return {"state": state, "step": step, "steps": 8, "curve": curve, "rows": rows, **more}


@pytest.mark.slow
def test_it_is_drawn_live_and_stays_after_the_run(page: Editor) -> None:
    page.load(editor_format("train_lora"))
    page.fit()
    before = page.page.evaluate(_SEEN)
    assert before["said"].startswith("The curve and the sample pictures appear here")
    page.page.evaluate(_TELL, training("running", 3, node="other"))
    page.page.evaluate(_TELL, training("running", 4, node=before["id"]))
    page.page.wait_for_function(f"() => ({_SEEN})().said.includes('4 / 8')", timeout=20_000)
    page.page.wait_for_function(f"() => ({_SEEN})().pictures.every((one) => one[1])")
    live = page.page.evaluate(_SEEN)
    assert live["said"].startswith("Training: 4 / 8 steps, loss 0.")
    assert len(live["lines"]) == 2 and len(live["lines"][0].split(" ")) == 4
    assert live["pictures"] == [["sample 1, step 2", True]]
    page.page.evaluate(_TELL, training("stopped", 5, node=before["id"]))
    page.page.wait_for_function(f"() => ({_SEEN})().said.startsWith('Stopped')", timeout=20_000)
    page.page.evaluate(_EXECUTED, training("done", 8))
    page.page.wait_for_function(f"() => ({_SEEN})().said.startsWith('Done: 8 / 8')", timeout=20_000)
    page.screenshot("training")
    # A view alone: nothing of it is saved.
    assert page.page.evaluate(_SEEN)["sent"] == before["sent"]
