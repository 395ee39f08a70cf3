"""Kontext: Batch: pictures and prompts as lists, so that what follows runs once for each row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..kontext_core.errors import InputError
from .batch_rows import COMBINE, Item, items_from, names_for, problem_of, stamp
from .host import get_host
from .inputs import MAX_SEED, seed_input
from .schema import make

if TYPE_CHECKING:
    from torch import Tensor

SEEDS = ("count up", "the same")
# Pictures of a list are all in memory at once, as floats.
MAX_BYTES = 4 << 30
BYTES_PER_PIXEL = 3 * 4
# Rows that the node shows.
SHOWN = 5


def _pictures(items: list[Item], images: Tensor | None) -> list[Tensor | None]:
    """[1, h, w, 3] in 0..1 for each row, None where it has none.

    Raises:
        InputError: a file that is not a picture, or more than 4 GB of pixels.
    """
    from ..kontext_core.images import load_image

    paths = dict.fromkeys(item.path for item in items if item.path is not None)
    size = sum(_size(path) for path in paths)
    if size > MAX_BYTES:
        raise InputError(
            f"{len(paths)} pictures take {size / 1e9:.1f} GB of memory, at most "
            f"{MAX_BYTES / 1e9:.1f} are taken at once; lower limit, or use python -m standalone "
            "batch, which sends one at a time"
        )
    loaded: dict[Path, Tensor] = {}
    result: list[Tensor | None] = []
    for item in items:
        get_host().check_interrupt()
        if item.path is not None:
            if item.path not in loaded:
                loaded[item.path] = load_image(item.path)
            result.append(loaded[item.path])
        elif item.index is not None and images is not None:
            result.append(images[item.index : item.index + 1])
        else:
            result.append(None)
    return result


def _size(path: Path) -> int:
    """Bytes of memory that a picture takes, from its header."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            return opened.width * opened.height * BYTES_PER_PIXEL
    except (OSError, Image.DecompressionBombError) as error:
        raise InputError(f"{path.name} can't be read as a picture ({error})") from error


class KontextBatch(io.ComfyNode):
    """Rows to lists."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            node_id="KontextBatch",
            display_name="Kontext: Batch",
            description="Pictures of a folder, rows of a table and lines of text as lists: what "
            "follows runs once for each. For hundreds of rows, or several servers, use the "
            "command python -m standalone batch.",
            search_aliases=["kontext", "batch", "folder", "csv", "list", "many images", "loop"],
            inputs=[
                io.Image.Input(
                    "images", optional=True, tooltip="A batch of pictures; each becomes a row."
                ),
                io.String.Input(
                    "source",
                    default="",
                    tooltip="A folder of pictures below the input folder, or a .csv, .jsonl or "
                    ".txt file there. A text file beside a picture, with its name, is its prompt. "
                    '"." is the input folder itself.',
                ),
                io.String.Input(
                    "lines",
                    multiline=True,
                    default="",
                    tooltip="One prompt a line. Or a pasted table, its first line naming columns "
                    "of name, image, prompt, seed; or one JSON object a line with these.",
                ),
                io.Combo.Input(
                    "combine",
                    options=list(COMBINE),
                    default=COMBINE[0],
                    tooltip="Where pictures and lines are both given: every line for every "
                    "picture, or the first for the first, the second for the second ...",
                ),
                seed_input("Of rows that have none of their own."),
                io.Combo.Input(
                    "seeds",
                    options=list(SEEDS),
                    default=SEEDS[0],
                    tooltip="Whether each row has a seed one higher than the row before.",
                ),
                io.Int.Input(
                    "first", default=1, min=1, max=1_000_000, tooltip="The row to begin with."
                ),
                io.Int.Input(
                    "limit",
                    default=100,
                    min=0,
                    max=1_000_000,
                    tooltip="How many rows at most; 0 takes all. Their pictures are all in memory "
                    "at once.",
                ),
                io.String.Input(
                    "name_prefix",
                    default="batch/",
                    tooltip="Stands before each name; with a / it is a folder of the output "
                    "folder.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "image",
                    display_name="IMAGE",
                    is_output_list=True,
                    tooltip="The picture of each row.",
                ),
                io.String.Output(
                    "prompt",
                    display_name="prompt",
                    is_output_list=True,
                    tooltip="The prompt of each row.",
                ),
                io.String.Output(
                    "name",
                    display_name="name",
                    is_output_list=True,
                    tooltip="The name of each row, for the filename_prefix of Save Image.",
                ),
                io.Int.Output(
                    "row_seed",
                    display_name="seed",
                    is_output_list=True,
                    tooltip="The seed of each row.",
                ),
                io.Int.Output("count", display_name="count", tooltip="How many rows there are."),
            ],
        )

    @classmethod
    def validate_inputs(cls, source: str | None = None, lines: str | None = None) -> bool | str:
        """Says before the run what is wrong with the rows; links are not known yet."""
        return problem_of(source, lines) or True

    @classmethod
    def fingerprint_inputs(cls, source: str | None = None, **_: Any) -> str:
        """Runs again when a file of the folder has changed."""
        return stamp(source)

    @classmethod
    def execute(
        cls,
        source: str,
        lines: str,
        combine: str,
        seed: int,
        seeds: str,
        first: int,
        limit: int,
        name_prefix: str,
        images: Tensor | None = None,
    ) -> io.NodeOutput:
        linked = 0 if images is None else images.shape[0]
        items, total = items_from(source, lines, combine, linked, first, limit)
        names = names_for(items, name_prefix)[first - 1 :]
        items = items[first - 1 :]
        if not items:
            raise InputError(f"first is {first}, but there are only {total} rows; lower it")
        step = 1 if seeds == SEEDS[0] else 0
        row_seeds = [
            (seed + (first - 1 + index) * step) % (MAX_SEED + 1) if item.seed is None else item.seed
            for index, item in enumerate(items)
        ]
        pictures = _pictures(items, images)
        shown = [f"{n}: {item.prompt}" for n, item in zip(names, items, strict=True)][:SHOWN]
        more = [f"... {len(items)} of {total} rows"] if len(items) > SHOWN else []
        return io.NodeOutput(
            pictures,
            [item.prompt for item in items],
            names,
            row_seeds,
            len(items),
            ui={"kontext_notes": shown + more},
        )
