"""The commands: `python -m standalone run FILE` executes a workflow, `serve` opens the editor, and
`batch WORKFLOW` runs one for every row of a table, here or on running servers.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from pathlib import Path

from kontext_core.errors import KontextError

from . import runtime
from .batch.command import add_batch
from .errors import Interrupted
from .folders import Folders
from .loader import Registry, install_host, load_pack, pack_root

# As in the editor's template browser, whatever the checkout's folder is called.
PACK_NAME = "kontext-studio"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m standalone", description="Runs the pack's workflows without ComfyUI."
    )
    parser.add_argument("--verbose", action="store_true", help="say more while working")
    parser.set_defaults(log_format="%(levelname)s %(name)s: %(message)s")
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", help="run a workflow file, API or UI format")
    run.add_argument("file", type=Path, help="the workflow's JSON file")
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NODE.INPUT=VALUE",
        dest="changes",
        help="change an input; NODE is an id or a title, VALUE may be @FILE to read a text",
    )
    run.add_argument("--output", type=Path, help="folder for the results (default: output)")
    run.add_argument("--input", type=Path, help="folder with pictures (default: input)")
    run.add_argument("--models", type=Path, help="folder with model files (default: models)")
    run.add_argument("--sheet", type=Path, help="also write one picture: inputs, words, result")
    run.add_argument("--quiet", action="store_true", help="no progress bar")
    run.set_defaults(run=_run)

    serve = commands.add_parser("serve", help="serve the graph editor")
    serve.add_argument("--port", type=int, default=8188)
    serve.add_argument(
        "--listen",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="0.0.0.0 lets everyone in the network use the server: it has no passwords",
    )
    serve.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="also answer to this name (studio.lan), or to pages of an origin (https://studio.lan)",
    )
    serve.add_argument(
        "--max-picture-mb",
        type=int,
        metavar="MIB",
        help="how large pictures may be, decoded (default: KONTEXT_MAX_PICTURE_MB, or 1536)",
    )
    serve.add_argument("--front-end-root", type=Path, help="folder of another graph editor")
    serve.add_argument(
        "--base-directory", type=Path, help="where input, output, temp, user and models lie"
    )
    serve.set_defaults(run=_serve)

    add_batch(commands)
    return parser


def _registry(folders: Folders) -> tuple[Registry, runtime.Runtime]:
    from .plain import PLAIN_NODES

    state = runtime.Runtime(folders)
    runtime.install(state)
    registry = Registry(dict(PLAIN_NODES))
    pack = load_pack(pack_root(), PACK_NAME)
    install_host(pack, state)
    registry.add(pack)
    return registry, state


def _serve(options: argparse.Namespace) -> tuple[str, int]:
    from kontext_core.reading import LIMIT_VARIABLE, max_pixels

    from .server.app import build_app, find_frontend, open_port, serve
    from .server.origin import Gate, is_loopback

    if options.max_picture_mb is not None:
        os.environ[LIMIT_VARIABLE] = str(options.max_picture_mb)
    max_pixels()
    gate = Gate(options.listen, options.allow_host)
    root = pack_root()
    folders = Folders.below(options.base_directory or root, samples=root / "workflows" / "input")
    frontend = find_frontend(options.front_end_root)
    opened = open_port(options.listen, options.port)
    registry, state = _registry(folders)
    app = build_app(registry, state, frontend, gate)

    def ready(url: str, outside: str | None) -> None:
        if not is_loopback(opened.getsockname()[0]):
            print(
                f"warning: listening on {options.listen}: everyone who reaches this machine can use "
                "the server, see its pictures and write into its folders; it has no passwords",
                file=sys.stderr,
            )
        if outside is not None:
            print(f"From other machines: {outside}")
        print(f"Graph editor: {url}   (Ctrl-C stops it)")
        template = f"{url}/?template=two_references&source={PACK_NAME}"
        print(f"With the two-reference graph open: {template}", flush=True)

    asyncio.run(serve(app, opened, ready))
    return "", 0


def _run(options: argparse.Namespace) -> tuple[str, int]:
    from .run import run_file

    root = pack_root()
    base = Folders.below(root, samples=root / "workflows" / "input")
    folders = Folders(
        input=options.input or base.input,
        output=options.output or base.output,
        temp=base.temp,
        user=base.user,
        models=options.models or base.models,
        samples=base.samples,
    )
    registry, state = _registry(folders)
    written = run_file(
        options.file,
        registry.nodes,
        state,
        changes=options.changes,
        sheet=options.sheet,
        progress=not options.quiet,
    )
    return "\n".join(map(str, written)), 0


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; 0 when it worked, 1 after a plain message, 130 stopped, else its own."""
    options = _parser().parse_args(arguments)
    level = logging.DEBUG if options.verbose else logging.WARNING
    logging.basicConfig(level=level, format=options.log_format)
    try:
        text, code = options.run(options)
    except KontextError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, Interrupted):
        print("stopped", file=sys.stderr)
        return 130
    if text:
        print(text)
    return code


if __name__ == "__main__":
    sys.exit(main())
