"""Kontext Studio: FLUX.1 Kontext image editing as ComfyUI nodes. Only the host's entry points."""

from .nodes import comfy_entrypoint

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
