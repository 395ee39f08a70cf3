"""Runs inside ComfyUI: the pack's VAE under the host's nodes, and beside the host's own VAE."""

from __future__ import annotations

import copy
import gc
import importlib
import logging
import weakref
from typing import Any

import comfy.model_management as management
import comfy.sd
import torch
from memory_warnings import Said
from torch import Tensor

# By name, or readers take it for this pack's folder.
nodes: Any = importlib.import_module("nodes")


def gap(one: Tensor, other: Tensor) -> float:
    """Largest difference; shapes must agree."""
    if one.shape != other.shape:
        raise ValueError(f"{tuple(one.shape)} beside {tuple(other.shape)}")
    return float((one.float() - other.float()).abs().max())


def picture(seed: int, height: int, width: int, batch: int = 1, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, channels, 4, 4, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return fine.movedim(1, -1).contiguous()


def run(name: str, **inputs: Any) -> Any:
    """One of the host's nodes of either kind: its outputs."""
    made = nodes.NODE_CLASS_MAPPINGS[name]
    if hasattr(made, "execute"):
        return made.execute(**inputs).args
    return getattr(made(), made.FUNCTION)(**inputs)


# As the host runs its nodes.
@torch.inference_mode()
def main(pack: Any) -> dict[str, Any]:
    def module(path: str) -> Any:
        return importlib.import_module(f"{pack.__name__}.{path}")

    native = module("nodes.native")
    host = module("nodes.host")
    out: dict[str, Any] = {"differences": {}}
    differences = out["differences"]

    # The published sizes, which ComfyUI's own VAE can take too.
    config, network = module("kontext_core.config"), module("kontext_core.models.autoencoder")
    torch.manual_seed(0)
    with torch.no_grad():
        core = network.AutoEncoder(config.AutoEncoderParams()).eval().requires_grad_(False)
    state = {name: tensor.clone() for name, tensor in core.state_dict().items()}
    theirs = comfy.sd.VAE(sd=dict(state))
    ours = native.make_vae(core, "random", ((64, 64),))
    host.set_host(host.PlainHost())
    plain = native.make_vae(copy.deepcopy(core), "random", ((64, 64),))
    host.set_host(None)
    out["classes"] = [isinstance(ours, comfy.sd.VAE), type(plain).__name__]
    cheap = comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)})
    out["missing"] = sorted(name for name in vars(cheap) if not hasattr(ours, name))
    out["dtype"] = [str(ours.vae_dtype), str(theirs.vae_dtype)]

    # Random weights make pictures far beyond -1..1; a small latent keeps them unclamped.
    one, two = picture(1, 32, 24), picture(2, 21, 27, batch=2, channels=4)
    latent = ours.encode(one)
    out["latent"] = [list(latent.shape), str(latent.dtype), float(latent.abs().max())]
    differences["encode, theirs"] = gap(latent, theirs.encode(one))
    differences["encode, plain"] = gap(latent, plain.encode(one))
    differences["encode odd RGBA batch, theirs"] = gap(
        ours.encode(two), theirs.encode(two[..., :3])
    )
    small = 0.05 * torch.randn(2, 16, 4, 5, generator=torch.Generator().manual_seed(3))
    decoded = ours.decode(small)
    inside = (decoded > 0) & (decoded < 1)
    out["decoded"] = [list(decoded.shape), float(inside.float().mean())]
    differences["decode, theirs"] = gap(decoded, theirs.decode(small))
    differences["decode, plain"] = gap(decoded, plain.decode(small))
    differences["decode 5-d"] = gap(ours.decode(small[:, :, None]), decoded)

    nodes_of_vae(ours, theirs, one, small, differences)
    bases(ours, one, small, differences)
    out["keys"] = sorted(set(ours.get_sd()) ^ set(state))
    out["memory"] = memory(ours, small)
    out["oom"] = full(ours, one, small, module("kontext_core.models.autoencoder"))
    out["interrupted"] = interrupts(ours, small)
    ours.vae_output_dtype = lambda: torch.float16
    out["output dtype"] = [str(ours.decode(small).dtype), str(ours.encode(one).dtype)]
    del ours.vae_output_dtype
    out["copy"] = copies(ours, small)
    out["own nodes"] = own_nodes(module, theirs, ours, one, small)
    gone = module("nodes.loading").load_vae()
    gone.decode(small)
    network = weakref.ref(gone.first_stage_model)
    del gone
    gc.collect()
    management.cleanup_models()
    out["memory"]["released"] = network() is None
    embedded = module("nodes.loading").load_vae()
    out["embedded"] = [isinstance(embedded, comfy.sd.VAE), len(embedded.resolutions)]
    host.set_host(host.PlainHost())
    alone = module("nodes.loading").load_vae()
    host.set_host(None)
    differences["embedded, plain"] = gap(embedded.encode(one), alone.encode(one))
    large = 0.5 * torch.randn(1, 16, 40, 8, generator=torch.Generator().manual_seed(4))
    differences["embedded decode, plain"] = gap(embedded.decode(large), alone.decode(large))
    return out


