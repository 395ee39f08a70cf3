"""Kontext: Compare: two pictures under a slider, what differs, and by how much."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io, ui

from .notes import output
from .schema import make

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "kontext_compare"


def _saved(images: Tensor) -> list[dict[str, Any]]:
    """The pictures in the host's temp folder, as {filename, subfolder, type} each."""
    saved = ui.ImageSaveHelper.save_images(images.cpu(), PREFIX, io.FolderType.temp, None, 1)
    return [dict(one) for one in saved]


class KontextCompare(io.ComfyNode):
    """Two IMAGEs, looked at."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            node_id="KontextCompare",
            display_name="Kontext: Compare",
            description="Shows two pictures under a slider, where they differ, and by how much: PSNR, "
            "SSIM and the share of changed pixels, inside and outside a mask. With a batch, each "
            "candidate can be picked.",
            search_aliases=[
                "kontext",
                "before after",
                "slider",
                "difference",
                "psnr",
                "ssim",
                "diff",
            ],
            is_output_node=True,
            inputs=[
                io.Image.Input(
                    "before", tooltip="The picture as it was. One, or as many as in after."
                ),
                io.Image.Input(
                    "after",
                    tooltip="The result, of the same shape. A batch is shown as candidates to choose "
                    "from.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="What was to change, in white: figures are given inside and outside of it.",
                ),
                io.Float.Input(
                    "full",
                    default=0.25,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="The difference, of 1, that the heat map draws white. Less shows fainter "
                    "ones.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "difference",
                    display_name="IMAGE",
                    tooltip="The heat map: black where nothing differs, over violet, red and yellow to "
                    "white.",
                ),
                io.String.Output(
                    "figures", display_name="STRING", tooltip="The figures, a line for each pair."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        before: Tensor,
        after: Tensor,
        mask: Tensor | None = None,
        full: float = 0.25,
    ) -> io.NodeOutput:
        from ..kontext_core.comparing import compare, heat_map, in_words, paired

        one, other = paired(before, after)
        found = compare(one, other, mask)
        heat = heat_map(one, other, full)
        words = [in_words(each) for each in found]
        # One picture for all pairs is written once.
        first = _saved(one[:1] if len(before) == 1 else one)
        pairs = [
            {
                "before": first[min(index, len(first) - 1)],
                "after": after_file,
                "difference": heat_file,
                "figures": asdict(each),
                "said": said,
            }
            for index, (after_file, heat_file, each, said) in enumerate(
                zip(_saved(other), _saved(heat), found, words, strict=True)
            )
        ]
        return output(heat, "\n".join(words), notes=[], kontext_compare=pairs)
