"""What the tests of training share: a folder of examples for the small random networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from small_models import draw

from kontext_core import Pipeline, save_image
from kontext_core.finetune import Encoded, codecs_of, encode_examples, read_examples
from kontext_core.finetune.encoded import Words

SIZES = ((64, 64), (80, 48))


def write_example(folder: Path, name: str, references: int = 1, size: int = 0) -> None:
    """NAME_target.png, its references and its text."""
    folder.mkdir(parents=True, exist_ok=True)
    width, height = SIZES[size]
    names = ["target", *(f"ref{number}" for number in range(1, references + 1))]
    for place, kind in enumerate(names):
        seed = sum(map(ord, name)) + 10 * place
        picture = draw(seed, 1, height, width, 3).mul(0.2).add(0.5).clamp(0, 1)
        save_image(picture, folder / f"{name}_{kind}.png")
    (folder / f"{name}.txt").write_text(f"put the red star on image {name}\n", encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four examples: two of one form, one of another shape, one of two references."""
    place = tmp_path / "examples"
    for name, references, size in (("a", 1, 0), ("b", 1, 0), ("c", 1, 1), ("d", 2, 0)):
        write_example(place, name, references, size)
    return place


@pytest.fixture
def encoded(folder: Path, small_pipeline: Pipeline) -> tuple[list[Encoded], Words]:
    """The folder in latents."""
    return encode_examples(
        read_examples(folder), codecs_of(small_pipeline), small_pipeline.model.resolutions
    )


@pytest.fixture
def writer() -> Callable[..., None]:
    """`write_example`."""
    return write_example
