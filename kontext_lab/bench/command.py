"""`bench`: what a model of the drawn world can do, as tables, a page of pictures and JSON."""

from __future__ import annotations

import argparse
import sys

from kontext_core.commands.device import usable_device

from ..anchor.command import add_anchor
from ..evaluation.command import add_evaluation

# What the drawn world's own model is measured by, in `bench WHAT`.
WORLDS = {
    "tiny": "the embedded model on held-out cases: success by task as a judge sees it, whether it looks "
    "at its references and reads its words, steps, guidance, autoencoder, drift, latency. About ten "
    "minutes on two cores; --quick takes less than one",
    "drift": "what ten turns of edits do to the parts that none of them is about, by several ways to go "
    "on from turn to turn; --cases counts chains (12, or 2 of three turns with --quick), --out is a "
    "JSON file (drift.json)",
    "strength": "how much of a reference arrives at which strength, beside scaling its latent",
    "few-steps": "LoRAs for few steps: held-out cases judged with and without them, in 1, 2 and 4 steps; "
    "--cases counts per task (40), --out is a JSON file (few_steps.json)",
    "accelerate": "what saving work costs in quality, beside fewer steps, another seed and another kernel; "
    "--cases counts per task (4), --out is a JSON file (accelerate.json)",
}


def add_bench(commands: argparse._SubParsersAction) -> None:
    """Add the command, what it measures, and their options."""
    bench = commands.add_parser(
        "bench",
        help="measure a model",
        description="Measures models, on the drawn world and on published benchmarks.",
    )
    worlds = bench.add_subparsers(dest="world", required=True)
    for name, what in WORLDS.items():
        world = worlds.add_parser(name, help=what.split(":")[0], description=f"{what}.")
        _add_options(world)
        if name == "few-steps":
            world.add_argument(
                "--lora", action="append", default=[], metavar="FILE", help="several are compared"
            )
            world.add_argument(
                "--markdown", action="store_true", help="print the table as Markdown"
            )
    add_anchor(worlds)
    add_evaluation(worlds)


def _add_options(bench: argparse.ArgumentParser) -> None:
    bench.add_argument("--model", default="tiny", help='"tiny" or a model folder (%(default)s)')
    bench.add_argument("--quick", action="store_true", help="few cases, to see that it all runs")
    bench.add_argument("--cases", type=int, help="per task and set of wordings (40; 1 if --quick)")
    bench.add_argument(
        "--steps", type=int, help="of drift and accelerate: steps of a run (28; 8 if --quick)"
    )
    bench.add_argument("--seed", type=int, default=0, help="of cases and noise (%(default)s)")
    bench.add_argument(
        "--out", metavar="DIR",
        help="folder for index.html, contact sheets and results.json; an older result there is "
        "replaced (kontext-bench)",
    )  # fmt: skip
    bench.add_argument("--json", action="store_true", help="print the results as JSON, no tables")
    bench.add_argument(
        "--progress", action="store_true", help="show progress even where stderr is not a terminal"
    )
    bench.add_argument("--device", default="cpu", help="cpu, cuda, mps (%(default)s)")
    bench.set_defaults(run=run)


def run(options: argparse.Namespace) -> str:
    """Measure and write the folder; tables or JSON are what to print."""
    if options.world == "strength":
        return run_strength(options)
    import json
    from dataclasses import replace

    from tqdm import tqdm

    from kontext_core.pipeline import load_pipeline

    if options.world == "drift":
        return _drift(options)
    if options.world == "accelerate":
        return _accelerate(options)
    if options.world == "few-steps":
        return _few_steps(options)
    from .plan import QUICK, BenchProgress, Settings, scaled
    from .report import check_folder, write_report
    from .run import bench
    from .tables import tables

    settings = QUICK if options.quick else Settings()
    if options.cases is not None:
        settings = scaled(settings, options.cases)
    settings = replace(settings, seed=options.seed).check()
    out = options.out or "kontext-bench"
    check_folder(out)
    pipeline = load_pipeline(options.model, device=usable_device(options.device))
    shown = options.progress or sys.stderr.isatty()
    # In evaluations of the model, give or take: judging counts as some of them.
    with tqdm(file=sys.stderr, disable=not shown, unit="ev", smoothing=0.05) as bar:

        class Printed(BenchProgress):
            def begin(self, total: int) -> None:
                bar.reset(total)

            def stage(self, name: str) -> None:
                bar.set_description(name)

            def done(self, amount: int) -> None:
                bar.update(amount)

        found = bench(pipeline, settings, str(options.model), Printed())
    folder = write_report(found, out)
    if options.json:
        return json.dumps(found.results)
    parts = [table.plain() for table in tables(found.results).values()]
    seconds = found.results["timing"]["seconds"]
    return "\n\n".join(
        [*parts, f"{seconds:.0f} s. Pictures and all figures: {folder / 'index.html'}"]
    )


