"""A LoRA that teaches the embedded model a shape the drawn world does not have: a crescent.

    python -m kontext_lab train lora-demo --run runs/lora_demo

Draws a folder of examples ("replace the red star with a crescent"), trains on it as anybody would with
`python -m kontext_core train-lora`, and judges pictures before and after: crescents in colours that no
example showed, and ordinary edits, which should not have got worse. The crescent stands in the place of
the heart in the world's tables, so that the judge knows it as well as any other shape.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from kontext_core.finetune import (
    NAMINGS,
    EncodedStore,
    TrainProgress,
    TrainSettings,
    codecs_of,
    encode_examples,
    read_examples,
    train_lora,
)
from kontext_core.lora import load_lora, set_loras
from kontext_core.pipeline import Pipeline, load_pipeline
from kontext_core.writing import save_image

from ..bench.held_out import Case, answers, assess, draw
from ..bench.sheet import Shown, contact_sheet
from ..judge.doubts import alike
from ..world.names import COLOURS, SHAPES
from ..world.render import render
from ..world.sample import Sample
from ..world.scene import free_places, random_scene
from ..world.shapes import redrawn
from ..world.tasks import make_sample
from ..world.thing import Thing

STAND_IN = "heart"
# No example shows a crescent in these.
UNSEEN = ("purple", "orange")
REPLACE = (
    "replace the {old} with a crescent", "turn the {old} into a crescent",
    "make the {old} a crescent", "the {old} should become a crescent",
)  # fmt: skip
ADD = ("add a {colour} crescent at the {place}", "put a {colour} crescent at the {place}")
ORDINARY = ("replace", "recolour", "add", "remove", "move", "background")


def crescent(x: Tensor, y: Tensor) -> Tensor:
    """Signed distance of a disc without another one that stands to its right, in radii."""
    disc = torch.sqrt((x - 0.12).square() + y * y) - 0.82
    bite = torch.sqrt((x - 0.54).square() + y * y) - 0.62
    return torch.maximum(disc, -bite)


@contextmanager
def with_crescents() -> Iterator[None]:
    """Inside, the world and its judge draw crescents where they say heart."""
    alike.cache_clear()
    with redrawn(STAND_IN, crescent):
        yield
    alike.cache_clear()


def lesson(rng: random.Random, colours: Sequence[str]) -> Sample:
    """A question whose answer has a crescent of one of these colours that the reference has not."""
    others = tuple(kind for kind in SHAPES if kind != STAND_IN)
    while True:
        scene = random_scene(rng, rng.choice((1, 2, 2)), kinds=others, textures=0.15)
        worn = [thing.colour for thing in scene.things]
        if rng.random() < 0.75:
            index = rng.randrange(len(worn))
            if worn[index] not in colours:
                continue
            old = f"{worn[index]} {scene.things[index].kind}"
            prompt = rng.choice(REPLACE).format(old=old)
            return Sample("replace", prompt, (scene,), scene.with_thing(index, kind=STAND_IN))
        free = [c for c in colours if c not in (*worn, scene.top, scene.bottom)]
        places = free_places(scene.things, "medium")
        if not free or not places:
            continue
        new = Thing(STAND_IN, rng.choice(free), "medium", rng.choice(places))
        prompt = rng.choice(ADD).format(colour=new.colour, place=new.place)
        target = replace(scene, things=(*scene.things, new))
        return Sample("add", prompt, (scene,), target)


def ordinary(rng: random.Random, number: int, held_out: bool = False) -> Sample:
    """An edit of things that the model knows; tasks take turns by number."""
    while True:
        sample = make_sample(rng, task=ORDINARY[number % len(ORDINARY)], held_out=held_out)
        scenes = (sample.target, *sample.references)
        if all(thing.kind != STAND_IN for scene in scenes for thing in scene.things):
            return sample


def write_examples(folder: Path, count: int, seed: int) -> None:
    """A folder as `train-lora` reads it; every other example is an ordinary edit, so that what the
    model can do already stays (prior preservation, as in DreamBooth, arXiv 2208.12242)."""
    rng = random.Random(seed)
    seen = [colour for colour in COLOURS if colour not in UNSEEN]
    for number in range(count):
        sample = lesson(rng, seen) if number % 2 else ordinary(rng, number // 2)
        for kind, scene in (("target", sample.target), ("ref1", sample.references[0])):
            picture = render([scene])[0].movedim(0, -1)
            save_image(picture, folder / f"{number:03d}_{kind}.png")
        (folder / f"{number:03d}.txt").write_text(sample.prompt + "\n", encoding="utf-8")


def questions(count: int, seed: int) -> dict[str, list[Case]]:
    """Crescents in colours of the examples and in others, and ordinary edits without any."""
    sets: dict[str, list[Sample]] = {}
    seen = [colour for colour in COLOURS if colour not in UNSEEN]
    for name, colours in (("crescent", seen), ("crescent, new colour", UNSEEN)):
        rng = random.Random(f"{seed}/{name}")
        sets[name] = [lesson(rng, colours) for _ in range(count)]
    rng = random.Random(f"{seed}/ordinary")
    sets["ordinary edits"] = [ordinary(rng, number, held_out=True) for number in range(count)]
    return {
        name: draw(samples, range(seed, seed + len(samples)), (64, 64))
        for name, samples in sets.items()
    }


def judged(pipeline: Pipeline, cases: dict[str, list[Case]], steps: int) -> dict[str, list[Shown]]:
    """Every case with its answer and what that is worth."""
    shown = {}
    for name, some in cases.items():
        pictures = answers(pipeline, some, steps=steps)
        scores = assess(some, pictures)
        shown[name] = [Shown(*each) for each in zip(some, pictures, scores, strict=True)]
    return shown


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/lora_demo"))
    parser.add_argument("--examples", type=int, default=192)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--targets", default="blocks")
    parser.add_argument("--naming", choices=NAMINGS, default=NAMINGS[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=40, help="of each kind to judge")
    parser.add_argument("--sampler-steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    run: Path = options.run
    pipeline = load_pipeline("tiny")
    with with_crescents():
        write_examples(run / "examples", options.examples, options.seed)
        cases = questions(options.cases, 1_000 + options.seed)
        before = judged(pipeline, cases, options.sampler_steps)
        settings = TrainSettings(
            steps=options.steps, rank=options.rank, learning_rate=options.rate, schedule="cosine",
            batch=options.batch, seed=options.seed, guidance=options.guidance,
            targets=options.targets, checkpointing=False,
        )  # fmt: skip
        examples, empty = encode_examples(
            read_examples(run / "examples"), codecs_of(pipeline), pipeline.model.resolutions,
            store=EncodedStore(run / "cache"),
        )  # fmt: skip
        done = train_lora(
            pipeline.model, examples, empty, settings, run / "crescent.safetensors",
            run=run / "training", naming=options.naming, callback=_tell,
        )  # fmt: skip
        print(set_loras(pipeline.model, [(load_lora(done.path), 1.0)]).text())
        after = judged(pipeline, cases, options.sampler_steps)
        lines = [f"| {'cases':22} | before | after |", "|---|---|---|"]
        for name, some in before.items():
            shares = [
                sum(one.score.verdict.right for one in x) / len(x) for x in (some, after[name])
            ]
            lines.append(f"| {name:22} | {shares[0]:5.0%} | {shares[1]:5.0%} |")
        (run / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print("\n".join(lines))
        for name, shown in (("before", before), ("after", after)):
            some = [*shown["crescent"][:6], *shown["crescent, new colour"][:6]]
            contact_sheet(some, columns=3, title=f"{name} {done.step} steps").save(
                run / f"{name}.png"
            )


def _tell(progress: TrainProgress) -> None:
    if progress.step % 50 == 0 or progress.step == progress.steps:
        print(
            f"step {progress.step} of {progress.steps}: loss {progress.loss:.4f}, "
            f"{progress.seconds:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
