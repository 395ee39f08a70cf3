"""`bench run`, `bench compare` and `bench vae`: benchmarks of others, two runs side by side, autoencoders."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kontext_core.commands.device import usable_device
from kontext_core.errors import InputError

from .answering import add_ray, answering

if TYPE_CHECKING:
    from .rows import EditRow
    from .runner import Arm, Spread

KINDS = ("kontextbench", "gedit", "imgedit", "multibanana")


def add_evaluation(worlds: argparse._SubParsersAction) -> None:
    """Add the three commands and their options."""
    _add_run(worlds)
    _add_compare(worlds)
    _add_vae(worlds)


def _add_judge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--judge-model", default="", metavar="NAME", help="as the endpoint calls it"
    )
    parser.add_argument(
        "--judge-timeout",
        type=float,
        default=120,
        metavar="SECONDS",
        help="for an answer (%(default)g)",
    )
    parser.add_argument(
        "--judge-tries", type=int, default=3, help="for a usable answer (%(default)s)"
    )
    parser.add_argument("--judge-cache", metavar="DIR", help="where answers are kept (OUT/judge)")


def _add_run(worlds: argparse._SubParsersAction) -> None:
    run = worlds.add_parser(
        "run",
        help="answer and score a published benchmark",
        description="Answers the cases of KontextBench, GEdit-Bench, ImgEdit or MultiBanana with a model, or takes "
        "answers that are there, and scores them. Killed at any moment, the same command goes on.",
    )
    run.add_argument(
        "--data", required=True, metavar="PATH", help="the benchmark's folder, or its file"
    )
    run.add_argument("--kind", choices=KINDS, default="kontextbench", help="(%(default)s)")
    run.add_argument(
        "--out", required=True, metavar="DIR", help="for pictures, rows.jsonl, tables, sheets"
    )
    made = run.add_mutually_exclusive_group()
    made.add_argument("--model", default="tiny", help='"tiny" or a model folder (%(default)s)')
    made.add_argument(
        "--answers", metavar="DIR", help="of KEY.png, by any pipeline, in place of a model"
    )
    run.add_argument(
        "--scorers", default="pixels", metavar="A,B",
        help="pixels, target, lpips=DIR, clip=DIR, dino=DIR, auraface=FILE[+DETECTOR], viescore=URL; "
        "several separated by commas (%(default)s)",
    )  # fmt: skip
    run.add_argument("--cases", type=int, help="only the first so many of each category")
    run.add_argument(
        "--seeds", type=int, default=1, help="answers to each case, from seed 0 on (%(default)s)"
    )
    run.add_argument("--steps", type=int, default=28, help="of a run (%(default)s)")
    run.add_argument("--guidance", type=float, default=2.5, help="distilled (%(default)s)")
    run.add_argument("--method", default="offset", help="how references are placed (%(default)s)")
    run.add_argument(
        "--fewer-steps", type=int, metavar="N",
        help="a control: the same cases in N steps, to see what a cheaper run would do",
    )  # fmt: skip
    run.add_argument(
        "--turns", type=int, metavar="N",
        help="edits one after the other: the first N instructions of every picture, each on the last answer; "
        "scorers compare with the first picture",
    )  # fmt: skip
    run.add_argument("--language", default="en", help="of GEdit-Bench: en or cn (%(default)s)")
    run.add_argument("--device", default="cpu", help="cpu, cuda, mps (%(default)s)")
    add_ray(run)
    _add_judge(run)
    run.set_defaults(run=_run)


def _add_compare(worlds: argparse._SubParsersAction) -> None:
    compare = worlds.add_parser(
        "compare",
        help="win rate of one run over another",
        description="Holds two folders of `bench run` against each other case by case, by a figure or by a judge.",
    )
    compare.add_argument("one", help="folder of a run")
    compare.add_argument("other", help="folder of another, of the same benchmark")
    how = compare.add_mutually_exclusive_group(required=True)
    how.add_argument(
        "--by", metavar="SCORER.FIGURE", help="such as viescore.overall or pixels.psnr"
    )
    how.add_argument("--judge", metavar="URL", help="asked for the better one, in both orders")
    compare.add_argument("--data", metavar="PATH", help="with --judge: the benchmark")
    compare.add_argument("--kind", choices=KINDS, default="kontextbench", help="(%(default)s)")
    compare.add_argument("--language", default="en", help="of GEdit-Bench: en or cn (%(default)s)")
    _add_judge(compare)
    compare.set_defaults(run=_compare)


def _add_vae(worlds: argparse._SubParsersAction) -> None:
    vae = worlds.add_parser(
        "vae",
        help="what an autoencoder loses on a folder of pictures",
        description="PDist, SSIM and PSNR of pictures there and back, as in FLUX.1 Kontext's report.",
    )
    vae.add_argument(
        "--vae",
        action="append",
        metavar="PATH",
        help='"tiny", a file or a model folder; repeat for several (tiny)',
    )
    vae.add_argument(
        "--pictures", required=True, metavar="DIR", help="PNG, JPEG, WebP, also in folders"
    )
    vae.add_argument(
        "--size", type=int, default=256, help="side of the middle square; 0: whole (%(default)s)"
    )
    vae.add_argument("--cases", type=int, help="only the first so many")
    vae.add_argument("--lpips", metavar="DIR", help="LPIPS' two files, for PDist")
    vae.add_argument("--out", metavar="FILE", help="all figures as JSON")
    vae.add_argument("--device", default="cpu", help="cpu, cuda, mps (%(default)s)")
    vae.set_defaults(run=_vae)


def _options(options: argparse.Namespace, out: str) -> Any:
    from .scorers import JudgeOptions

    cache = Path(options.judge_cache or Path(out) / "judge")
    return JudgeOptions(options.judge_model, options.judge_timeout, options.judge_tries, cache)


def _run(options: argparse.Namespace) -> str:
    from tqdm import tqdm

    from .cases import read_cases, turns
    from .kept import keep_settings
    from .report import pairs, wins_by_figure, write_report
    from .runner import ASKED, figures, run_cases
    from .scorers import make_scorer

    cases = read_cases(options.kind, options.data, language=options.language)
    if options.turns is not None:
        cases = turns(cases, options.turns)
    cases = first_of_each(cases, options.cases)
    scorers = [
        make_scorer(spec, _options(options, options.out))
        for spec in filter(None, options.scorers.split(","))
    ]
    if options.seeds < 1:
        raise InputError(f"seeds is {options.seeds}; expected 1 or more")
    settings: dict[str, Any] = {
        "kind": options.kind,
        "answers": options.answers,
        "turns": options.turns,
    }
    if options.answers and (options.fewer_steps or options.ray is not None):
        raise InputError(
            "--fewer-steps and --ray run a model, but --answers were given; leave one out"
        )
    if not options.answers:
        settings |= {
            "model": str(options.model), "steps": options.steps, "guidance": options.guidance,
            "method": options.method,
        }  # fmt: skip
    with _arms(options) as (arms, spread):
        keep_settings(options.out, settings)
        total = len(cases) * len(arms) * options.seeds
        with tqdm(
            total=total, file=sys.stderr, disable=not sys.stderr.isatty(), unit="case"
        ) as bar:
            rows = run_cases(
                cases, arms, scorers, options.out, seeds=range(options.seeds),
                told=lambda row: bar.update(), spread=spread,
            )  # fmt: skip
    made = write_report(rows, cases, options.out, settings)
    parts = [table.plain() for table in made]
    for arm in arms[1:]:
        both = pairs(rows, rows, ASKED, arm.name)
        for scorer, figure in figures(rows):
            wins = wins_by_figure(both, scorer, figure)
            parts.append(f"asked against {arm.name}, {scorer}.{figure}: {wins.line()}")
    parts.append(f"Rows, tables and sheets: {options.out}")
    return "\n\n".join(parts)


@contextmanager
def _arms(options: argparse.Namespace) -> Iterator[tuple[list[Arm], Spread]]:
    """The ways to answer that the options name, and how answers are made."""
    from .runner import ASKED, AnswerSettings, Arm, one_by_one, our_arm

    if options.answers:
        yield [Arm(ASKED, answers=Path(options.answers))], one_by_one
        return
    asked = AnswerSettings(options.steps, options.guidance, options.method)
    with answering(options) as (pipeline, spread):
        arms = [our_arm(pipeline, asked)]
        if options.fewer_steps:
            name = f"{options.fewer_steps} step{'s' if options.fewer_steps > 1 else ''}"
            arms.append(our_arm(pipeline, replace(asked, steps=options.fewer_steps), name))
        yield arms, spread


def first_of_each(cases: list[Any], count: int | None) -> list[Any]:
    """The first so many of every category; None is all."""
    if count is None:
        return cases
    if count < 1:
        raise InputError(f"cases is {count}; expected 1 or more")
    seen: dict[str, int] = {}
    found = []
    for case in cases:
        seen[case.category] = seen.get(case.category, 0) + 1
        if seen[case.category] <= count:
            found.append(case)
    return found


def _compare(options: argparse.Namespace) -> str:
    from kontext_core.images import load_image
    from kontext_lab.evaluation.endpoint import Endpoint
    from kontext_lab.evaluation.judging import better

    from .cases import read_cases
    from .report import pairs, wins_by_figure, wins_by_judge
    from .rows import read_rows

    both = pairs(read_rows(options.one), read_rows(options.other))
    if options.by:
        scorer, _, figure = options.by.partition(".")
        return f"{options.by}: {wins_by_figure(both, scorer, figure).line()}"
    if not options.data:
        raise InputError("a judge has to see the questions: name the benchmark with --data")
    cases = {
        case.key: case for case in read_cases(options.kind, options.data, language=options.language)
    }
    asked = _options(options, options.one)
    endpoint = Endpoint(options.judge, asked.model, asked.timeout, asked.tries, asked.cache)
    strange = next((a.key for a, _ in both if a.key not in cases), None)
    if strange is not None:
        raise InputError(f"{options.data} has no case {strange!r}; name the benchmark that was run")

    def judge(a: EditRow, b: EditRow) -> int:
        case = cases[a.key]
        made = [
            load_image(Path(place) / row.file)[:1]
            for place, row in ((options.one, a), (options.other, b))
        ]
        return better(endpoint, case.instruction, case.pictures(), made[0], made[1])

    wins, problems = wins_by_judge(both, judge)
    told = [f"{case}: {why}" for case, why in problems.items()]
    return "\n".join([f"{options.judge_model}: {wins.line()}", *told])


def _vae(options: argparse.Namespace) -> str:
    from tqdm import tqdm

    from kontext_core.partial import whole_file
    from kontext_core.weights.load import load_autoencoder

    from .lpips import load_lpips
    from .vae import pictures_of, reconstruct, table

    files = pictures_of(options.pictures)[: options.cases]
    network = load_lpips(options.lpips) if options.lpips else None
    names = options.vae or ["tiny"]
    found: dict[str, Any] = {}
    with tqdm(
        total=len(files) * len(names), file=sys.stderr, disable=not sys.stderr.isatty()
    ) as bar:
        for name in names:
            autoencoder = load_autoencoder(name, device=usable_device(options.device))
            found[name] = reconstruct(
                autoencoder, files, size=options.size or None, lpips=network,
                tick=lambda count: bar.update(count),
            )  # fmt: skip
    if options.out:
        try:
            with whole_file(Path(options.out)) as file:
                file.write((json.dumps(found, indent=1) + "\n").encode())
        except OSError as error:
            raise InputError(f"can't write {options.out} ({error}); choose another file") from error
    return table(found).plain()
