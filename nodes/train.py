"""Kontext: Train LoRA: a folder of examples to a LoRA, with its curve and pictures while it learns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..kontext_core.errors import Cancelled, InputError, KontextError
from .batch_rows import find_rows
from .host import counter, get_host
from .native import require_vae, resolutions_of
from .native.lora import add_lora
from .native.training import training_network
from .notes import output
from .sampler import check_model
from .schema import make, widget
from .training import Panel, lora_paths

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from ..kontext_core.finetune import Codecs, TrainSettings

# As `kontext_core.finetune` has them.
TARGETS = ("blocks", "attention", "blocks and modulation")
SCHEDULES = ("constant", "cosine")
NAMINGS = ("kohya", "diffusers")
GOING_ON = ("go on", "start anew")


class KontextTrainLora(io.ComfyNode):
    """Examples to a LoRA, and a MODEL with it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            node_id="KontextTrainLora",
            display_name="Kontext: Train LoRA",
            description="Learns from a folder of references, instructions and wanted pictures, and "
            "writes a LoRA into models/loras. Stop it whenever you like: the next run goes on where it "
            "was.",
            search_aliases=["kontext", "lora", "train", "finetune", "fine-tune", "learn", "dreambooth"],
            is_output_node=True,
            has_intermediate_output=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="From Kontext: Load Model, in any format, GGUF and fp8 too. LoRAs of "
                    "Kontext: Load LoRA on it stay beneath what is learned.",
                ),
                io.Clip.Input("clip", tooltip="The text encoders of the model. They learn nothing."),
                io.Vae.Input("vae", tooltip="The autoencoder of the model."),
                io.String.Input(
                    "dataset",
                    default="",
                    tooltip="A folder of the input folder with NAME_target.png, NAME_ref1.png, ... and "
                    "NAME.txt; or with the folders target and reference; or with a metadata.jsonl. "
                    "Checked as a whole before anything starts.",
                ),
                io.String.Input(
                    "name",
                    default="my_lora",
                    tooltip="Of the file in models/loras, subfolders with /. A training of that name is "
                    "gone on with.",
                ),
                io.Int.Input(
                    "steps", default=1000, min=1, max=1_000_000,
                    tooltip="Of the whole training. More later, with a constant rate, goes on.",
                ),
                io.Int.Input(
                    "batch", default=1, min=1, max=64,
                    tooltip="Examples of a step: smoother, and as much slower.",
                ),
                io.Int.Input(
                    "rank", default=16, min=1, max=256,
                    tooltip="Size of the LoRA: 8 to 32 for most things.",
                ),
                io.Float.Input(
                    "learning_rate", default=1e-4, min=0.0, max=0.1, step=1e-5, round=1e-6,
                    tooltip="0.0001 suits FLUX.1; the embedded model takes 0.001.",
                ),
                io.Int.Input(
                    # Not "seed": editors change one of that name after every run.
                    "training_seed", default=0, min=0, max=2**63 - 1,
                    tooltip="Of first weights, order, noise and dropout; the same seed is the same run.",
                ),
                io.Int.Input(
                    "sample_every", default=100, min=0, max=100_000,
                    tooltip="Paint sample pictures after so many steps; 0 is never.",
                ),
                io.Combo.Input(
                    "resume",
                    options=list(GOING_ON),
                    default=GOING_ON[0],
                    tooltip="go on: where a training of this name was stopped. start anew: forget it.",
                ),
                widget(
                    io.Int, "samples", default=2, min=1, max=8, optional=True, advanced=True,
                    tooltip="How many of the examples to paint, from the first.",
                ),
                widget(
                    io.Int, "save_every", default=200, min=0, max=100_000, optional=True,
                    advanced=True,
                    tooltip="Steps between two states that a crash goes back to; 0 only at the end.",
                ),
                widget(
                    io.Combo, "targets", options=list(TARGETS), default=TARGETS[0], optional=True,
                    advanced=True,
                    tooltip="Which layers learn. attention: fewer. modulation: also what time and "
                    "guidance do.",
                ),
                widget(
                    io.Float, "alpha", default=0.0, min=0.0, max=1024.0, step=1.0, optional=True,
                    advanced=True,
                    tooltip="The LoRA is scaled by alpha / rank. 0 takes the rank.",
                ),
                widget(
                    io.Combo, "schedule", options=list(SCHEDULES), default=SCHEDULES[0],
                    optional=True, advanced=True,
                    tooltip="cosine lets the learning rate fall to zero at the last step: cleaner, but "
                    "it can't be made longer afterwards.",
                ),
                widget(
                    io.Float, "megapixels", default=0.0, min=0.0, max=4.0, step=0.05, optional=True,
                    advanced=True,
                    tooltip="Size to train at, in millions of pixels; 0.25 is 512 x 512. 0: the sizes "
                    "the model was trained at.",
                ),
                widget(
                    io.Float, "caption_dropout", default=0.05, min=0.0, max=1.0, step=0.01,
                    optional=True, advanced=True,
                    tooltip="Share of examples that are shown without their instruction.",
                ),
                widget(
                    io.Float, "reference_dropout", default=0.0, min=0.0, max=1.0, step=0.01,
                    optional=True, advanced=True,
                    tooltip="Share of examples that are shown without their references.",
                ),
                widget(
                    io.Float, "guidance", default=1.0, min=0.0, max=100.0, step=0.1, optional=True,
                    advanced=True,
                    tooltip="Guidance value that the model is given while it learns; 1 is usual.",
                ),
                widget(
                    io.Combo, "naming", options=list(NAMINGS), default=NAMINGS[0], optional=True,
                    advanced=True,
                    tooltip="Names in the file. Both load here and in ComfyUI; diffusers for Python "
                    "programs.",
                ),
                widget(
                    io.Boolean, "checkpointing", default=True, optional=True, advanced=True,
                    tooltip="Forget what blocks computed and compute it again: much less memory for a "
                    "third more time.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    "patched", display_name="MODEL", tooltip="The model with the trained LoRA on it."
                ),
                io.AnyType.Output(
                    "written",
                    display_name="name",
                    tooltip="Name of the file, for the lora_file of Kontext: Load LoRA.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, dataset: str | None = None, name: str | None = None) -> bool | str:
        """Says before the run what is missing; linked inputs are judged later."""
        try:
            if dataset is not None:
                _folder(dataset)
            if name is not None:
                lora_paths(name)
        except KontextError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(
        cls, dataset: str | None = None, name: str | None = None, **_: object
    ) -> str:
        """Runs again when an example was changed, or the LoRA taken away."""
        try:
            folder = _folder(dataset or "")
            path = lora_paths(name or "")[1]
        except KontextError:
            return ""
        place = folder if folder.is_dir() else folder.parent
        times = [file.stat().st_mtime_ns for file in place.rglob("*") if file.is_file()]
        return f"{len(times)} {max(times, default=0)} {path.exists()}"

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        dataset: str,
        name: str,
        steps: int,
        batch: int,
        rank: int,
        learning_rate: float,
        training_seed: int,
        sample_every: int,
        resume: str,
        samples: int = 2,
        save_every: int = 200,
        targets: str = TARGETS[0],
        alpha: float = 0.0,
        schedule: str = SCHEDULES[0],
        megapixels: float = 0.0,
        caption_dropout: float = 0.05,
        reference_dropout: float = 0.0,
        guidance: float = 1.0,
        naming: str = NAMINGS[0],
        checkpointing: bool = True,
    ) -> io.NodeOutput:
        from ..kontext_core.finetune import TrainSettings, read_examples
        from ..kontext_core.lora.load import load_lora

        written, path, run = lora_paths(name)
        settings = TrainSettings(
            steps=steps, batch=batch, rank=rank, alpha=alpha or None, targets=targets,
            learning_rate=learning_rate, schedule=schedule, seed=training_seed, guidance=guidance,
            caption_dropout=caption_dropout, reference_dropout=reference_dropout,
            megapixels=megapixels or None, checkpointing=checkpointing,
        )  # fmt: skip
        model, vae = check_model(model), require_vae(vae)
        examples = read_examples(_folder(dataset))
        panel = Panel(str(getattr(cls.hidden, "unique_id", None)), steps)
        done = _train(
            model, (clip, vae), examples, settings, (path, run), panel, naming=naming,
            resume=resume == GOING_ON[0], save_every=save_every, sample_every=sample_every,
            samples=samples,
        )  # fmt: skip
        patched, report, notes = add_lora(model, load_lora(path), 1.0)
        told = [
            f"{written}: {done.step} steps on {len(examples)} examples"
            + (f", {done.first} of them before" if done.first else ""),
            f"{report.layers} layers, rank {rank}, {path.stat().st_size / 1e6:.1f} MB",
            *notes,
        ]
        return output(patched, written, notes=told, kontext_training=[panel.report("done")])


