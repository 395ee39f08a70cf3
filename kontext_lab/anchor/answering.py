"""Answers the questions of a folder with `edit`, one picture a question; goes on where it was stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kontext_core.errors import InputError
from kontext_core.pipeline import Pipeline, edit
from kontext_core.resolutions import nearest_resolution
from kontext_core.writing import save_image

from ..evaluation.kept import keep_settings
from .folder import read_anchor


def answer_questions(
    folder: str | Path,
    answers: str | Path,
    pipeline: Pipeline,
    *,
    name: str = "tiny",
    steps: int = 28,
    guidance: float = 2.5,
    method: str = "offset",
    cases: int | None = None,
    tick: Callable[[int], object] = lambda count: None,
) -> Path:
    """Save KEY.png for every question that has none yet.

    The answer is painted at the trained size nearest to the wanted shape. Names go to the model as
    `edit` takes them.

    Args:
        name: of the model, for the settings that are kept beside the answers.
        steps, guidance, method: as in `edit`.
        cases: only the first so many.
        tick: told how many more are answered.

    Raises:
        InputError: no benchmark in `folder`, or answers of other settings; what `edit` raises.
    """
    filed = read_anchor(folder)[:cases]
    settings = {"model": name, "steps": steps, "guidance": guidance, "method": method}
    place = keep_settings(answers, settings)
    for one in filed:
        path = place / f"{one.key}.png"
        if not path.is_file():
            row = one.row
            images = [Path(folder) / "test" / file for file in row["images_file_names"]]
            for image in images:
                if not image.is_file():
                    raise InputError(f"there is no {image}; make the folder anew")
            size = nearest_resolution(row["width"], row["height"], pipeline.model.resolutions)
            text = row["request"] if row["names"] else row["instruction"]
            made = edit(
                pipeline, text, images, names=row["names"], seed=row["seed"], steps=steps,
                guidance=guidance, method=method, width=size[0], height=size[1],
            )  # fmt: skip
            save_image(made, path, {name: str(value) for name, value in settings.items()})
        tick(1)
    return place
