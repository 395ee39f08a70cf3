"""MODEL inside a real ComfyUI: our transformer in ComfyUI's own Flux, in a ModelPatcher.

Only where `comfy` can be imported. Samplers, schedulers, model nodes and memory management are then the
host's; ours are the network, its forward, and references with strength, mask, time and place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.supported_models
from comfy.patcher_extension import WrappersMP

from ...kontext_core.latents import FLUX_LATENT, LatentFormat
from ..conditioning import ReferenceChain, check_text, references_of
from . import run
from .conds import CONDNag, CONDReferences
from .forward import NativeFlux
from .layers import decoding_memory, host_layers
from .patcher import patcher_for
from .references import is_plain

if TYPE_CHECKING:
    from ...kontext_core.models.flux import Flux


def host_latent_format(ours: LatentFormat) -> Any:
    """A latent format of ComfyUI's with our factors; FLUX.1's is the host's own."""
    made: Any = comfy.latent_formats.Flux()
    if ours == FLUX_LATENT:
        return made
    made.latent_channels = ours.channels
    made.spacial_downscale_ratio = ours.downscale
    made.scale_factor, made.shift_factor = ours.scale_factor, ours.shift_factor
    # TAEF1 knows FLUX.1's latents only.
    made.taesd_decoder_name = None
    made.latent_rgb_factors = made.latent_rgb_factors_bias = None
    if ours.rgb_factors is not None:
        # The host's are for colours in -1..1.
        made.latent_rgb_factors = [[2 * value for value in row] for row in ours.rgb_factors]
        made.latent_rgb_factors_bias = [2 * value - 1 for value in ours.rgb_bias]
    return made


class KontextFlux(comfy.model_base.Flux):
    """ComfyUI's model around our transformer."""

    def __init__(self, config: Any, network: NativeFlux) -> None:
        kind = comfy.model_base.ModelType
        # Without the embedding of a guidance value it is FLUX.1 [schnell]'s kind.
        model_type = kind.FLUX if network.params.guidance_embed else kind.FLOW
        super().__init__(config, model_type, unet_model=lambda **_: network)

    def memory_required(self, *args: Any, **kwargs: Any) -> Any:
        """As the host's, with what packed layers are decoded into, what modulations are kept, and, in
        a run that leaves work out, keys and values."""
        dtype = self.manual_cast_dtype or self.get_dtype()
        network = self.diffusion_model
        more = decoding_memory(network, dtype) + network.modulated.memory(dtype)
        if network.run is not None:
            shape = args[0] if args else kwargs["input_shape"]
            shapes = kwargs.get("cond_shapes", args[1] if len(args) > 1 else {})
            more += network.run.memory(shape, shapes.get("ref_latents", ()), dtype)
        return super().memory_required(*args, **kwargs) + more

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        params, text = self.diffusion_model.params, kwargs.get("cross_attn")
        # A pooled feature that is too wide is cut, as ComfyUI's own Flux does.
        if text is not None and text.shape[-1] != params.context_in_dim:
            check_text([[text, kwargs]], params, "the text")
        out = super().extra_conds(**kwargs)
        nag = kwargs.get("kontext_nag")
        if nag is not None:
            out["kontext_nag"] = CONDNag(nag)
        references = references_of(kwargs)
        if all(is_plain(reference) for reference in references):
            return out
        latents = [self.process_latent_in(r.latent) for r in references if r.strength > 0]
        out["ref_latents"] = comfy.conds.CONDList(latents)
        out["kontext_references"] = CONDReferences(ReferenceChain(references))
        method = kwargs.get("reference_latents_method")
        if method is not None:
            out["ref_latents_method"] = comfy.conds.CONDConstant(method)
        return out


def _config(network: NativeFlux) -> Any:
    """ComfyUI's description of the model."""
    params = network.params
    known = comfy.supported_models
    base = known.Flux if params.guidance_embed else known.FluxSchnell
    patch = network.patch_size**2
    config = base(
        {
            "image_model": "flux",
            **vars(params),
            "in_channels": params.in_channels // patch,
            "out_channels": params.out_channels // patch,
            "patch_size": network.patch_size,
        }
    )
    config.latent_format = host_latent_format(network.latent_format)
    config.set_inference_dtype(network.dtype, None)
    return config


def wrap(flux: Flux) -> Any:
    """A MODEL of the host's around a network of the core's, whose layers become the host's."""
    network = NativeFlux(flux)
    host_layers(network)
    network.requires_grad_(False)
    model = KontextFlux(_config(network), network)
    patcher = patcher_for(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
    # Clones keep it.
    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, run.KEY, run.during)
    return patcher
