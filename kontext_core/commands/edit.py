"""`edit`: pictures and an instruction in, a picture out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..small_files import read_small_text
from .device import usable_device
from .settings import SETTINGS, recall, record

if TYPE_CHECKING:
    from torch import Tensor

    from ..accelerated import WorkReport
    from ..scoring.best import Scored


def add_edit(commands: argparse._SubParsersAction, version: str) -> None:
    """Add the command and its options; pictures carry the version they were made by."""
    edit = commands.add_parser(
        "edit",
        help="edit pictures by an instruction, or make one from words alone",
        description="Edits pictures by an instruction, or makes one from words alone. What is "
        "written carries all settings in it, and --like repeats them.",
    )
    # An option that is not given is None: it may come from --like.
    edit.add_argument(
        "--model", metavar="PATH",
        help='"tiny", a model folder, a diffusers folder, or a .safetensors or .gguf file; a file '
        "of the transformer alone needs --vae, --t5 and --clip-l too (tiny)",
    )  # fmt: skip
    edit.add_argument("--vae", metavar="FILE", help="FLUX.1's autoencoder (ae.safetensors)")
    edit.add_argument("--t5", metavar="FILE", help="T5-XXL (t5xxl_fp16.safetensors, a GGUF, ...)")
    edit.add_argument("--clip-l", metavar="FILE", help="CLIP-L (clip_l.safetensors)")
    edit.add_argument(
        "--t5-length", type=int, choices=(256, 512), metavar="256|512",
        help="tokens T5's prompt is padded to: 256 as ComfyUI, 512 as diffusers (256)",
    )  # fmt: skip
    edit.add_argument(
        "--lora", action="append", type=lora, metavar="FILE[:STRENGTH]",
        help="a LoRA's file or the name of an embedded one, at strength 1 if none is given; repeat it "
        "for several",
    )  # fmt: skip
    edit.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16", "float16"),
        help="to compute in; auto is float32 on the CPU, else bfloat16 (auto)",
    )  # fmt: skip
    edit.add_argument(
        "--eight-bit",
        help="off, int8, fp8, or auto for what the device gains by: the large layers multiply 8-bit "
        "numbers, faster and a little less exact (off)",
    )
    edit.add_argument(
        "--image", action="append", metavar="[NAME=]FILE",
        help="a reference picture; repeat it for image 1, image 2, ... With a name, the instruction "
        'may call it so: --image "the logo=logo.png"',
    )  # fmt: skip
    words = edit.add_mutually_exclusive_group()
    words.add_argument(
        "--prompt", help="the instruction; with T5 and CLIP-L (word:1.3) is a weight, with tiny "
        "brackets are text",
    )  # fmt: skip
    words.add_argument("--prompt-file", metavar="FILE", help="a text file with the instruction")
    edit.add_argument("--negative", help="what to steer away from; needs --nag or --cfg")
    edit.add_argument("--cfg", type=float, help="true guidance, 1 is off; takes twice the time (1)")
    edit.add_argument(
        "--nag", type=float, help="guidance within the attention, 1 is off, 5 suits (1)"
    )
    edit.add_argument("--seed", type=int, help="(0)")
    edit.add_argument("--steps", type=int, help="(28)")
    edit.add_argument("--guidance", type=float, help="(2.5)")
    edit.add_argument(
        "--width", type=int, help="in pixels, a multiple of 16; default: that of image 1"
    )
    edit.add_argument("--height", type=int, help="in pixels; default: that of image 1")
    edit.add_argument(
        "--fit", metavar="POLICY",
        help="how image 1 gets onto the grid: trained size, exact (its own pixels), megapixels, or "
        "custom (--width and --height, padded or cropped to) (trained size)",
    )  # fmt: skip
    edit.add_argument(
        "--other-shape", help="pad or crop, where image 1 has another shape than the grid (pad)"
    )
    edit.add_argument("--megapixels", type=float, help="for that --fit; 1 is 1024 x 1024 (1)")
    edit.add_argument("--aspect", help="of the result, such as 16:9; default: that of image 1")
    edit.add_argument(
        "--margins", type=margins, metavar="LEFT,TOP,RIGHT,BOTTOM",
        help="pixels to add beside image 1 and to paint (0,0,0,0)",
    )  # fmt: skip
    edit.add_argument("--fill", help="what is seen there before: edge, mirror or grey (edge)")
    edit.add_argument("--method", help="offset, index or uxo (offset)")
    edit.add_argument("--denoise", type=float, help="below 1 starts from image 1 (1)")
    edit.add_argument(
        "--mask", metavar="FILE",
        help="a picture of image 1's shape: white may change, all else keeps its pixels exactly",
    )  # fmt: skip
    edit.add_argument(
        "--mask-channel", help="luminance, or alpha as ComfyUI's mask editor saves (luminance)"
    )
    edit.add_argument(
        "--box", metavar="X,Y,WIDTH,HEIGHT",
        help="in pixels of image 1: only this may change, in place of --mask",
    )  # fmt: skip
    edit.add_argument(
        "--mask-mode", help="how grey in the mask is read: soft or differential (soft)"
    )
    edit.add_argument(
        "--feather", type=int, help="pixels inside the mask's edge to fade in over (0)"
    )
    edit.add_argument(
        "--match-colours", help="on corrects colours by what differs around the mask (off)"
    )
    edit.add_argument("--solver", help="euler or heun (euler)")
    edit.add_argument(
        "--accelerate",
        help="off, safe, balanced or fast: less work, at a cost in likeness; fast+8bit keeps what it "
        "reuses in 8 bits (off)",
    )
    edit.add_argument("--schedule", help="kontext, or simple as ComfyUI's KSampler (kontext)")
    edit.add_argument(
        "--sigmas", type=sigmas, metavar="LIST",
        help="noise levels in place of --steps, --schedule and --denoise, such as 1,0.6,0.3,0",
    )  # fmt: skip
    edit.add_argument(
        "--batch", type=int,
        help="how many results from one seed; they are written as NAME-1, NAME-2, ... (1)",
    )  # fmt: skip
    edit.add_argument(
        "--like", metavar="FILE",
        help="a picture that this command wrote: its settings, where no option gives others",
    )  # fmt: skip
    edit.add_argument("--device", default="cpu", help="cpu, cuda, mps (%(default)s)")
    edit.add_argument("--out", required=True, metavar="FILE", help="where to write the picture")
    edit.add_argument("--quality", type=int, help="of a .jpg, .webp or .avif, 1..100 (95)")
    edit.add_argument(
        "--best-of", type=int, metavar="N",
        help="look at N starts early, from --seed on, and finish the best, as many as --batch says (1)",
    )  # fmt: skip
    edit.add_argument(
        "--best-by", choices=("outside the mask", "like image 1", "detail"),
        help="what is best: least change outside the mask, or in all, or most detail (outside the mask)",
    )  # fmt: skip
    edit.add_argument(
        "--look", type=int, metavar="STEPS", help="after how many to look at a start (6)"
    )
    edit.add_argument(
        "--provenance", action="store_true",
        help="mark the file as made by a model, in EXIF and XMP, which sites and search engines read",
    )  # fmt: skip
    edit.set_defaults(run=run, usage_error=edit.error, version=version)


def lora(text: str) -> tuple[str, float]:
    """A LoRA's path and strength from FILE[:STRENGTH]; a path may have colons of its own."""
    path, colon, strength = text.rpartition(":")
    if not colon or not path or Path(text).exists():
        return text, 1.0
    try:
        return path, float(strength)
    except ValueError:
        return text, 1.0


