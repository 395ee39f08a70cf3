"""The HTTP and websocket side of the embedded host: ComfyUI's protocol on aiohttp."""
