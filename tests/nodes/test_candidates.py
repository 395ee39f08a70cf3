"""Kontext: Candidates: early looks, and what is picked, beside Kontext: Sampler."""

from __future__ import annotations

from typing import Any

import pytest
import torch


@pytest.fixture
def inputs(pack: Any, model: Any, encode: Any, vae: Any, image: Any) -> dict[str, Any]:
    """With a reference that comes in the second half of the run only."""
    chain = pack.run("KontextReference", image=image(1), vae=vae, start=0.5)[0]
    stitched = pack.run("KontextStitch", conditioning=encode("a red star"), references=chain)
    return {"model": model, "positive": stitched[0], "latent_image": stitched[1], "steps": 6}


def test_what_is_picked_is_what_the_sampler_gives(pack: Any, inputs: dict[str, Any]) -> None:
    out = pack.run("KontextCandidates", **inputs, seed=5, count=4, pick="3, 1")
    made = out[0]["samples"]
    for place, seed in ((0, 7), (1, 5)):
        alone = pack.run("KontextSampler", **inputs, seed=seed)[0]["samples"]
        assert torch.equal(made[place : place + 1], alone)
    assert out.ui["kontext_notes"][0] == "candidates 3: seed 7, 1: seed 5"


@pytest.mark.parametrize("look", [1, 4])
def test_an_early_look_is_the_runs_own_estimate(
    pack: Any, inputs: dict[str, Any], look: int, host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the whole run, in which the reference comes after half of its steps, not of the look's."""
    seen: list[Any] = []
    module = pack.module("nodes.sampler")
    original = module.reporter

    def watched(total: int, latent_format: Any) -> Any:
        callback, stop = original(total, latent_format)

        def told(step: int, steps: int, x0: Any) -> None:
            seen.append(latent_format.process_out(x0))
            callback(step, steps, x0)

        return told, stop

    monkeypatch.setattr(module, "reporter", watched)
    pack.run("KontextSampler", **inputs, seed=5)
    wanted = seen[look - 1]
    host.steps.clear()
    out = pack.run("KontextCandidates", **inputs, seed=4, count=2, look=look)
    assert out[0]["samples"].shape[0] == 2
    assert torch.equal(out[0]["samples"][1:], wanted)
    assert host.steps == [(step, look) for step in range(1, look + 1)] * 2
    assert out.ui["kontext_notes"][1].startswith(f"early looks, after {look} of 6 steps")


def test_a_look_at_the_end_is_the_picture(pack: Any, inputs: dict[str, Any]) -> None:
    out = pack.run("KontextCandidates", **inputs, seed=5, count=1, look=6)
    assert torch.equal(
        out[0]["samples"], pack.run("KontextSampler", **inputs, seed=5)[0]["samples"]
    )
    assert len(out.ui["kontext_notes"]) == 1


@pytest.mark.parametrize("pick", ["5", "0", "1-2", "two", "-1", "1.5", "٣"])
def test_a_pick_that_is_no_candidate_is_refused(
    pack: Any, inputs: dict[str, Any], pick: str
) -> None:
    node = pack.nodes["KontextCandidates"]
    assert "pick is" in node.validate_inputs(pick=pick, count=2)
    with pytest.raises(pack.error("InputError"), match="pick is"):
        pack.run("KontextCandidates", **inputs, count=2, pick=pick)
    assert node.validate_inputs(pick="2; 1, 2", count=2) is True


def test_a_batch_of_latents_is_refused(pack: Any, inputs: dict[str, Any]) -> None:
    two = {"samples": inputs["latent_image"]["samples"].repeat(2, 1, 1, 1)}
    with pytest.raises(pack.error("InputError"), match="batch of 2"):
        pack.run("KontextCandidates", **{**inputs, "latent_image": two})


@pytest.fixture
def scored(inputs: dict[str, Any], vae: Any, image: Any) -> dict[str, Any]:
    return {**inputs, "vae": vae, "original": image(1), "seed": 5, "count": 3, "look": 2}


def test_a_scorer_finishes_the_best_in_one_run(pack: Any, scored: dict[str, Any]) -> None:
    out = pack.run("KontextCandidates", **scored, scorer="like image 1", keep=2)
    names, scores = out.ui["kontext_notes"][:2]
    told = [
        float(part.split(": ")[1]) for part in scores.removeprefix("like image 1, ").split(", ")
    ]
    best = sorted(range(3), key=lambda i: -told[i])[:2]
    assert names == "candidates " + ", ".join(f"{i + 1}: seed {5 + i}" for i in best)
    by_hand = pack.run("KontextCandidates", **scored, pick=", ".join(str(i + 1) for i in best))
    assert torch.equal(out[0]["samples"], by_hand[0]["samples"])
    # What is picked by hand counts more than any scorer.
    picked = pack.run("KontextCandidates", **scored, scorer="detail", pick="2")
    assert picked.ui["kontext_notes"][0] == "candidates 2: seed 6"


def test_a_mask_says_what_is_to_stay(pack: Any, scored: dict[str, Any]) -> None:
    mask = torch.zeros(1, 64, 64)
    mask[:, :32] = 1
    out = pack.run("KontextCandidates", **scored, mask=mask, scorer="outside the mask")
    assert out[0]["samples"].shape[0] == 1
    assert out.ui["kontext_notes"][1].startswith("outside the mask, 1: ")
    with pytest.raises(Exception, match="there is no mask, so nothing is outside it"):
        pack.run("KontextCandidates", **scored, scorer="outside the mask")


@pytest.mark.parametrize(
    "options, problem",
    [
        ({"scorer": "judge"}, "scorer"),
        ({"scorer": "detail", "keep": 4}, "keep is 4"),
        ({"scorer": "detail", "vae": None}, "connect Kontext: Load VAE"),
    ],
)  # fmt: skip
def test_scorers_that_can_not_work_are_refused(
    pack: Any, scored: dict[str, Any], options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(Exception, match=problem):
        pack.run("KontextCandidates", **{**scored, **options})
