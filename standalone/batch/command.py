"""`batch`: many rows through one workflow, on one or several servers."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from kontext_core.errors import InputError

if TYPE_CHECKING:
    from ..prompt import Prompt
    from .place import Place
    from .plan import PlannedRow
    from .server import Server

# Exit codes beside 0, 1 (nothing could start) and 130 (stopped).
SOME_FAILED, SOME_LEFT = 3, 4


def add_batch(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    batch = commands.add_parser(
        "batch",
        help="run a workflow for every row of a table, on running ComfyUI servers",
        description="Runs one workflow for every row of a table or picture of a folder, on one or "
        "several running servers. Run the same command again to go on after a crash or Ctrl-C: "
        "finished rows are not repeated. See docs/batch.md.",
        epilog="exit codes: 0 all rows done, 1 nothing could start, 3 some rows failed, 4 no "
        "server left, 130 stopped",
    )
    batch.add_argument(
        "workflow", type=Path, metavar="WORKFLOW",
        help="JSON file in API format (the editor's Export (API)), or a graph as saved",
    )  # fmt: skip
    batch.add_argument(
        "--rows", type=Path, required=True, metavar="FILE",
        help=".csv, .tsv, .jsonl, .json, .txt with a prompt a line, or a folder of pictures",
    )  # fmt: skip
    batch.add_argument("--output", type=Path, required=True, metavar="DIR",
                       help="folder for the results and manifest.jsonl")  # fmt: skip
    batch.add_argument(
        "--server", action="append", default=[], metavar="URL",
        help="a running server; repeat it for several (http://127.0.0.1:8188)",
    )  # fmt: skip
    batch.add_argument("--images", type=Path, metavar="DIR",
                       help="folder of the pictures that rows name (that of the rows)")  # fmt: skip
    batch.add_argument(
        "--set", action="append", default=[], dest="common", metavar="COLUMN=VALUE",
        help="a column with the same value in all rows that have none of their own",
    )  # fmt: skip
    batch.add_argument(
        "--seed", default="keep", type=_seed, metavar="keep|random|N",
        help="for rows without one: that of the workflow, a random one, or N, N+1, ... (keep)",
    )  # fmt: skip
    batch.add_argument("--depth", type=_count, default=2, metavar="N",
                       help="rows a server has at a time, so that it never waits (%(default)s)")  # fmt: skip
    batch.add_argument("--retries", type=_count, default=3, metavar="N",
                       help="how often a row may be lost with its server (%(default)s)")  # fmt: skip
    batch.add_argument(
        "--patience", type=float, default=60.0, metavar="SECONDS",
        help="silence after which a server is taken for lost, and after which the batch ends when "
        "none is left (%(default)s)",
    )  # fmt: skip
    batch.add_argument(
        "--ray", nargs="?", const="", metavar="ADDRESS",
        help="instead of servers: workers on a Ray cluster (auto, ray://host:10001), or on one "
        "started here; needs pip install ray",
    )  # fmt: skip
    batch.add_argument("--ray-workers", type=_count, default=0, metavar="N",
                       help="how many; 0 takes one for each GPU (%(default)s)")  # fmt: skip
    batch.add_argument("--models", metavar="DIR", help="folder of models of Ray workers, laid out "
                       "as ComfyUI's (models of the checkout)")  # fmt: skip
    batch.add_argument("--dry-run", action="store_true", help="only show what would run")
    batch.add_argument("--json", action="store_true", help="print the result as JSON")
    batch.add_argument("--quiet", action="store_true", help="no progress bar, no row messages")
    batch.set_defaults(run=run, log_format="%(message)s")


def _seed(text: str) -> str:
    if text in ("keep", "random") or text.isdecimal():
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is not keep, random or a whole number from 0")


def _count(text: str) -> int:
    if text.isdecimal() and int(text) <= 1000:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 1000")


def run(options: argparse.Namespace) -> tuple[str, int]:
    """Run all rows; what to print, and the exit code."""
    from kontext_core.tables.rows import read_rows

    from ..convert import read_workflow
    from .columns import Columns
    from .plan import apply_seed, make_jobs
    from .report import planned_json, planned_text

    if options.depth < 1:
        raise InputError("--depth is 0; expected at least 1 row a server")
    servers = _servers(options)
    rows = read_rows(options.rows)
    data = read_workflow(options.workflow)
    prompt = _prompt(data, servers)
    columns = Columns(prompt)
    folder = options.images or (options.rows if options.rows.is_dir() else options.rows.parent)
    jobs = make_jobs(rows, columns, folder, _common(options.common), options.seed)
    if options.dry_run:
        for job in jobs:
            apply_seed(job, options.seed, "dry run")
        shown = planned_json(jobs, columns) if options.json else planned_text(jobs, columns)
        return shown, SOME_FAILED if any(job.problem for job in jobs) else 0
    return _run(jobs, prompt, servers, options)


def _common(words: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for word in words:
        column, equals, value = word.partition("=")
        if not equals or not column.strip():
            raise InputError(f"--set is {word!r}; expected COLUMN=VALUE, such as steps=12")
        found[column.strip()] = value
    return found


def _servers(options: argparse.Namespace) -> list[Server]:
    from .client import Client
    from .server import Server

    clients = [Client(url) for url in options.server or ["http://127.0.0.1:8188"]]
    unique = {client.url: client for client in clients}
    return [Server(client, options.patience) for client in unique.values()]


def _prompt(data: Any, servers: list[Server]) -> Prompt:
    from ..convert import to_prompt
    from .client import Unreachable

    @functools.cache
    def there() -> Server:
        return next((server for server in servers if server.answers()), servers[0])

    try:
        return to_prompt(data, lambda kind: there().client.node(kind))
    except Unreachable as error:
        raise InputError(
            f"a workflow in the editor's format needs a server to be read, and none answers "
            f"({error}); start one, or save the workflow with the editor's Export (API)"
        ) from error


def _usable(servers: list[Server], prompt: Prompt, log: logging.Logger) -> list[Server]:
    """The servers that have all the workflow's nodes. One that is away may yet come.

    Raises:
        InputError: none answers, or none has the nodes.
    """
    from .client import Unreachable

    usable, reasons = [], []
    answered = False
    for server in servers:
        try:
            missing = server.missing(prompt)
        except Unreachable as error:
            reasons.append(str(error))
            usable.append(server)
            continue
        if missing:
            reasons.append(f"{server.name} has no node {', '.join(missing)}")
            continue
        answered = True
        usable.append(server)
    if not answered:
        raise InputError(
            f"no server can run this workflow: {'; '.join(reasons)}. Start ComfyUI with the pack, "
            "or name others with --server"
        )
    for reason in reasons:
        log.warning("%s", reason)
    return usable


def _run(
    jobs: list[PlannedRow], prompt: Prompt, servers: list[Server], options: argparse.Namespace
) -> tuple[str, int]:
    with _places(prompt, servers, options) as places:
        return _run_on(places, jobs, options)


@contextlib.contextmanager
def _places(
    prompt: Prompt, servers: list[Server], options: argparse.Namespace
) -> Iterator[Sequence[Place]]:
    if options.ray is None:
        yield _usable(servers, prompt, logging.getLogger(__name__))
        return
    from .cluster import Cluster

    if options.server:
        raise InputError("--ray and --server are both given; rows run on one or the other")
    # Ray prints what happens to its workers to where `--json` belongs.
    with contextlib.redirect_stdout(sys.stderr):
        with Cluster(options.ray, options.ray_workers, options.models) as workers:
            yield workers


def _run_on(
    places: Sequence[Place], jobs: list[PlannedRow], options: argparse.Namespace
) -> tuple[str, int]:
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    from .journal import Journal
    from .plan import apply_seed
    from .report import as_json, as_text, counts, stopped_text
    from .runner import Runner
    from .store import Store

    with Journal(options.output) as journal:
        for job in jobs:
            apply_seed(job, options.seed, journal.nonce)
        journal.write(
            "begin", version=1, nonce=journal.nonce, workflow=options.workflow.name,
            rows=len(jobs), servers=[place.name for place in places],
        )  # fmt: skip
        store = Store(options.output)
        hidden = options.quiet or not sys.stderr.isatty()
        with tqdm(total=len(jobs), unit="row", file=sys.stderr, disable=hidden) as bar:

            def tell(event: str, job: PlannedRow, text: str) -> None:
                if event != "retry":
                    bar.update()
                if event in ("failed", "retry") and not options.quiet:
                    words = f"row {job.row.number} ({job.row.name}) {event}: {text}"
                    tqdm.write(words, file=sys.stderr)

            runner = Runner(
                jobs, places, journal, store, depth=options.depth, retries=options.retries,
                patience=options.patience, tell=tell,
            )  # fmt: skip
            with logging_redirect_tqdm(), _Terminated():
                try:
                    runner.run()
                except KeyboardInterrupt:
                    if not options.quiet:
                        tqdm.write(stopped_text(runner.finish()), file=sys.stderr)
                    raise
                finally:
                    store.close()
        summary = runner.finish()
        journal.write("end", **counts(summary))
    code = SOME_LEFT if summary.left else SOME_FAILED if summary.failed else 0
    if options.json:
        return json.dumps(as_json(summary, journal.path), indent=2), code
    return as_text(summary, journal.path), code


class _Terminated:
    """While in it, a polite kill is the same as Ctrl-C."""

    def __enter__(self) -> None:
        def stop(number: int, frame: FrameType | None) -> None:
            raise KeyboardInterrupt

        try:
            self._before = signal.signal(signal.SIGTERM, stop)
        except ValueError:
            # Signals belong to the main thread; a caller in another looks after itself.
            self._before = None

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
