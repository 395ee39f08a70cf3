"""Progress, previews and interrupts reach the host, and an interrupt leaves nothing locked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch


@pytest.fixture
def inputs(model: Any, encode: Any) -> dict[str, Any]:
    empty = {"samples": torch.zeros(2, 16, 6, 8)}
    return {"model": model, "positive": encode("a star"), "latent_image": empty, "steps": 5}


def test_every_step_is_told_with_a_preview(pack: Any, host: Any, inputs: Any) -> None:
    pack.run("KontextSampler", **inputs)
    assert host.steps == [(step, 5) for step in range(1, 6)]
    for preview in host.previews:
        # The result's own size: nodes show small pictures small.
        assert preview.size == (64, 48)
        assert preview.mode == "RGB"
    # Each is a picture of its own step, not one and the same: measured 27.6 of 255.
    first, last = (np.asarray(host.previews[i], dtype=float) for i in (0, -1))
    assert np.abs(first - last).mean() > 5


def test_the_last_preview_shows_the_result(pack: Any, host: Any, inputs: Any) -> None:
    made = pack.run("KontextSampler", **inputs)[0]["samples"]
    preview = pack.module("nodes.preview")
    latent_format = inputs["model"].latent_format
    expected = preview.picture_of(latent_format.process_in(made), latent_format)
    difference = np.asarray(expected, dtype=float) - np.asarray(host.previews[-1], dtype=float)
    # Euler's last estimate is the result; measured 0, allowed one rounding each.
    assert np.abs(difference).max() <= 2


def test_no_preview_where_none_was_fitted(pack: Any) -> None:
    unknown = pack.module("kontext_core.latents").LatentFormat()
    assert pack.module("nodes.preview").picture_of(torch.zeros(1, 16, 8, 8), unknown) is None


def test_should_stop_answers_and_never_raises(pack: Any, host: Any) -> None:
    latents = pack.module("kontext_core.latents")
    _, should_stop = pack.module("nodes.preview").reporter(4, latents.FLUX_LATENT)
    assert should_stop() is False
    host.interrupt_after = 0
    assert should_stop() is True and should_stop() is True


@pytest.mark.parametrize(("solver", "cfg"), [("euler", 1.0), ("heun", 2.0)])
def test_interrupt_stops_within_one_step(
    pack: Any,
    host: Any,
    inputs: Any,
    interrupted: type[Exception],
    solver: str,
    cfg: float,
) -> None:
    settings = {**inputs, "negative": inputs["positive"], "solver": solver, "cfg": cfg}
    calls = []
    flux = inputs["model"].load()
    hook = flux.register_forward_hook(lambda *_: calls.append(1))
    host.interrupt_after = 2
    # The host's own exception, so that it is shown as an interrupt and not as a failure.
    with pytest.raises(interrupted):
        pack.run("KontextSampler", **settings)
    hook.remove()
    assert len(host.steps) == 2
    # Two steps: of Heun's method two evaluations each, with two passes for cfg.
    assert len(calls) == (2 if solver == "euler" else 8)
    host.interrupt_after = None
    host.steps.clear()
    pack.run("KontextSampler", **settings)
    assert len(host.steps) == 5


def test_edit_can_be_interrupted_too(pack: Any, host: Any, interrupted: type[Exception]) -> None:
    host.interrupt_after = 1
    with pytest.raises(interrupted):
        pack.run("KontextEdit", prompt="a star", steps=50)
    assert len(host.steps) == 1


def test_without_a_host_the_nodes_run_silently(pack: Any, inputs: Any) -> None:
    module = pack.module("nodes.host")
    module.set_host(None)
    assert type(module.get_host()).__name__ == "PlainHost"
    assert pack.run("KontextSampler", **inputs)[0]["samples"].shape == (2, 16, 6, 8)