def named(text: str) -> tuple[str | None, str]:
    """A picture's name, if any, and its path from [NAME=]FILE; a path may have an = of its own."""
    name, equals, path = text.partition("=")
    if not equals or not path or "/" in name or "\\" in name or Path(text).exists():
        return None, text
    return name, path


def sigmas(text: str) -> list[float]:
    """Numbers from a list with commas, brackets or not.

    Raises:
        argparse.ArgumentTypeError: something else.
    """
    try:
        return [float(value) for value in text.strip("[] ").rstrip(",").split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of numbers; write them with commas, such as 1,0.6,0.3,0"
        ) from None


def margins(text: str) -> list[int]:
    """Four pixel counts from LEFT,TOP,RIGHT,BOTTOM.

    Raises:
        ArgumentTypeError: something else.
    """
    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not four numbers of pixels, LEFT,TOP,RIGHT,BOTTOM, such as 0,0,256,0"
        )
    return [int(part) for part in parts]


def read_prompt(path: str) -> str:
    """Text of an instruction file.

    Raises:
        InputError: it can't be read as UTF-8, or holds nothing.
    """
    try:
        text = read_small_text(Path(path))
    except (OSError, ValueError) as error:
        raise InputError(f"can't read the instruction from {path} ({error})") from error
    if not text.strip():
        raise InputError(f"the instruction file {path} is empty; write the instruction into it")
    return text.strip()