def nodes_of_vae(
    ours: Any, theirs: Any, one: Tensor, small: Tensor, differences: dict[str, float]
) -> None:
    """Every node of the host that takes a VAE and pictures or latents."""
    latent = {"samples": small}
    differences["VAEEncode"] = gap(
        run("VAEEncode", vae=ours, pixels=one)[0]["samples"], ours.encode(one)
    )
    differences["VAEDecode"] = gap(
        run("VAEDecode", vae=ours, samples=latent)[0], ours.decode(small)
    )
    tiled = {"tile_size": 64, "overlap": 16, "temporal_size": 64, "temporal_overlap": 8}
    large = picture(5, 72, 64)
    found = run("VAEEncodeTiled", vae=ours, pixels=large, **tiled)[0]["samples"]
    differences["VAEEncodeTiled, whole"] = gap(found, ours.encode(large))
    # Two tiles each way.
    wide = small[:1].repeat(1, 1, 3, 2)
    found = run("VAEDecodeTiled", vae=ours, samples={"samples": wide}, **tiled)[0]
    differences["VAEDecodeTiled, whole"] = gap(found, ours.decode(wide))
    mask = (picture(6, 32, 24)[..., 0] > 0.5).float()
    for name in ("VAEEncodeForInpaint", "InpaintModelConditioning"):
        more: dict[str, Any] = {"pixels": one, "mask": mask}
        if name == "VAEEncodeForInpaint":
            more["grow_mask_by"] = 6
        else:
            more |= {"positive": [[torch.zeros(1, 1, 1), {}]], "negative": [[torch.zeros(1), {}]]}
            more["noise_mask"] = True
        mine, other = (run(name, vae=vae, **more)[-1] for vae in (ours, theirs))
        differences[f"{name}, theirs"] = gap(mine["samples"], other["samples"])
        differences[f"{name} mask, theirs"] = gap(mine["noise_mask"], other["noise_mask"])


def bases(ours: Any, one: Tensor, small: Tensor, differences: dict[str, float]) -> None:
    """The host's own methods, which a pack may call on our object, and the network itself."""
    differences["base encode"] = gap(comfy.sd.VAE.encode(ours, one), ours.encode(one))
    differences["base decode"] = gap(comfy.sd.VAE.decode(ours, small), ours.decode(small))
    whole = ours.first_stage_model
    x = one.movedim(-1, 1) * 2 - 1
    differences["first_stage_model"] = gap(whole.encode(x), ours.encode(one))


def memory(ours: Any, small: Tensor) -> dict[str, Any]:
    """What the host's memory management knows of it."""
    management.unload_all_models()
    before = [m.model is ours.patcher for m in management.current_loaded_models]
    wanted = ours.decode(small)
    known = [m.model is ours.patcher for m in management.current_loaded_models]
    asked: list[int] = []
    whole: list[bool] = []
    load = management.load_models_gpu

    def watch(models: Any, memory_required: int = 0, **options: Any) -> None:
        asked.append(int(memory_required))
        whole.append(options.get("force_full_load", False))
        load(models, memory_required=memory_required, **options)

    management.load_models_gpu = watch
    try:
        ours.decode(small)
        ours.decode_tiled(small, tile_x=2, tile_y=3)
        ours.decode_tiled(small, tile_x=3, tile_y=2)
        ours.encode(picture(8, 32, 40))
    finally:
        management.load_models_gpu = load
    management.unload_all_models()
    again = gap(ours.decode(small), wanted)
    return {
        "before": before,
        "known": known,
        "size": ours.patcher.model_size(),
        "weights": sum(t.nbytes for t in ours.first_stage_model.state_dict().values()),
        "asked": asked,
        "whole": whole,
        # What the host's own encode and decode, and other packs, ask for.
        "used": [
            int(ours.memory_used_decode((1, 16, 4, 5), ours.vae_dtype)),
            int(ours.memory_used_encode((1, 3, 32, 40), ours.vae_dtype)),
        ],
        "again": again,
    }


