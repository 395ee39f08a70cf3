"""The host behind one small face: device, model files, progress, interrupt, memory, kinds of socket.

With `nodes/native/` the only place that imports comfy.* and folder_paths, here only inside
functions, so that everything else runs without ComfyUI as well.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

# Under which names ComfyUI-GGUF, where installed, lists folders of a kind.
GGUF_KINDS = {"diffusion_models": ("unet_gguf",), "text_encoders": ("clip_gguf",)}


class ProgressBar(Protocol):
    """The progress bar of one node's run."""

    def update(self, step: int, preview: Image | None = None) -> None:
        """`step` of the announced total is done; `preview` shows the picture so far."""
        ...


class Host(Protocol):
    """What the nodes need from whoever runs them."""

    def device(self) -> torch.device:
        """Where networks run."""
        ...

    def model_folders(self, kind: str) -> list[Path]:
        """Folders of a kind as ComfyUI names them ("diffusion_models", "text_encoders", "vae",
        "loras", "checkpoints", "diffusers", "vae_approx"), first the one to prefer."""
        ...

    def input_folders(self) -> list[Path]:
        """Where the user's pictures lie, first the one that uploads go to."""
        ...

    def output_folder(self) -> Path | None:
        """Where results go; None where there is no such folder."""
        ...

    def progress(self, total: int) -> ProgressBar:
        """Start a progress bar of `total` steps for the running node."""
        ...

    def is_interrupted(self) -> bool:
        """Whether the user has stopped the run; `check_interrupt` raises then."""
        ...

    def check_interrupt(self) -> None:
        """Raise the host's own exception when the user has stopped the run."""
        ...

    def tell(self, event: str, data: dict[str, Any]) -> None:
        """Send a message of ours to the browser that started the run."""
        ...


class PlainHost:
    """No host at all: the CPU, no model folders, nobody to tell."""

    def device(self) -> torch.device:
        """The CPU."""
        import torch

        return torch.device("cpu")

    def model_folders(self, kind: str) -> list[Path]:
        """None."""
        return []

    def input_folders(self) -> list[Path]:
        """None."""
        return []

    def output_folder(self) -> Path | None:
        """None."""
        return None

    def progress(self, total: int) -> ProgressBar:
        """A bar nobody sees."""
        return _Silent()

    def is_interrupted(self) -> bool:
        """Nobody can interrupt."""
        return False

    def check_interrupt(self) -> None:
        """Nobody can interrupt."""

    def tell(self, event: str, data: dict[str, Any]) -> None:
        """Nobody hears it."""


class ComfyHost:
    """A real ComfyUI."""

    # The kinds of MODEL, CLIP and VAE it has, see `native/sockets.py`.
    sockets = "comfy"

    def manage(self, network: torch.nn.Module) -> Managed:
        """See `manage`."""
        return _Patched(network)

    def device(self) -> torch.device:
        """The device ComfyUI computes on."""
        import comfy.model_management

        return comfy.model_management.get_torch_device()

    def vae_dtype(self) -> torch.dtype:
        """What ComfyUI computes VAEs in, as it was started (`--fp32-vae`, `--cpu-vae`)."""
        import comfy.model_management
        import torch

        device = comfy.model_management.vae_device()
        return comfy.model_management.vae_dtype(device, [torch.bfloat16, torch.float32])

    def model_folders(self, kind: str) -> list[Path]:
        """ComfyUI's folders, extra model paths and those of ComfyUI-GGUF included."""
        import folder_paths

        known = folder_paths.folder_names_and_paths
        paths = [
            Path(path)
            for name in (kind, *GGUF_KINDS.get(kind, ()))
            if name in known
            for path in folder_paths.get_folder_paths(name)
        ]
        # One folder may be named by several settings, and through links.
        each: dict[Path, Path] = {}
        for path in paths:
            each.setdefault(path.resolve(), path)
        return list(each.values())

    def input_folders(self) -> list[Path]:
        """ComfyUI's input folder."""
        import folder_paths

        return [Path(folder_paths.get_input_directory())]

    def output_folder(self) -> Path | None:
        """ComfyUI's output folder."""
        import folder_paths

        return Path(folder_paths.get_output_directory())

    def progress(self, total: int) -> ProgressBar:
        """ComfyUI's bar, which knows the running node by itself."""
        return _ComfyProgress(total)

    def is_interrupted(self) -> bool:
        """ComfyUI's flag, which only raising its exception takes back."""
        import comfy.model_management

        return bool(comfy.model_management.processing_interrupted())

    def check_interrupt(self) -> None:
        """Raises ComfyUI's InterruptProcessingException."""
        import comfy.model_management

        comfy.model_management.throw_exception_if_processing_interrupted()

    def tell(self, event: str, data: dict[str, Any]) -> None:
        """By ComfyUI's websocket; editors pass over events that nobody listens to."""
        from server import PromptServer

        server = PromptServer.instance
        if server.client_id is not None:
            server.send_sync(event, data, server.client_id)

    def show(self, node: str, ui: dict[str, Any]) -> None:
        """Give a node of the running graph, whose turn is over, another `ui` output, in the message in
        which ComfyUI itself gives it."""
        from comfy_execution.utils import get_executing_context
        from server import PromptServer

        server = getattr(PromptServer, "instance", None)
        running = get_executing_context()
        if server is None or running is None or server.client_id is None:
            # Nobody looks, as in a script.
            return
        message = {"node": node, "display_node": node, "output": ui, "prompt_id": running.prompt_id}
        server.send_sync("executed", message, server.client_id)