def _drift(options: argparse.Namespace) -> str:
    """Measure drift and write one file."""
    import json

    from kontext_core.checks import check_whole
    from kontext_core.pipeline import load_pipeline

    from .drift_study import study, table, write

    chains, turns, steps = (2, 3, 8) if options.quick else (12, 10, 28)
    if options.cases is not None:
        chains = check_whole(options.cases, "cases", 1, 1000)
    pipeline = load_pipeline(options.model, device=usable_device(options.device))
    found = study(
        pipeline, chains=chains, turns=turns, steps=options.steps or steps, seed=options.seed
    )
    path = write(found, options.out or "drift.json")
    return json.dumps(found) if options.json else f"{table(found)}\n\nAll figures: {path}"


def _accelerate(options: argparse.Namespace) -> str:
    """Measure what saving work costs and write one file."""
    import json
    from pathlib import Path

    from tqdm import tqdm

    from kontext_core.checks import check_whole
    from kontext_core.partial import whole_file
    from kontext_core.pipeline import load_pipeline

    from .accelerate import STEPS, accelerate_cases, evaluations, study, table

    steps = check_whole(options.steps or (4 if options.quick else STEPS), "steps", 1, 1000)
    cases = accelerate_cases(options.cases or (1 if options.quick else 4), options.seed)
    if options.quick:
        cases = [cases[0], cases[-1]]
    pipeline = load_pipeline(options.model, device=usable_device(options.device))
    shown = options.progress or sys.stderr.isatty()
    total = evaluations(len(cases), steps)
    with tqdm(total=total, file=sys.stderr, disable=not shown, unit="ev") as bar:

        def tick(count: int) -> None:
            bar.update(count)

        found = study(pipeline, cases, steps=steps, tick=tick)
    results = {"model": str(options.model), "seed": options.seed, **found}
    path = Path(options.out or "accelerate.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write((json.dumps(results, indent=1) + "\n").encode())
    if options.json:
        return json.dumps(results)
    return f"{table(results).plain()}\n\nAll figures: {path}"


def _few_steps(options: argparse.Namespace) -> str:
    """Judge LoRAs for few steps and write one file."""
    import json
    from pathlib import Path

    from tqdm import tqdm

    from kontext_core.partial import whole_file
    from kontext_core.pipeline import load_pipeline

    from .few_steps import evaluations, few_step_cases, named, study, table

    loras = named(options.lora)
    cases = few_step_cases(options.cases or (1 if options.quick else 40), options.seed)
    pipeline = load_pipeline(options.model, device=usable_device(options.device))
    shown = options.progress or sys.stderr.isatty()
    total = evaluations(len(cases), len(loras))
    with tqdm(total=total, file=sys.stderr, disable=not shown, unit="ev") as bar:

        def tick(count: int) -> None:
            bar.update(count)

        found = study(pipeline, cases, loras, tick=tick)
    results = {"model": str(options.model), "seed": options.seed, **found}
    path = Path(options.out or "few_steps.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write((json.dumps(results, indent=1) + "\n").encode())
    if options.json:
        return json.dumps(results)
    shown_table = table(results)
    text = shown_table.markdown() if options.markdown else shown_table.plain()
    return f"{text}\n\nAll figures: {path}"


def run_strength(options: argparse.Namespace) -> str:
    """Measure the strength of references; a table or JSON is what to print, a sheet is written."""
    import json
    from pathlib import Path

    from tqdm import tqdm

    from kontext_core.partial import whole_file
    from kontext_core.pipeline import load_pipeline

    from .held_out import JUDGED
    from .strength import ARMS, STEPS, STRENGTHS, dose_response, sheet, strength_cases, table

    steps = 2 if options.quick else STEPS
    cases = strength_cases(options.cases or (1 if options.quick else 10), options.seed)
    pipeline = load_pipeline(options.model, device=usable_device(options.device))
    runs = len(ARMS) * len(STRENGTHS)
    total = len(cases) * ((runs + 1) * steps + runs * JUDGED)
    shown = options.progress or sys.stderr.isatty()
    with tqdm(total=total, file=sys.stderr, disable=not shown, unit="ev") as bar:

        def tick(count: int) -> None:
            bar.update(count)

        results, pictures = dose_response(pipeline, cases, steps=steps, tick=tick)
    results = {"model": str(options.model), "seed": options.seed, **results}
    folder = Path(options.out or "kontext-bench")
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / "strength.json") as file:
        file.write((json.dumps(results, indent=1) + "\n").encode())
    with whole_file(folder / "strength.png") as file:
        sheet(cases, pictures).save(file, "PNG")
    if options.json:
        return json.dumps(results)
    return f"{table(results).plain()}\n\nPictures and figures: {folder}"
