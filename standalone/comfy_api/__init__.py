"""The part of ComfyUI's public node interface (`comfy_api.latest`) that this pack's nodes use."""
