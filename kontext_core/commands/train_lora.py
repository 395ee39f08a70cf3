"""`train-lora`: a folder of examples in, a LoRA out."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .device import usable_device

if TYPE_CHECKING:
    from ..finetune import Codecs, TrainProgress, TrainSettings
    from ..models.flux import Flux


def add_train_lora(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    train = commands.add_parser(
        "train-lora",
        help="train a LoRA on a folder of references, instructions and targets",
        description="Trains a LoRA. FOLDER holds NAME_target.png, NAME_ref1.png, ... and NAME.txt, or "
        "the folders target and reference, or a metadata.jsonl; docs/lora.md has all of it. Stopped "
        "by Ctrl-C or killed, it goes on with --resume.",
    )
    train.add_argument("folder", metavar="FOLDER", help="the examples, or a table of them")
    train.add_argument("--out", required=True, metavar="FILE", help="the LoRA, a .safetensors file")
    train.add_argument(
        "--run",
        dest="run_folder",
        metavar="DIR",
        help="log, state and samples (FILE without ending)",
    )
    train.add_argument("--resume", action="store_true", help="go on with the run that is there")
    train.add_argument(
        "--model", default="tiny", metavar="PATH",
        help='"tiny", or any transformer that loads, GGUF and fp8 too (%(default)s)',
    )  # fmt: skip
    train.add_argument(
        "--vae", metavar="FILE", help="FLUX.1's autoencoder, for a model that is a file"
    )
    train.add_argument("--t5", metavar="FILE", help="T5-XXL, likewise")
    train.add_argument("--clip-l", metavar="FILE", help="CLIP-L, likewise")
    train.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto",
        help="to compute in; auto is float32 on the CPU, else bfloat16 (%(default)s)",
    )  # fmt: skip
    train.add_argument("--device", default="cpu", help="cpu, cuda (%(default)s)")
    train.add_argument("--steps", type=int, default=1000, help="(%(default)s)")
    train.add_argument("--batch", type=int, default=1, help="examples of a step (%(default)s)")
    train.add_argument("--rank", type=int, default=16, help="(%(default)s)")
    train.add_argument("--alpha", type=float, help="scaled by alpha / rank (the rank)")
    train.add_argument(
        "--targets", default="blocks",
        help='layers: attention, blocks, "blocks and modulation", or patterns (%(default)s)',
    )  # fmt: skip
    train.add_argument("--rate", type=float, default=1e-4, help="learning rate (%(default)s)")
    train.add_argument("--schedule", default="constant", help="constant or cosine (%(default)s)")
    train.add_argument("--warmup", type=int, default=20, help="steps (%(default)s)")
    train.add_argument("--weight-decay", type=float, default=0.01, help="(%(default)s)")
    train.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    train.add_argument("--caption-dropout", type=float, default=0.05, help="(%(default)s)")
    train.add_argument("--reference-dropout", type=float, default=0.0, help="(%(default)s)")
    train.add_argument(
        "--guidance", type=float, default=1.0, help="fed while training (%(default)s)"
    )
    train.add_argument("--method", default="offset", help="places of references (%(default)s)")
    train.add_argument(
        "--megapixels", type=float, help="size to train at; 0.25 is 512 x 512 (the model's own)"
    )
    train.add_argument(
        "--cache", choices=("disk", "memory"), default="disk",
        help="where latents and texts are kept (%(default)s)",
    )  # fmt: skip
    train.add_argument("--naming", default="kohya", help="kohya or diffusers (%(default)s)")
    train.add_argument("--save-every", type=int, default=200, help="steps (%(default)s)")
    train.add_argument(
        "--sample-every", type=int, default=0, help="steps, 0 is never (%(default)s)"
    )
    train.add_argument("--samples", type=int, default=2, help="examples to paint (%(default)s)")
    train.add_argument(
        "--keep-activations", action="store_true",
        help="no gradient checkpointing: faster by a third, much more memory",
    )  # fmt: skip
    train.set_defaults(run=run)


def run(options: argparse.Namespace) -> str:
    """Train; where the LoRA is, and how far it got."""
    # Imported here so that --help and a wrong option answer at once.
    from tqdm import tqdm

    from ..errors import InputError
    from ..finetune import EncodedStore, read_examples, train_lora
    from ..finetune.state import NAME
    from ..writing import check_folder

    settings = _settings(options)
    out = Path(options.out).expanduser()
    if out.suffix != ".safetensors":
        raise InputError(f"--out is {out}; expected a name that ends in .safetensors")
    place = Path(options.run_folder).expanduser() if options.run_folder else out.with_suffix("")
    there = (place / NAME).exists()
    if there and not options.resume:
        raise InputError(
            f"there is a training in {place} already; add --resume to go on with it, or give another "
            "--out or --run"
        )
    check_folder(place)
    device = usable_device(options.device)
    examples = read_examples(options.folder)
    flux = _model(options)
    store = EncodedStore(place / "cache" if options.cache == "disk" else None)
    encoded, empty, codecs = _encoded(options, settings, examples, flux, store, device)
    flux.to(device)
    stop: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: _asked(stop, before))
    try:
        with tqdm(total=settings.steps, desc=out.name, unit=" steps", file=sys.stderr) as bar:

            def told(progress: TrainProgress) -> None:
                bar.n = progress.step
                bar.set_postfix(loss=f"{progress.loss:.4f}", refresh=False)
                bar.update(0)

            done = train_lora(
                flux, encoded, empty, settings, out, run=place, naming=options.naming,
                resume=options.resume, save_every=options.save_every,
                sample_every=options.sample_every,
                samples=encoded[: options.samples], decode=codecs.decode,
                callback=told, should_stop=lambda: bool(stop),
            )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)
    if not done.finished:
        return f"{done.path}: stopped after {done.step} of {done.steps} steps; go on with --resume"
    return str(done.path)


def _asked(stop: list[int], before: Any) -> None:
    """The first Ctrl-C ends the step and writes the state, a second one ends at once."""
    stop.append(1)
    signal.signal(signal.SIGINT, before)


def _settings(options: argparse.Namespace) -> TrainSettings:
    from ..finetune import TrainSettings

    return TrainSettings(
        steps=options.steps, rank=options.rank, alpha=options.alpha, targets=options.targets,
        learning_rate=options.rate, schedule=options.schedule, warmup=options.warmup,
        weight_decay=options.weight_decay, batch=options.batch, seed=options.seed,
        caption_dropout=options.caption_dropout, reference_dropout=options.reference_dropout,
        guidance=options.guidance, method=options.method, megapixels=options.megapixels,
        checkpointing=not options.keep_activations,
    )  # fmt: skip


def _dtype(options: argparse.Namespace) -> Any:
    import torch

    from ..weights.install import default_dtype

    named = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    return named.get(options.dtype, default_dtype(usable_device(options.device)))


def _model(options: argparse.Namespace) -> Flux:
    from ..weights.load import load_model

    # Mapped from its file: nothing of it is on the device while texts and pictures are encoded.
    return load_model(options.model, dtype=_dtype(options))


def _encoded(
    options: argparse.Namespace, settings: TrainSettings, examples: Any, flux: Flux, store: Any,
    device: Any,
) -> tuple[Any, Any, Codecs]:  # fmt: skip
    """Everything in latents; of the networks that encode, only the autoencoder stays, for samples."""
    from tqdm import tqdm

    from ..finetune import codecs_of, encode_examples
    from ..pipeline import Pipeline
    from ..weights.load import load_autoencoder, load_text_encoders

    texts = load_text_encoders(
        options.t5 or options.model, options.clip_l, dtype=_dtype(options), device=device
    )
    autoencoder = load_autoencoder(
        options.vae or options.model, dtype=_dtype(options), device=device
    )
    codecs = codecs_of(Pipeline(flux, autoencoder, texts))
    with tqdm(total=len(examples), desc="encoding", unit=" examples", file=sys.stderr) as bar:
        encoded, empty = encode_examples(
            examples, codecs, flux.resolutions, megapixels=settings.megapixels, store=store,
            dtype=flux.dtype, progress=lambda done, total: _moved(bar, done),
        )  # fmt: skip
    # Freed before the transformer comes to the device.
    texts.to("meta")
    return encoded, empty, codecs


def _moved(bar: Any, done: int) -> None:
    bar.update(done - bar.n)
