"""`bench strength`: the dose-response of references, on the embedded model and on a random one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from kontext_core import InputError, Pipeline, load_pipeline
from kontext_core.stitcher import Reference
from kontext_lab.__main__ import main
from kontext_lab.bench.held_out import answers
from kontext_lab.bench.strength import ARMS, biased, dose_response, sheet, strength_cases, table

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks/results/strength.json"


@pytest.fixture(scope="module")
def embedded() -> Pipeline:
    return load_pipeline("tiny")


def test_strength_zero_is_leaving_the_reference_out(embedded: Pipeline) -> None:
    """To the bit, through a whole run of the trained model; and one is the plain reference."""
    cases = strength_cases(1)[:2]
    without = [type(c)(c.sample, (), c.target, c.seed) for c in cases]
    zero = answers(embedded, cases, steps=2, refer=biased(0.0))
    assert zero.equal(answers(embedded, without, steps=2))
    plain = answers(embedded, cases, steps=2)
    assert answers(embedded, cases, steps=2, refer=biased(1.0)).equal(plain)
    assert not zero.equal(plain)


def test_ours_keeps_the_answer_where_a_scaled_latent_loses_it(embedded: Pipeline) -> None:
    """Measured with one case a task and two steps: 0.99 and 0.78 arrive at 0.5; 35.7 and 15.5 dB
    of what is to stay at 0.25."""
    results, pictures = dose_response(embedded, strength_cases(1), (0.25, 0.5), steps=2)
    ours, others = results["arms"]["attention"], results["arms"]["latent"]
    assert ours["0.5"]["arrived"] > 0.95 > 0.9 > others["0.5"]["arrived"]
    assert ours["0.25"]["untouched"] > others["0.25"]["untouched"] + 10
    assert {arm: len(made) for arm, made in pictures.items()} == dict.fromkeys(ARMS, 2)
    assert sheet(strength_cases(1), pictures).width == 3 * 96 + 2 * 4
    assert "0.25" in table(results).plain()


def test_the_command_writes_figures_and_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], model_folder: Path
) -> None:
    main(["bench", "strength", "--quick", "--model", str(model_folder), "--out", str(tmp_path)])
    said = capsys.readouterr().out
    assert "attention: arrived" in said
    found = json.loads((tmp_path / "strength.json").read_text(encoding="utf-8"))
    assert found["cases"] == 6
    assert Image.open(tmp_path / "strength.png").height == 8 * 96


def test_nothing_to_be_left_alone_is_refused(embedded: Pipeline) -> None:
    case = strength_cases(1)[0]
    other = type(case)(case.sample, (1 - case.target,), case.target, case.seed)
    with pytest.raises(InputError, match="nothing is left alone"):
        dose_response(embedded, [other], (1.0,), steps=1)


def test_the_kept_figures_say_what_the_docs_say() -> None:
    """docs/benchmarks.md has them as a table."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    docs = (RESULTS.parents[2] / "docs/benchmarks.md").read_text(encoding="utf-8")
    assert table(results).markdown() in docs
    assert Reference.__dataclass_fields__["strength"].default == 1.0
