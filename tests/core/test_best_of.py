"""The best of several starts: scorers, choice, and `edit(best_of=)`, whose pictures are those of their seeds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from judge_server import JudgeServer, chat

from kontext_core import Cancelled, InputError, Pipeline, edit, load_image, save_image
from kontext_core.__main__ import main
from kontext_core.errors import UnscoredError
from kontext_core.scoring.best import CRITERIA, BestOf, Candidate, Scored, choose
from kontext_lab.evaluation.endpoint import Endpoint
from kontext_lab.evaluation.judging import judged_by

PICTURE = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))
MASK = torch.zeros(64, 64)
MASK[:32] = 1


def made(pipeline: Pipeline, **options: Any) -> torch.Tensor:
    return edit(pipeline, "make it red", [PICTURE], steps=3, **{"seed": 5, **options})


def test_the_best_start_is_finished_to_the_bit(small_pipeline: Pipeline) -> None:
    seen: list[Candidate] = []

    def scorer(candidate: Candidate) -> float:
        seen.append(candidate)
        return float(candidate.seed == 7)

    told: list[list[Scored]] = []
    best = made(small_pipeline, best_of=BestOf(4, scorer, look=1, told=told.append))
    assert torch.equal(best, made(small_pipeline, seed=7))
    assert [one.seed for one in seen] == [5, 6, 7, 8]
    assert [one.score for one in told[0]] == [0, 0, 1, 0]
    first = seen[0]
    assert first.prompt == "make it red" and torch.equal(first.images[0], PICTURE)
    # An early look is the picture that a run of so many steps' estimate gives, at the result's size.
    assert first.picture.shape == best.shape and not torch.equal(first.picture, seen[1].picture)


def test_several_are_kept_best_first(small_pipeline: Pipeline) -> None:
    found = made(small_pipeline, best_of=BestOf(3, lambda c: float(c.seed), look=2), batch=2)
    alone = torch.cat([made(small_pipeline, seed=7), made(small_pipeline, seed=6)])
    # Two are decoded at once: 1.1e-6 measured.
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-5)


def test_looking_at_the_last_step_looks_at_the_result(small_pipeline: Pipeline) -> None:
    seen: list[torch.Tensor] = []

    def scorer(candidate: Candidate) -> float:
        seen.append(candidate.picture)
        return 0.0

    best = made(small_pipeline, best_of=BestOf(2, scorer, look=50))
    assert torch.equal(seen[0], best)


def test_a_number_takes_what_changes_least_outside_the_mask(small_pipeline: Pipeline) -> None:
    told: list[Scored] = []
    options = {"noise_mask": MASK}
    by_name = made(small_pipeline, best_of=BestOf(3, told=told.extend), **options)
    assert torch.equal(by_name, made(small_pipeline, best_of=3, **options))
    best = max(told, key=lambda one: one.score or 0)
    assert torch.equal(by_name, made(small_pipeline, seed=best.seed, **options))


def test_a_scorer_that_fails_at_times_and_always(small_pipeline: Pipeline) -> None:
    def moody(candidate: Candidate) -> float:
        if candidate.seed != 6:
            raise UnscoredError("rubbish")
        return -3.0

    best = made(small_pipeline, best_of=BestOf(3, moody))
    assert torch.equal(best, made(small_pipeline, seed=6))

    def never(candidate: Candidate) -> float:
        return float("nan")

    with pytest.raises(UnscoredError, match="none of 2 starts could be scored: the score is NaN"):
        made(small_pipeline, best_of=BestOf(2, never))


@pytest.mark.parametrize(
    "options, problem",
    [
        ({"best_of": 3}, "no noise_mask outside"),
        ({"best_of": 0}, "best_of is 0"),
        ({"best_of": BestOf(2, "beauty")}, "unknown scorer 'beauty'"),
        ({"best_of": BestOf(2, "detail", look=0)}, "look is 0"),
        ({"best_of": BestOf(2, "detail"), "batch": 3}, "only 2 starts"),
    ],
)
def test_wrong_settings_are_refused(
    small_pipeline: Pipeline, options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InputError, match=problem):
        made(small_pipeline, **options)
    with pytest.raises(InputError, match="one instruction"):
        edit(small_pipeline, ["a", "b"], [PICTURE], steps=1, best_of=BestOf(2, "detail"))


def test_it_can_be_stopped(small_pipeline: Pipeline) -> None:
    with pytest.raises(Cancelled):
        made(small_pipeline, best_of=BestOf(2, "detail"), should_stop=lambda: True)


def test_the_criteria() -> None:
    changed = PICTURE.clone()
    changed[:, :32] = 1 - changed[:, :32]
    one = Candidate(changed, 0, images=[PICTURE], mask=MASK[None])
    assert CRITERIA["outside the mask"](one) == 100
    other = Candidate(1 - PICTURE, 1, images=[PICTURE], mask=MASK[None])
    assert choose([other, one], CRITERIA["outside the mask"])[0] == [1]
    assert choose([other, one], CRITERIA["like image 1"])[0] == [1]
    assert choose([Candidate(PICTURE * 0, 0), Candidate(PICTURE, 1)], CRITERIA["detail"])[0] == [1]
    with pytest.raises(UnscoredError, match="no mask"):
        choose([Candidate(PICTURE, 0, images=[PICTURE])], CRITERIA["outside the mask"])
    with pytest.raises(UnscoredError, match="no picture"):
        choose([Candidate(PICTURE, 0)], CRITERIA["like image 1"])


def test_a_judge_behind_an_endpoint() -> None:
    def reply(asked: dict[str, Any], count: int) -> tuple[int, str]:
        value = 9 if count >= 2 else 4
        return 200, chat(json.dumps(dict.fromkeys(("followed", "kept", "natural", "clean"), value)))

    with JudgeServer(reply) as server:
        scorer = judged_by(Endpoint(server.url, "m", wait=0.01))
        candidates = [Candidate(PICTURE * s, i, "x", [PICTURE]) for i, s in enumerate((1.0, 0.5))]
        best, scored = choose(candidates, scorer)
    assert best == [1] and [one.score for one in scored] == [4, 9]


def test_the_command_chooses_and_tells(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = tmp_path / "in.png"
    save_image(PICTURE, given)
    words = [
        "edit",
        "--model",
        str(model_folder),
        "--prompt",
        "x",
        "--image",
        str(given),
        "--steps",
        "2",
    ]
    best = ["--best-of", "3", "--best-by", "like image 1", "--look", "1"]
    assert main([*words, *best, "--seed", "5", "--out", str(tmp_path / "best.png")]) == 0
    found = re.findall(r"seed (\d+): ([\d.]+)", capsys.readouterr().err)
    told = {int(seed): float(score) for seed, score in found}
    assert set(told) == {5, 6, 7}
    chosen = str(max(told, key=lambda seed: told[seed]))
    assert main([*words, "--seed", chosen, "--out", str(tmp_path / "one.png")]) == 0
    assert torch.equal(load_image(tmp_path / "best.png"), load_image(tmp_path / "one.png"))
    again = ["edit", "--like", str(tmp_path / "best.png"), "--out", str(tmp_path / "again.png")]
    assert main(again) == 0
    assert torch.equal(load_image(tmp_path / "best.png"), load_image(tmp_path / "again.png"))