class _Silent:
    def update(self, step: int, preview: Image | None = None) -> None:
        pass


class _ComfyProgress:
    def __init__(self, total: int) -> None:
        import comfy.utils

        self.total = total
        self.bar = comfy.utils.ProgressBar(total)

    def update(self, step: int, preview: Image | None = None) -> None:
        sent = None
        if preview is not None and self.wanted():
            # Its own size as the bound: ComfyUI enlarges pictures to a larger one, and nodes write
            # below a picture how large it is.
            sent = "JPEG", preview, max(preview.size)
        self.bar.update_absolute(step, self.total, sent)

    def wanted(self) -> bool:
        """Whether the client of this run takes pictures: it said so, as every graph editor does
        on connecting, or the user started the server with previews. Simple API clients take any
        binary message for the result."""
        from comfy.cli_args import LatentPreviewMethod, args
        from comfy_api import feature_flags
        from server import PromptServer

        if args.preview_method != LatentPreviewMethod.NoPreviews:
            return True
        server = PromptServer.instance
        return feature_flags.supports_feature(
            server.sockets_metadata, server.client_id, "supports_preview_metadata"
        )


_host: Host | None = None


def set_host(host: Host | None) -> None:
    """Make `host` the one the nodes talk to; None goes back to finding out."""
    global _host
    _host = host


def get_host() -> Host:
    """The host that was set, else ComfyUI when it is importable, else none at all."""
    global _host
    if _host is None:
        # Only ComfyUI's own tree has this module; the name `comfy` alone could be anything.
        found = importlib.util.find_spec("comfy")
        inside = found and importlib.util.find_spec("comfy.model_management")
        _host = ComfyHost() if inside else PlainHost()
    return _host


def counter() -> Callable[[int, int], None]:
    """A callback (done, total) for long work other than sampling: moves the running node's
    progress bar in a hundred steps, and raises the host's own exception when it interrupts."""
    host = get_host()
    bar: ProgressBar | None = None
    shown = -1

    def tell(done: int, total: int) -> None:
        nonlocal bar, shown
        host.check_interrupt()
        if bar is None:
            bar = host.progress(100)
        now = done * 100 // max(total, 1)
        if now != shown:
            shown = now
            bar.update(now)

    return tell


class Managed:
    """A network that the host may move between memory and device."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.network = network

    def load(self, memory: int = 0) -> torch.nn.Module:
        """The network, on the host's device and ready to run, with so many bytes to work in."""
        return self.network.to(get_host().device())


class _Patched(Managed):
    """Under ComfyUI's memory management: counted, and evicted when something else needs room."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__(network)
        import comfy.model_management
        import comfy.model_patcher
        import torch

        # ComfyUI writes attributes such as `device` on what it manages, so it gets a shell,
        # named as its log should call it.
        shell = type(type(network).__name__, (torch.nn.Module,), {})()
        shell.network = network
        self.patcher = comfy.model_patcher.ModelPatcher(
            shell,
            load_device=comfy.model_management.get_torch_device(),
            offload_device=comfy.model_management.unet_offload_device(),
        )

    def load(self, memory: int = 0) -> torch.nn.Module:
        import comfy.model_management

        # Plain layers can't stream their weights, so it is all or nothing.
        comfy.model_management.load_models_gpu(
            [self.patcher], memory_required=memory, force_full_load=True
        )
        return self.network


def manage(network: Any) -> Managed:
    """Put a network under the memory management of the host, where it has one."""
    own = getattr(get_host(), "manage", Managed)
    return own(network)
