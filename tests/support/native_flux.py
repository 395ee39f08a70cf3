"""Small random FLUX.1s inside a real ComfyUI: the pack's MODEL and the host's own, same weights.

Used by the scripts of tests/native, in ComfyUI's interpreter; must not import pytest.
"""

from __future__ import annotations

import importlib
from dataclasses import asdict, fields
from typing import Any

import torch
from torch import Tensor

CONTEXT, POOLED = 40, 24


def pack_module(path: str) -> Any:
    """A module of the pack under test, such as "nodes.native"."""
    return importlib.import_module(f"kontext_pack.{path}")


def random_flux(seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A transformer of the core's with two double and two single blocks, every weight drawn."""
    params = pack_module("kontext_core.config").FluxParams
    values = {
        "vec_in_dim": POOLED,
        "context_in_dim": CONTEXT,
        "hidden_size": 96,
        "num_heads": 3,
        "depth": 2,
        "depth_single_blocks": 2,
        "axes_dim": (8, 12, 12),
        **changes,
    }
    network = pack_module("kontext_core.models.flux").Flux(params(**values))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            if name.endswith("norm.scale"):
                drawn = 1 + 0.2 * drawn
            elif parameter.ndim > 1:
                drawn = drawn / parameter[0].numel() ** 0.5
            else:
                drawn = 0.2 * drawn
            parameter.copy_(drawn)
    return network.to(dtype).eval().requires_grad_(False)


def our_model(network: Any, name: str = "small") -> Any:
    """The pack's MODEL of a network."""
    return pack_module("nodes.native").make_model(network, name)


def host_model(network: Any, dtype: torch.dtype | None = None) -> Any:
    """The host's own MODEL with copies of a network's weights."""
    import comfy.ldm.flux.model
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models

    known = {field.name for field in fields(comfy.ldm.flux.model.FluxParams)}
    values = {
        **asdict(network.params),
        "in_channels": 16,
        "out_channels": 16,
        "patch_size": 2,
        "txt_ids_dims": [],
    }
    values = {"image_model": "flux", **{k: v for k, v in values.items() if k in known}}
    known_models = comfy.supported_models
    guided = network.params.guidance_embed
    config = (known_models.Flux if guided else known_models.FluxSchnell)(values)
    weights = {k: v.clone() for k, v in network.state_dict().items()}
    own = next(iter(weights.values())).dtype
    config.set_inference_dtype(own, dtype if dtype not in (None, own) else None)
    model = config.get_model({})
    model.load_model_weights(dict(weights), "")
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=device)


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def text(seed: int, tokens: int = 12, **values: Any) -> list[list[Any]]:
    """CONDITIONING of a random text."""
    more = {"pooled_output": randn(seed + 1000, 1, POOLED), "guidance": 2.5, **values}
    return [[randn(seed, 1, tokens, CONTEXT), more]]


def call(node: Any, **inputs: Any) -> Any:
    """First output of a node of the host's, of either kind."""
    run = node.execute if hasattr(node, "execute") else getattr(node(), node.FUNCTION)
    out = run(**inputs)
    return getattr(out, "result", out)[0]


def with_references(conditioning: Any, *latents: Tensor, method: str | None = None) -> Any:
    """By the host's ReferenceLatent and FluxKontextMultiReferenceLatentMethod."""
    from comfy_extras.nodes_edit_model import ReferenceLatent
    from comfy_extras.nodes_flux import FluxKontextMultiReferenceLatentMethod as Method

    for latent in latents:
        conditioning = call(ReferenceLatent, conditioning=conditioning, latent={"samples": latent})
    if method is not None:
        conditioning = call(Method, conditioning=conditioning, reference_latents_method=method)
    return conditioning


def ksampler(
    model: Any,
    positive: Any,
    negative: Any = None,
    *,
    latent: dict[str, Any] | None = None,
    size: tuple[int, int] = (8, 12),
    batch: int = 1,
    seed: int = 7,
    steps: int = 4,
    cfg: float = 1.0,
    sampler: str = "euler",
    scheduler: str = "simple",
    denoise: float = 1.0,
) -> Tensor:
    """The host's KSampler: raw latent."""
    import nodes

    latent = latent or {"samples": torch.zeros(batch, 16, *size)}
    negative = positive if negative is None else negative
    return nodes.common_ksampler(
        model, seed, steps, cfg, sampler, scheduler, positive, negative, latent, denoise=denoise
    )[0]["samples"]