def mask_of(values: dict[str, Any], images: Sequence[Tensor]) -> Tensor | None:
    """What may change of image 1, [h, w]; None for all of it.

    Raises:
        InputError: no picture for it, both ways to say it, or something else than a box.
    """
    from ..checks import check_choice
    from ..images import load_mask
    from ..masks import box_mask

    check_choice(values["match_colours"], "match_colours", ("off", "on"))
    path, box = values["mask"], values["box"]
    if path is None and box is None:
        return None
    if path is not None and box is not None:
        raise InputError(
            f"--mask {path} and --box {box} both say what may change; give one of them"
        )
    if not images:
        raise InputError("--mask and --box say what may change of image 1, but there is no --image")
    if path is not None:
        return load_mask(path, values["mask_channel"])
    try:
        left, top, width, height = (int(side) for side in str(box).split(","))
    except ValueError as error:
        raise InputError(
            f"--box is {box!r}; expected X,Y,WIDTH,HEIGHT in pixels, for example 20,40,128,96"
        ) from error
    return box_mask((left, top, width, height), images[0].shape[2], images[0].shape[1])[0]


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """Every setting: as given, else as in the picture of --like, else its default."""
    given = {name: getattr(options, name) for name in SETTINGS}
    if options.prompt_file is not None:
        given["prompt"] = read_prompt(options.prompt_file)
    like = recall(options.like) if options.like else {}
    if like and (given["width"] is None) != (given["height"] is None):
        # Half of a size is refused later; the other half of another picture would hide that.
        like = {**like, "width": None, "height": None}
    if any(given[name] is not None for name in ("steps", "schedule", "denoise")):
        like = {**like, "sigmas": None}
    values = dict(SETTINGS)
    values.update(like)
    values.update({name: value for name, value in given.items() if value is not None})
    if values["prompt"] is None:
        options.usage_error("one of --prompt, --prompt-file and --like is required")
    return values


def _names(out: str, count: int) -> list[Path]:
    """Where the results go."""
    path = Path(out)
    if count == 1:
        return [path]
    width = len(str(count))
    return [path.with_stem(f"{path.stem}-{n:0{width}}") for n in range(1, count + 1)]


def _tell(scored: Sequence[Scored]) -> None:
    """What every start got, for people, above the bar."""
    from tqdm import tqdm

    for one in scored:
        tqdm.write(f"seed {one.seed}: {one.reason or one.score}", file=sys.stderr)


def run(options: argparse.Namespace) -> str:
    """Write the pictures; their paths are what to print."""
    values = _settings(options)
    # Imported here so that --help and a wrong option answer at once.
    import torch
    from tqdm import tqdm

    from ..checks import check_whole
    from ..fit import Fit, aspect_of
    from ..images import load_image
    from ..inputs import check_instruction
    from ..names import write_numbers
    from ..pipeline import edit, load_pipeline
    from ..safety.provenance import Provenance
    from ..schedule import given_timesteps
    from ..scoring.best import BestOf
    from ..writing import check_target, save_image

    values["prompt"] = check_instruction(values["prompt"])
    check_whole(values["batch"], "batch", 1, 64)
    check_target(options.out, options.quality)
    fit = Fit(
        values["fit"],
        values["other_shape"],
        values["megapixels"],
        aspect=None if values["aspect"] is None else aspect_of(values["aspect"]),
        margins=tuple(values["margins"]),
        fill=values["fill"],
    )
    names, files = zip(*map(named, values["image"]), strict=True) if values["image"] else ((), ())
    images = [load_image(path) for path in files]
    for written, number in write_numbers(values["prompt"], names).found:
        sys.stderr.write(f"{written!r} is image {number}\n")
    mask = mask_of(values, images)
    dtype = values["dtype"]
    pipeline = load_pipeline(
        values["model"],
        vae=values["vae"],
        t5=values["t5"],
        clip_l=values["clip_l"],
        max_length=values["t5_length"],
        dtype=None if dtype == "auto" else getattr(torch, dtype),
        device=usable_device(options.device),
        eight_bit=values["eight_bit"],
    )
    passed = (
        "seed", "steps", "guidance", "width", "height", "batch", "negative", "cfg", "nag", "method",
        "denoise", "solver", "schedule", "accelerate", "mask_mode", "feather",
    )  # fmt: skip
    best = 1
    if values["best_of"] != 1:
        best = BestOf(values["best_of"], values["best_by"], values["look"], told=_tell)
    times = None if values["sigmas"] is None else given_timesteps(values["sigmas"])
    total = values["steps"] if times is None else len(times) - 1
    reports: list[WorkReport] = []
    with tqdm(desc="steps", total=max(total, 0), file=sys.stderr) as bar:

        def step(*_: object) -> None:
            bar.update()

        results = edit(
            pipeline,
            values["prompt"],
            images,
            names=names,
            timesteps=times,
            **{name: values[name] for name in passed},
            loras=[tuple(part) for part in values["lora"]],
            noise_mask=mask,
            paste_back=mask is not None,
            match_colours=values["match_colours"] == "on",
            fit=fit,
            callback=step,
            best_of=best,
            report=reports.append,
        )
    if values["accelerate"] != "off":
        sys.stderr.writelines(f"{each}\n" for each in reports)
    metadata = record(values, options.version)
    provenance = None
    if options.provenance:
        provenance = Provenance(
            f"kontext-studio {options.version}", Path(values["model"]).name, edited=bool(images)
        )
    paths = _names(options.out, len(results))
    for path, result in zip(paths, results, strict=True):
        save_image(result, path, metadata, quality=options.quality, provenance=provenance)
    return "\n".join(map(str, paths))
