"""What the pack asks of ComfyUI, on a stand-in for the few functions it uses of it.

The real ones answer in tests/api, where a checkout is at hand.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image


class Stand(SimpleNamespace):
    """The recording ComfyUI: its progress bar, folders, memory management and clients."""


@pytest.fixture
def comfy(monkeypatch: pytest.MonkeyPatch) -> Stand:
    stand = Stand(bars=[], loaded=[], interrupted=False, flags={}, client="me")

    class ProgressBar:
        def __init__(self, total: int) -> None:
            stand.bars.append([])

        def update_absolute(self, value: int, total: int, preview: Any) -> None:
            stand.bars[-1].append((value, total, preview))

    class ModelPatcher:
        def __init__(self, model: Any, load_device: Any, offload_device: Any) -> None:
            # ComfyUI does this to what it manages; the core's networks have a fixed `device`.
            model.device = offload_device
            self.model = model

    class Interrupt(BaseException):
        pass

    def check() -> None:
        if stand.interrupted:
            raise Interrupt

    def module(name: str, **content: Any) -> ModuleType:
        made = ModuleType(name)
        vars(made).update(content)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    def cpu() -> torch.device:
        return torch.device("cpu")

    methods = SimpleNamespace(NoPreviews="none", Auto="auto")
    stand.args = SimpleNamespace(preview_method="none")
    stand.Interrupt = Interrupt
    folders = stand.folders = {
        kind: ([f"/models/{kind}"], {".safetensors"})
        for kind in ("diffusion_models", "text_encoders", "vae", "loras", "checkpoints")
    }
    parts = {
        "utils": module("comfy.utils", ProgressBar=ProgressBar),
        "cli_args": module("comfy.cli_args", LatentPreviewMethod=methods, args=stand.args),
        "model_patcher": module("comfy.model_patcher", ModelPatcher=ModelPatcher),
        "model_management": module(
            "comfy.model_management",
            get_torch_device=cpu,
            unet_offload_device=cpu,
            throw_exception_if_processing_interrupted=check,
            processing_interrupted=lambda: stand.interrupted,
            load_models_gpu=lambda models, **options: stand.loaded.append((models, options)),
        ),
    }
    module("comfy", **parts)
    module(
        "folder_paths",
        get_folder_paths=lambda kind: list(folders[kind][0]),
        folder_names_and_paths=folders,
    )
    server = SimpleNamespace(sockets_metadata={}, client_id="me")
    module("server", PromptServer=SimpleNamespace(instance=server))
    flags = module(
        "comfy_api.feature_flags",
        supports_feature=lambda metadata, client, name: name in stand.flags.get(client, ()),
    )
    monkeypatch.setattr(sys.modules["comfy_api"], "feature_flags", flags, raising=False)
    return stand


@pytest.fixture
def comfy_host(pack: Any, comfy: Stand) -> Any:
    module = pack.module("nodes.host")
    host = module.ComfyHost()
    module.set_host(host)
    return host


def test_pictures_go_only_to_clients_that_take_them(comfy: Stand, comfy_host: Any) -> None:
    picture = Image.new("RGB", (8, 8))
    bar = comfy_host.progress(4)
    bar.update(1, picture)
    comfy.flags["me"] = ("supports_preview_metadata",)
    bar.update(2, picture)
    bar.update(3)
    comfy.flags.clear()
    comfy.args.preview_method = "auto"
    bar.update(4, picture)
    # Bound by its own size: ComfyUI enlarges to a larger bound.
    frame = ("JPEG", picture, 8)
    assert comfy.bars == [[(1, 4, None), (2, 4, frame), (3, 4, None), (4, 4, frame)]]


def test_interrupts_are_the_hosts_own(comfy: Stand, comfy_host: Any) -> None:
    comfy_host.check_interrupt()
    assert comfy_host.is_interrupted() is False
    comfy.interrupted = True
    assert comfy_host.is_interrupted() is True
    with pytest.raises(comfy.Interrupt):
        comfy_host.check_interrupt()


def test_folders_of_comfyui_gguf_and_extra_paths_count_once(
    comfy: Stand, comfy_host: Any, tmp_path: Path
) -> None:
    own, extra, link = tmp_path / "own", tmp_path / "extra", tmp_path / "link"
    own.mkdir()
    link.symlink_to(own, target_is_directory=True)
    comfy.folders["diffusion_models"] = ([str(own), str(extra)], {".safetensors"})
    comfy.folders["unet_gguf"] = ([str(link), str(tmp_path / "gguf")], {".gguf"})
    assert comfy_host.model_folders("diffusion_models") == [own, extra, tmp_path / "gguf"]
    assert comfy_host.model_folders("vae") == [Path("/models/vae")]
    assert comfy_host.model_folders("a kind of tomorrow") == []


def test_networks_are_under_its_memory_management(pack: Any, comfy: Stand, comfy_host: Any) -> None:
    autoencoder = pack.module("kontext_core.weights.load").load_autoencoder(dtype=torch.float32)
    vae = pack.module("nodes.native").KontextVAE(autoencoder, "small", ())
    decoded = vae.decode(torch.zeros(1, 16, 8, 8))
    assert decoded.shape == (1, 64, 64, 3)
    [([patcher], options)] = comfy.loaded
    # Room to work in is asked for too: 64x64 pixels of 64 numbers, for 8 channels at the finest.
    assert options == {"memory_required": 64 * 64 * 64 * 4, "force_full_load": True}
    comfy.loaded.clear()
    vae.decode_tiled(torch.zeros(1, 16, 8, 8), tile_x=4, tile_y=4)
    assert comfy.loaded.pop()[1]["memory_required"] == 32 * 32 * 64 * 4
    vae.encode(torch.zeros(1, 64, 64, 3))
    [([patcher], options)] = comfy.loaded
    assert options["memory_required"] == 64 * 64 * 48 * 4
    # ComfyUI logs the class of what it loads.
    assert type(patcher.model).__name__ == "AutoEncoder"
    assert patcher.model.network is vae.first_stage_model
