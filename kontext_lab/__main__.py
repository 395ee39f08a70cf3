"""Command line: `python -m kontext_lab bench tiny` measures a model of the drawn world,
`train PART` runs one of the recipes that made the embedded one.
"""

from __future__ import annotations

import argparse
import importlib
import sys

from kontext_core import __version__
from kontext_core.errors import KontextError

from .bench.command import add_bench

# What `train` calls a recipe, and its module; kontext_lab/recipes/README.md has them in order.
RECIPES = {
    "pca": "fit_pca",
    "autoencoder": "train_autoencoder",
    "text": "train_text",
    "flux": "train_flux",
    "distill": "distill",
    "ladd": "ladd",
    "export": "export",
    "curves": "curves",
    "guidance": "compare_guidance",
    "report": "write_report",
    "lora-demo": "lora_demo",
}


def _train(options: argparse.Namespace) -> str:
    module = importlib.import_module(f".recipes.{RECIPES[options.part]}", __package__)
    module.main(options.rest)
    return ""


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(prog="python -m kontext_lab", description=__doc__)
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(dest="command", required=True)
    add_bench(commands)
    train = commands.add_parser(
        "train", help="run a recipe", description="Runs one part of the recipe; PART --help tells "
        "its options, kontext_lab/recipes/README.md the order.", add_help=False,
    )  # fmt: skip
    train.add_argument("part", choices=RECIPES)
    train.add_argument("rest", nargs=argparse.REMAINDER, help="options of the part")
    train.set_defaults(run=_train)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0 when it worked, 1 after a plain message when it did not."""
    options = parser().parse_args(arguments)
    try:
        text = options.run(options)
    except KontextError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    if text:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
