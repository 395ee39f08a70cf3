"""The shipped weights do what their results say, case by case, and what the card claims."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import kontext_core
from kontext_core.metrics import psnr
from kontext_core.pipeline import load_pipeline
from kontext_lab.bench.held_out import answers, assess, held_out_cases
from kontext_lab.bench.probes import exchanged_words
from kontext_lab.bench.reconstruction import reconstruction
from kontext_lab.world.tasks import TASKS

RESULTS = Path(kontext_core.__file__).parent / "assets" / "tiny" / "results.json"


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline("tiny")


@pytest.fixture(scope="module")
def results() -> dict:
    if not RESULTS.exists():
        pytest.skip(
            "the weights were not measured yet: bench tiny, then kontext_lab/recipes/write_report.py"
        )
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def again(pipeline, results: dict, wordings: str, tasks: list[str], count: int) -> float:
    """Share of cases that are judged now as they were when the results were written."""
    settings = results["settings"]
    count = min(count, settings["cases"])
    cases = [
        case
        for task in tasks
        for case in held_out_cases(task, count, seed=settings["seed"], wordings=wordings)
    ]
    made = answers(pipeline, cases, steps=settings["steps"], guidance=settings["guidance"])
    now = [one.verdict.right for one in assess(cases, made)]
    before = [
        digit == "1" for task in tasks for digit in results["verdicts"][wordings][task][:count]
    ]
    return sum(a == b for a, b in zip(now, before, strict=True)) / len(now)


def test_results_are_those_of_these_weights(pipeline, results) -> None:
    # All but one or two verdicts on the fence, where products round in another order.
    assert again(pipeline, results, "grammar", list(TASKS), 1) >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("wordings", ["held_out", "blind"])
def test_results_in_other_words_are_those_of_these_weights(pipeline, results, wordings) -> None:
    assert again(pipeline, results, wordings, list(TASKS), 2) >= 0.9


def test_it_looks_at_its_references_and_reads_the_order_of_words(results) -> None:
    # Distance to the right answer, in dB: few answers are right in everything, so shares of right
    # ones tell little. Measured 25.0 as asked, 14.1 without references, 17.5 scrambled.
    asked = results["sets"]["grammar"]["all"]["psnr"]
    for probe in ("blank", "scrambled"):
        assert results["probes"][probe]["all"]["psnr"] < asked - 3, probe


@pytest.mark.slow
@pytest.mark.parametrize("wordings", ["grammar", "blind"])
def test_exchanged_words_lead_to_the_exchanged_answer(pipeline, wordings) -> None:
    """Whatever the drawing is worth: it is nearer to the exchanged answer than to the other."""
    tasks = ("compose", "transfer")
    cases = [c for task in tasks for c in held_out_cases(task, 24, wordings=wordings)]
    pairs = [(case, other) for case in cases if (other := exchanged_words(case)) is not None]
    made = answers(pipeline, [other for _, other in pairs], steps=12)
    before, after = (torch.stack([pair[i].target for pair in pairs]) for i in (0, 1))
    nearer = psnr(made, after) > psnr(made, before)
    # Measured 1.00 by the benchmark, 28 steps.
    assert len(pairs) > 15 and float(nearer.float().mean()) >= 0.95


def test_the_autoencoder_reaches_its_figures(pipeline, results) -> None:
    found = reconstruction(pipeline, 8)["all"]
    # Eight instead of some fifty pictures of a kind.
    assert found["psnr"] > results["autoencoder"]["all"]["psnr"] - 1
    assert 0.8 < found["latent_std"] < 1.2


def test_any_text_is_accepted(pipeline) -> None:
    txt, vec = pipeline.text_encoder.encode(["Füge 日本 🙂 hinzu, please!", "make it night"])
    assert bool(torch.isfinite(txt).all()) and bool(torch.isfinite(vec).all())
    assert not torch.equal(vec[0], vec[1])
