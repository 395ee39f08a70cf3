"""The card of the benchmark: what is in the folder, how to answer and judge it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .questions import Question

_CARD = """---
license: apache-2.0
task_categories:
- image-to-image
language:
- en
tags:
- image-editing
- multi-reference
pretty_name: Order and layout of references
---

# Order and layout of references

{count} cases that ask whether an image editor heeds *which* reference is which: by number, by name, or by
its place in a single picture. Everything is drawn: simple objects in plain colours before plain, graded or
textured backgrounds, so that there is one right answer to each and a program can judge it.

Every case has a twin with the same words and two of its pictures exchanged (`0001a`, `0001b`), whose right
answer differs. An editor that takes no notice of the order is right in one of the two at most.

| category | cases |
|---|--:|
{categories}

## Columns

`test/metadata.jsonl` has KontextBench's columns, `file_name` (the first picture), `key`, `category`,
`instruction`, and beside them `images_file_names` (all pictures in their order), `target_file_name` (the
right answer), `names` and `request` (the names of the pictures, and the instruction without the sentence
that gives them), `layout`, `pair`, `seed` (for the noise), `width` and `height` (wanted of the answer).
`test/scenes.jsonl` is for the judge; `rows/` has the same cases as tables for a batch, by the number of pictures, and
`workflows/` the graphs that take them, in ComfyUI's API format.

## Answering

Give an editor the pictures in their order and `instruction`; save its answer as `KEY.png` (`.jpg` or `.webp`) in
one folder. Any size will do; the judge looks at 64 x 64 pixels.

```sh
python -m kontext_lab bench anchor answer FOLDER ANSWERS --model tiny
python -m standalone batch FOLDER/workflows/2.json --rows FOLDER/rows/2.jsonl --images FOLDER/test --output ANSWERS
```

The first runs a model in Python, the second sends the cases with two pictures to a running ComfyUI; 1.json and 3.json
are for one and three pictures.

## Judging

```sh
python -m kontext_lab bench anchor judge FOLDER ANSWERS
```

*right*: every attribute of the answer is right (kind, colour, place, size, background, nothing else).
*order*: the answer is nearer to the right picture than to its twin's and to every reference as it was; for pipelines
whose pictures are less exact. *pairs*: both twins are. A missing answer is a wrong one.

Made by Kontext Studio from seed {seed}, pictures of {side} px. Licence: Apache-2.0; no outside data.
"""


def card(questions: Sequence[Question], seed: int, side: int) -> str:
    """The text of the folder's README.md, with the header that dataset hubs read."""
    counts = Counter(question.category for question in questions)
    rows = "\n".join(f"| {name} | {count} |" for name, count in counts.items())
    return _CARD.format(count=len(questions), categories=rows, seed=seed, side=side)
