"""CLIP Text Encode, VAE Decode, VAE Encode, and an empty latent.

CLIP and VAE are whatever the pack's loaders return; only ComfyUI's own methods are called.
"""

from __future__ import annotations

from typing import Any

from kontext_core.errors import InputError

from ..comfy_api import nodes as n
from ..comfy_api import sockets, widgets

MAX_SIDE = 16384


class CLIPTextEncode(n.ComfyNode):
    """A prompt as CONDITIONING."""

    @classmethod
    def define_schema(cls) -> n.Schema:
        return n.Schema(
            node_id="CLIPTextEncode",
            display_name="CLIP Text Encode (Prompt)",
            category="conditioning",
            description="Encodes a prompt into an embedding that guides the model.",
            inputs=[
                widgets.String.Input(
                    "text", multiline=True, dynamic_prompts=True, tooltip="The text to encode."
                ),
                sockets.Clip.Input("clip", tooltip="The model that encodes the text."),
            ],
            outputs=[sockets.Conditioning.Output(display_name="CONDITIONING")],
        )

    @classmethod
    def execute(cls, text: str, clip: Any) -> n.NodeOutput:
        if clip is None:
            raise InputError("the clip input is empty; connect a node that loads text encoders")
        return n.NodeOutput(clip.encode_from_tokens_scheduled(clip.tokenize(text)))


class VAEDecode(n.ComfyNode):
    """LATENT to IMAGE."""

    @classmethod
    def define_schema(cls) -> n.Schema:
        return n.Schema(
            node_id="VAEDecode",
            display_name="VAE Decode",
            category="latent",
            description="Decodes latents into pictures.",
            inputs=[
                sockets.Latent.Input("samples", tooltip="The latent to decode."),
                sockets.Vae.Input("vae", tooltip="The autoencoder that decodes it."),
            ],
            outputs=[sockets.Image.Output(display_name="IMAGE")],
        )

    @classmethod
    def execute(cls, samples: dict[str, Any], vae: Any) -> n.NodeOutput:
        images = vae.decode(samples["samples"])
        if images.ndim == 5:
            images = images.flatten(0, 1)
        return n.NodeOutput(images)


class VAEEncode(n.ComfyNode):
    """IMAGE to LATENT."""

    @classmethod
    def define_schema(cls) -> n.Schema:
        return n.Schema(
            node_id="VAEEncode",
            display_name="VAE Encode",
            category="latent",
            description="Encodes pictures into latents.",
            inputs=[
                sockets.Image.Input("pixels", tooltip="The pictures to encode."),
                sockets.Vae.Input("vae", tooltip="The autoencoder that encodes them."),
            ],
            outputs=[sockets.Latent.Output(display_name="LATENT")],
        )

    @classmethod
    def execute(cls, pixels: Any, vae: Any) -> n.NodeOutput:
        return n.NodeOutput({"samples": vae.encode(pixels)})


class EmptySD3LatentImage(n.ComfyNode):
    """A LATENT of zeros with 16 channels, the size of the picture to make."""

    @classmethod
    def define_schema(cls) -> n.Schema:
        side: dict[str, Any] = {"default": 1024, "min": 16, "max": MAX_SIDE, "step": 16}
        return n.Schema(
            node_id="EmptySD3LatentImage",
            display_name="EmptySD3LatentImage",
            category="latent/sd3",
            description="An empty latent with 16 channels, for Flux and SD3.",
            inputs=[
                widgets.Int.Input("width", tooltip="Width of the picture in pixels.", **side),
                widgets.Int.Input("height", tooltip="Height of the picture in pixels.", **side),
                widgets.Int.Input(
                    "batch_size", default=1, min=1, max=4096, tooltip="How many pictures."
                ),
            ],
            outputs=[sockets.Latent.Output(display_name="LATENT")],
        )

    @classmethod
    def execute(cls, width: int, height: int, batch_size: int = 1) -> n.NodeOutput:
        import torch

        return n.NodeOutput({"samples": torch.zeros(batch_size, 16, height // 8, width // 8)})
