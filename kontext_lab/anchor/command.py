"""`bench anchor`: make the benchmark of order and layout, answer it, judge answers."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..evaluation.answering import add_ray, answering


def add_anchor(worlds: argparse._SubParsersAction) -> None:
    """Add the command and its three parts."""
    anchor = worlds.add_parser(
        "anchor",
        help="a benchmark of the order and the layout of references, for any pipeline",
        description="A drawn benchmark that asks whether a pipeline heeds which reference is which. "
        "Its folder has the form of KontextBench; answers are pictures named by key, whoever makes them.",
    )
    parts = anchor.add_subparsers(dest="part", required=True)
    make = parts.add_parser("make", help="write the folder")
    make.add_argument("folder", help="a new folder")
    make.add_argument("--cases", type=int, default=500, help="an even number (%(default)s)")
    make.add_argument("--seed", type=int, default=0, help="of all that is drawn (%(default)s)")
    make.add_argument("--side", type=int, default=512, help="of a picture, in pixels (%(default)s)")
    make.set_defaults(run=_make)
    answer = parts.add_parser("answer", help="answer the questions with a model of ours")
    answer.add_argument("folder", help="that `make` wrote")
    answer.add_argument("answers", help="folder for KEY.png; what is there is kept")
    answer.add_argument("--model", default="tiny", help='"tiny" or a model folder (%(default)s)')
    answer.add_argument("--steps", type=int, default=28, help="of a run (%(default)s)")
    answer.add_argument("--guidance", type=float, default=2.5, help="distilled (%(default)s)")
    answer.add_argument(
        "--method",
        default="offset",
        help="how references are placed: offset, index, ... (%(default)s)",
    )
    answer.add_argument("--cases", type=int, help="only the first so many")
    answer.add_argument("--device", default="cpu", help="cpu, cuda, mps (%(default)s)")
    add_ray(answer)
    answer.set_defaults(run=_answer)
    judge = parts.add_parser("judge", help="judge a folder of answers")
    judge.add_argument("folder", help="that `make` wrote")
    judge.add_argument("answers", help="folder of KEY.png, .jpg or .webp, of any size")
    judge.add_argument("--out", metavar="DIR", help="for anchor.json and anchor.png (ANSWERS)")
    judge.add_argument(
        "--only-answered",
        action="store_true",
        help="leave out what has no answer; else it is wrong",
    )
    judge.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    judge.set_defaults(run=_judge)


def _make(options: argparse.Namespace) -> str:
    from .folder import write_anchor

    path = write_anchor(options.folder, cases=options.cases, seed=options.seed, side=options.side)
    return f"{options.cases} cases in {path}; answers are pictures named KEY.png, see {path / 'README.md'}"


def _answer(options: argparse.Namespace) -> str:
    from tqdm import tqdm

    from ..evaluation.runner import AnswerSettings
    from .answering import answer_questions

    settings = AnswerSettings(options.steps, options.guidance, options.method)
    with (
        answering(options) as (pipeline, spread),
        tqdm(file=sys.stderr, disable=not sys.stderr.isatty(), unit="case") as bar,
    ):
        place = answer_questions(
            options.folder, options.answers, pipeline, settings, name=str(options.model),
            cases=options.cases, tick=lambda count: bar.update(count), spread=spread,
        )  # fmt: skip
    return f"answers in {place}"


def _judge(options: argparse.Namespace) -> str:
    from tqdm import tqdm

    from .marks import judge_answers, table, tally, write_marks

    with tqdm(file=sys.stderr, disable=not sys.stderr.isatty(), unit="case") as bar:
        marks = judge_answers(
            options.folder, options.answers, only_answered=options.only_answered,
            tick=lambda count: bar.update(count),
        )  # fmt: skip
    place = write_marks(options.folder, marks, options.out or options.answers)
    found = table(tally(marks))
    problems = [mark for mark in marks if mark.problem and mark.problem != "no answer"]
    told = [f"{mark.filed.key}: {mark.problem}" for mark in problems]
    shown = found.markdown() if options.markdown else found.plain()
    return "\n".join([shown, *told, f"\nFigures and pictures: {Path(place)}"])