def full(ours: Any, one: Tensor, small: Tensor, network: Any) -> dict[str, Any]:
    """The device's memory ends whenever a whole picture is tried."""
    decoded, encoded = ours.decode(small), ours.encode(one)
    handler = Said()
    logging.getLogger().addHandler(handler)
    network.tell_once.cache_clear()

    def forward(self: Any, x: Tensor) -> Tensor:
        raise torch.cuda.OutOfMemoryError("full")

    forwards = [(half, half.forward) for half in (network.Encoder, network.Decoder)]
    tile = network.FALLBACK_TILE
    network.FALLBACK_TILE = 16
    for half, _ in forwards:
        half.forward = forward
    try:
        gaps = [gap(ours.decode(small), decoded), gap(ours.encode(one), encoded)]
        ours.decode(small)
    finally:
        network.FALLBACK_TILE = tile
        for half, kept in forwards:
            half.forward = kept
        logging.getLogger().removeHandler(handler)
    return {"gaps": gaps, "warnings": handler.texts}


def interrupts(ours: Any, small: Tensor) -> list[bool]:
    """Stopped before the first picture, and usable afterwards."""
    wanted = ours.decode(small)
    found = []
    one = picture(9, 32, 24)
    for call, given in (
        (ours.decode, small),
        (ours.decode_tiled, small),
        (ours.encode, one),
        (ours.encode_tiled, one),
    ):
        management.interrupt_current_processing(True)
        try:
            call(given)
        except management.InterruptProcessingException:
            found.append(True)
    return [*found, gap(ours.decode(small), wanted) == 0]


def copies(ours: Any, small: Tensor) -> list[Any]:
    """As Select VAE Device makes them, and as several devices need them."""
    other = copy.copy(ours)
    other.patcher = ours.patcher.clone()
    other.first_stage_model = other.patcher.model
    found = [gap(other.decode(small), ours.decode(small)), other.resolutions == ours.resolutions]
    deep = copy.deepcopy(ours.first_stage_model)
    found.append(deep.core.decoder is deep.decoder)
    try:
        from comfy_extras.nodes_multigpu import SelectVAEDeviceNode
    except ImportError:
        return found  # An older ComfyUI.
    chosen = SelectVAEDeviceNode.execute(ours, "default").args[0]
    found.append(gap(chosen.decode(small), ours.decode(small)))
    return found


def own_nodes(module: Any, theirs: Any, ours: Any, one: Tensor, small: Tensor) -> dict[str, Any]:
    """Kontext: Reference and Kontext: Finish with the host's own VAE."""
    reference, finish = module("nodes.reference"), module("nodes.finish")
    gaps = {}
    latents = [reference.encode_reference(vae, one, "keep", "it")[0] for vae in (theirs, ours)]
    gaps["reference"] = gap(*latents)
    finished = [
        finish.KontextFinish.execute({"samples": small[:1]}, vae, 0, original=picture(7, 50, 60))
        for vae in (theirs, ours)
    ]
    gaps["finish"] = gap(finished[0].args[0], finished[1].args[0])
    cheap = comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)})
    error = module("kontext_core.errors").KontextError
    calls = (
        lambda: reference.encode_reference(cheap, one, "keep", "it"),
        lambda: finish.KontextFinish.execute({"samples": small}, cheap, 0),
    )
    return {"gaps": gaps, "refused": [refusal(call, error) for call in calls]}


def refusal(call: Any, kind: type[Exception]) -> str | None:
    """What a call said when it refused."""
    try:
        call()
    except kind as error:
        return str(error)
    return None
