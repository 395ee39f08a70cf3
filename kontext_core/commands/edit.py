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
    edit.add_argument(
        "--model", default="tiny", metavar="PATH",
        help='"tiny", a model folder, a diffusers folder, or a .safetensors or .gguf file; a file '
        "of the transformer alone needs --vae, --t5 and --clip-l too (%(default)s)",
    )  # fmt: skip
    edit.add_argument("--vae", metavar="FILE", help="FLUX.1's autoencoder (ae.safetensors)")
    edit.add_argument("--t5", metavar="FILE", help="T5-XXL (t5xxl_fp16.safetensors, a GGUF, ...)")
    edit.add_argument("--clip-l", metavar="FILE", help="CLIP-L (clip_l.safetensors)")
    edit.add_argument(
        "--t5-length", type=int, default=256, choices=(256, 512), metavar="256|512",
        help="tokens T5's prompt is padded to: 256 as ComfyUI, 512 as diffusers (%(default)s)",
    )  # fmt: skip
    edit.add_argument(
        "--lora", action="append", default=[], type=lora, metavar="FILE[:STRENGTH]",
        help="a LoRA, at strength 1 if none is given; repeat it for several",
    )  # fmt: skip
    edit.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto",
        help="to compute in; auto is float32 on the CPU, else bfloat16 (%(default)s)",
    )  # fmt: skip
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


def lora(text: str) -> tuple[str, float]:
    """A LoRA's path and strength from FILE[:STRENGTH]; a path may have colons of its own."""
    path, colon, strength = text.rpartition(":")
    if not colon or not path or Path(text).exists():
        return text, 1.0
    try:
        return path, float(strength)
    except ValueError:
        return text, 1.0


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
    import torch
    from tqdm import tqdm

    from ..images import load_image, save_image
    from ..pipeline import check_instruction, edit, load_pipeline

    prompt = options.prompt if options.prompt is not None else read_prompt(options.prompt_file)
    check_instruction(prompt)
    images = [load_image(path) for path in options.image]
    pipeline = load_pipeline(
        options.model,
        vae=options.vae,
        t5=options.t5,
        clip_l=options.clip_l,
        max_length=options.t5_length,
        dtype=None if options.dtype == "auto" else getattr(torch, options.dtype),
        device=usable_device(options.device),
    )
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
            loras=options.lora,
            callback=step,
        )
    path = save_image(result, options.out, {"prompt": prompt, "seed": str(options.seed)})
    return str(path)