def _folder(dataset: str) -> Path:
    if not dataset.strip():
        raise InputError(
            "dataset is empty; expected a folder of the input folder with examples, such as "
            "kontext_crescent"
        )
    return find_rows(dataset.strip())


def _codecs(clip: Any, vae: Any) -> Codecs:
    """The host's CLIP and VAE as the trainer takes them."""
    import torch

    from ..kontext_core.finetune import Codecs

    def text(words: str) -> tuple[Tensor, Tensor]:
        ((features, extra), *_) = clip.encode_from_tokens_scheduled(clip.tokenize(words))
        return features.float().cpu(), extra["pooled_output"].float().cpu()

    def decode(latent: Tensor) -> Tensor:
        # As the host itself runs it: its buffers may be of inference mode.
        with torch.inference_mode():
            return vae.decode(latent).float().cpu()

    return Codecs(lambda picture: vae.encode(picture).float().cpu(), decode, text)


def _train(
    model: Any, coders: tuple[Any, Any], examples: Any, settings: TrainSettings,
    places: tuple[Path, Path], panel: Panel, *, resume: bool, samples: int, **options: Any,
) -> Any:  # fmt: skip
    from ..kontext_core.finetune import EncodedStore, encode_examples, train_lora
    from ..kontext_core.finetune.run_log import read_log

    host, (path, run) = get_host(), places
    codecs = _codecs(*coders)
    sizes = resolutions_of(model)
    bar = counter()
    try:
        encoded, empty = encode_examples(
            examples, codecs, sizes, megapixels=settings.megapixels, store=EncodedStore(run / "cache"),
            progress=lambda done, total: bar(done, total), should_stop=host.is_interrupted,
        )  # fmt: skip
        network = training_network(model)
        if resume and (run / "state.safetensors").exists():
            panel.losses = [(row["step"], row["loss"]) for row in read_log(run / "log.jsonl")]
        progress = host.progress(settings.steps)

        def told(step: Any) -> None:
            panel.losses = [point for point in panel.losses if point[0] < step.step]
            panel.after(step)
            progress.update(step.step)

        panel.show("running")
        finished = False
        try:
            done = train_lora(
                network, encoded, empty, settings, path, run=run, resume=resume,
                samples=encoded[:samples], decode=codecs.decode, callback=told,
                should_stop=host.is_interrupted, **options,
            )  # fmt: skip
            finished = done.finished
        finally:
            panel.show("done" if finished else "stopped")
    except Cancelled:
        host.check_interrupt()
        raise
    if not done.finished:
        # In the host's own form, with the state on disk.
        host.check_interrupt()
        raise Cancelled(f"stopped after {done.step} of {done.steps} steps; run again to go on")
    return done
