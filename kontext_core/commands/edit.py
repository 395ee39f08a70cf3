"""`edit`: pictures and an instruction in, a picture out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..errors import InputError
from .device import usable_device

__all__ = ["add_edit"]


def add_edit(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    edit = commands.add_parser(
        "edit", help="edit pictures by an instruction, or make one from words alone"
    )
    edit.add_argument("--model", default="tiny", help='"tiny" or a model folder (%(default)s)')
    edit.add_argument(
        "--image", action="append", default=[], metavar="FILE",
        help="a reference picture; repeat it for image 1, image 2, ...",
    )  # fmt: skip
    words = edit.add_mutually_exclusive_group(required=True)
    words.add_argument("--prompt", help="the instruction")
    words.add_argument("--prompt-file", metavar="FILE", help="a text file with the instruction")
    edit.add_argument("--negative", help="what to steer away from; needs --cfg above 1")
    edit.add_argument(
        "--cfg", type=float, default=1.0, help="true guidance, 1 is off (%(default)s)"
    )
    edit.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    edit.add_argument("--steps", type=int, default=28, help="(%(default)s)")
    edit.add_argument("--guidance", type=float, default=2.5, help="(%(default)s)")
    edit.add_argument("--width", type=int, help="in pixels; default: that of image 1")
    edit.add_argument("--height", type=int, help="in pixels; default: that of image 1")
    edit.add_argument("--method", default="offset", help="offset, index or uxo (%(default)s)")
    edit.add_argument("--denoise", type=float, default=1.0, help="below 1 starts from image 1")
    edit.add_argument("--solver", default="euler", help="euler or heun (%(default)s)")
    edit.add_argument("--device", default="cpu", help="cpu, cuda, mps (%(default)s)")
    edit.add_argument("--out", required=True, metavar="FILE", help="where to write the picture")
    edit.set_defaults(run=run)


def read_prompt(path: str) -> str:
    """Text of an instruction file.

    Raises:
        InputError: it can't be read as UTF-8, or holds nothing.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"can't read the instruction from {path} ({error})") from error
    if not text.strip():
        raise InputError(f"the instruction file {path} is empty; write the instruction into it")
    return text.strip()


def run(options: argparse.Namespace) -> str:
    """Write the picture; its path is what to print."""
    # Imported here so that --help and a wrong option answer at once.
    from tqdm import tqdm

    from ..images import load_image, save_image
    from ..pipeline import check_instruction, edit, load_pipeline

    prompt = options.prompt if options.prompt is not None else read_prompt(options.prompt_file)
    check_instruction(prompt)
    images = [load_image(path) for path in options.image]
    pipeline = load_pipeline(options.model, device=usable_device(options.device))
    with tqdm(desc="steps", total=max(options.steps, 0), file=sys.stderr) as bar:

        def step(*_: object) -> None:
            bar.update()

        result = edit(
            pipeline,
            prompt,
            images,
            seed=options.seed,
            steps=options.steps,
            guidance=options.guidance,
            width=options.width,
            height=options.height,
            negative=options.negative,
            cfg=options.cfg,
            method=options.method,
            denoise=options.denoise,
            solver=options.solver,
            callback=step,
        )
    path = save_image(result, options.out, {"prompt": prompt, "seed": str(options.seed)})
    return str(path)
