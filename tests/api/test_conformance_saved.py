"""What was saved with an earlier state of the pack goes on working; ids and defaults are for ever.

tests/data/saved holds workflows as they were: `first_*` before Load Model had `memory` and Load Text
Encoders `padding`, `files_*` before models were ComfyUI's own kinds. Never change these files; add the
next state when it is released.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from contract import contract_of, promised
from host_client import Client, load_prompt
from hosts import ROOT

SAVED = sorted((ROOT / "tests/data/saved").glob("*.api.json"))


def _comparable(contract: dict[str, Any], offered: dict[str, Any]) -> dict[str, Any]:
    """The contract, with choices that the host adds to: model files, its own samplers."""
    inputs = []
    for kept, there in zip(contract["inputs"], offered["inputs"], strict=False):
        options = kept.get("options")
        more = options is not None and set(options) <= set(there.get("options", ()))
        inputs.append({**kept, "options": there["options"]} if more else kept)
    return {**contract, "inputs": inputs}


@pytest.mark.parametrize("node_id", promised())
def test_every_host_tells_the_contract(client: Client, node_id: str) -> None:
    offered = contract_of(client.get(f"/object_info/{node_id}")[node_id])
    assert offered == _comparable(promised()[node_id], offered)


@pytest.mark.slow
@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.name.removesuffix(".api.json"))
def test_a_prompt_of_an_earlier_state_runs(client: Client, path: Path) -> None:
    prompt = load_prompt(path)
    for node in prompt.values():
        if "steps" in node["inputs"]:
            node["inputs"] |= {"steps": 1, "seed": 501}
    run = client.run(prompt)
    assert run.ok, run.error
    assert [entry for entry in run.files() if entry["type"] == "output"]
