"""Command line: `python -m kontext_core edit ...` makes a picture,
`inspect FILE` tells what a weights file is, `quantize SRC DST` makes it smaller, `train-lora FOLDER`
teaches a LoRA, `session FILE` lists turns, `bench forward` measures this machine.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys

from . import __version__
from .commands.bench import add_bench
from .commands.edit import add_edit
from .commands.inspect import add_inspect
from .commands.quantize import add_quantize
from .commands.session import add_session
from .commands.train_lora import add_train_lora
from .errors import KontextError

# Commands that live elsewhere now; the old way to call them works for one release.
MOVED = {"batch": "standalone", "bench": "kontext_lab"}


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(prog="python -m kontext_core", description=__doc__)
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(dest="command", required=True)
    add_edit(commands, __version__)
    add_inspect(commands)
    add_quantize(commands)
    add_session(commands)
    add_train_lora(commands)
    add_bench(commands)
    return top


def _moved(arguments: list[str]) -> int:
    package = MOVED[arguments[0]]
    print(f"note: this is `python -m {package} {arguments[0]}` now", file=sys.stderr)
    if importlib.util.find_spec(package) is None:
        print(f"error: {package} is not installed here; run it in a checkout", file=sys.stderr)
        return 1
    return importlib.import_module(f"{package}.__main__").main(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0 when it worked, 1 after a plain message when it did not, else its own."""
    given = sys.argv[1:] if arguments is None else arguments
    if given and given[0] in MOVED and given[:2] != ["bench", "forward"]:
        return _moved(given)
    options = parser().parse_args(given)
    try:
        said = options.run(options)
    except KontextError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    try:
        print(said, flush=True)
    except BrokenPipeError:
        # `| head` has read enough. What is left must not be tried again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
