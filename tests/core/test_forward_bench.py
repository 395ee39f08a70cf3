"""The forward's benchmark on small sizes: what it counts and prints. Nothing here is timed."""

from __future__ import annotations

import json

import pytest
import torch

from kontext_core import forward_bench
from kontext_core.__main__ import main
from kontext_core.forward_bench import Sizes, measure

SMALL = Sizes(hidden_size=64, head_size=32, text=8, side=4, context=16)


def test_all_are_measured_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    found = measure(SMALL, rounds=2)
    assert torch.get_num_threads() == threads
    assert {"ours", "reuse", "ideal"} <= set(found["seconds"])
    assert found["ours_over_ideal"] > 0
    for name in ("diffusers", "comfyui"):
        assert (f"{name}_over_ideal" in found) != (name in found["absent"])


def test_the_ideal_is_every_product_and_attention() -> None:
    """Counted by hand for one double and two single blocks; the last one trims its queries."""
    cpu, text, image = torch.device("cpu"), SMALL.text, 2 * SMALL.target
    with torch.no_grad():
        runs, _ = forward_bench._runs(SMALL, cpu, torch.float32, "auto")
        shapes: list[tuple[int, ...]] = []
        seen = forward_bench._Recorded()
        with torch.backends.mkldnn.flags(enabled=False), seen:
            runs["ideal"]()
    shapes = [shape for shape, _, _ in seen.products]
    # Embeddings: image (target, references), text; four of each stream; one of a whole single block's
    # two and the last one's four; the final layer.
    assert len(shapes) == 3 + 2 * 4 + 2 + 4 + 1
    assert shapes.count((text + image, 64)) == 2
    assert [q[2] for q, _, _ in seen.attentions] == [text + image] * 2 + [SMALL.target]


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward_bench, "QUICK", SMALL)
    assert (
        main(["bench", "forward", "--quick", "--json", "--rounds", "1", "--references", "2"]) == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert told["sizes"]["references"] == 2 and told["dtype"] == "float32"
    assert main(["bench", "forward", "--quick", "--rounds", "1", "--attention", "sdpa"]) == 0
    assert "ours_over_ideal: " in capsys.readouterr().out
    assert main(["bench", "forward", "--quick", "--attention", "none"]) == 1
    assert "attention is 'none'; expected one of auto" in capsys.readouterr().err
