"""The only code that knows ComfyUI: thin nodes that check, convert at the edge and call the core.

Nothing heavy is imported here; networks and weights come in when a node runs.
"""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

__all__ = ["KontextExtension", "comfy_entrypoint"]


class KontextExtension(ComfyExtension):
    """Lists the pack's nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node class; their ids are part of saved workflows and never change."""
        from .accelerate import KontextAccelerate
        from .arrange import KontextArrange
        from .batch import KontextBatch
        from .box import KontextBox
        from .candidates import KontextCandidates
        from .canvas import KontextCanvas
        from .compare import KontextCompare
        from .crop import KontextCrop, KontextPaste
        from .edit import KontextEdit
        from .finish import KontextFinish
        from .loading import KontextLoadModel, KontextLoadTextEncoders, KontextLoadVAE
        from .lora import KontextLoadLora
        from .names import KontextNames
        from .prompt import KontextPrompt
        from .quantize import KontextQuantize
        from .reference import KontextReference
        from .references import KontextReferences
        from .sampler import KontextSampler
        from .session import KontextSessionPick, KontextSessionStart, KontextSessionTurn
        from .stitch import KontextStitch
        from .train import KontextTrainLora

        return [
            KontextLoadModel,
            KontextLoadTextEncoders,
            KontextLoadVAE,
            KontextReference,
            KontextStitch,
            KontextSampler,
            KontextFinish,
            KontextEdit,
            KontextLoadLora,
            KontextQuantize,
            KontextBatch,
            KontextCompare,
            KontextCandidates,
            KontextPrompt,
            KontextBox,
            KontextCrop,
            KontextPaste,
            KontextSessionStart,
            KontextSessionTurn,
            KontextSessionPick,
            KontextNames,
            KontextCanvas,
            KontextReferences,
            KontextArrange,
            KontextTrainLora,
            KontextAccelerate,
        ]


async def comfy_entrypoint() -> KontextExtension:
    """What ComfyUI calls to find the nodes."""
    from .samples import place_samples
    from .web import serve_files

    place_samples()
    serve_files()
    return KontextExtension()
