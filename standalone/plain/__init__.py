"""The handful of ComfyUI's own nodes that the pack's graphs need, with the same ids and sockets."""

from __future__ import annotations

from ..comfy_api.nodes import ComfyNode
from .latents import CLIPTextEncode, EmptySD3LatentImage, VAEDecode, VAEEncode
from .pictures import LoadImage, LoadImageMask, PreviewImage, SaveImage

__all__ = ["PLAIN_NODES"]

PLAIN_NODES: dict[str, type[ComfyNode]] = {
    node.__name__: node
    for node in (
        LoadImage,
        LoadImageMask,
        SaveImage,
        PreviewImage,
        CLIPTextEncode,
        VAEDecode,
        VAEEncode,
        EmptySD3LatentImage,
    )
}
