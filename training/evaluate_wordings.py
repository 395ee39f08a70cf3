"""Two-reference tasks in sentences written after training and outside its grammar.

    python training/evaluate_wordings.py

The held-out wordings of the world guided this model's training (see the card), so their figures
flatter it. These sentences did not; once they guide a run, write others.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from kontext_core.evaluation.held_out import held_out_cases, scores
from kontext_core.pipeline import load_pipeline
from kontext_core.training.world.tasks import Sample

THING = "the object"
SENTENCES = {
    "compose": (
        "{o} from image {i}, placed on the background from image {j}",
        "could you put the background of image {j} behind {o} of image {i}",
        "keep {o} of image {i} but with the background of image {j}",
        "image {j} gives the background, image {i} gives {o}",
    ),
    "transfer": (
        "{o} of image {i} takes the colour from image {j}",
        "let {o} of image {i} have the colour of image {j}",
        "image {j} gives the colour, image {i} gives {o}",
        "keep {o} of image {i} but in the colour of image {j}",
    ),
}
SHOWN = ("gain", "exchanged_words", "exchanged_pictures", "ordered", "scrambled")


def reworded(sample: Sample, sentence: str) -> Sample:
    """The same case in another sentence; the picture that lends the thing is found by its shape."""
    shape = sample.target.things[0].shape
    lender = [r.things[0].shape for r in sample.references].index(shape)
    return replace(sample, prompt=sentence.format(o=THING, i=lender + 1, j=2 - lender))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    pipeline = load_pipeline(options.model)
    for task, sentences in SENTENCES.items():
        cases = held_out_cases(task, options.count, seed=991)
        for sentence in sentences:
            samples = [reworded(sample, sentence) for sample in cases.samples]
            found = scores(pipeline, replace(cases, samples=samples), steps=options.steps)
            print(task, repr(sentence), {k: round(found[k], 2) for k in SHOWN if k in found})


if __name__ == "__main__":
    main()
