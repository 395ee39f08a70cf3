"""KSampler on our MODEL and on the host's own Flux with the same weights: largest differences."""

from __future__ import annotations

from typing import Any

import torch
from native_flux import (
    call,
    host_model,
    ksampler,
    our_model,
    randn,
    random_flux,
    text,
    with_references,
)


def references(count: int) -> list[torch.Tensor]:
    sizes = [(8, 12), (10, 6), (4, 8)]
    return [randn(50 + i, 1, 16, *size) for i, size in enumerate(sizes[:count])]


def mask(height: int, width: int) -> torch.Tensor:
    painted = torch.zeros(1, height, width)
    painted[:, :, : width // 2] = 1
    return painted


def cases() -> dict[str, Any]:
    """Name to a function of a MODEL that gives a latent."""
    from comfy_extras import nodes_custom_sampler as custom
    from comfy_extras import nodes_flux, nodes_model_advanced

    import nodes

    found: dict[str, Any] = {}
    p, n = text(1), text(2)
    for count in range(4):
        refs = references(count)
        positive, negative = with_references(p, *refs), with_references(n, *refs)
        found[f"{count} references"] = lambda m, p=positive: ksampler(m, p)
        found[f"{count} references, cfg 3"] = lambda m, p=positive, n=negative: ksampler(
            m, p, n, cfg=3.0
        )
    two = references(2)
    p2, n2 = with_references(p, *two), with_references(n, *two)
    for method in ("index", "uxo/uno", "offset"):
        placed = with_references(p, *references(3), method=method)
        found[f"3 references, {method}"] = lambda m, p=placed: ksampler(m, p)
    found["negative without references"] = lambda m: ksampler(m, p2, n, cfg=3.0)
    longer = with_references(text(3, tokens=14), *two)
    found["negative of another length"] = lambda m: ksampler(m, p2, longer, cfg=3.0)
    found["batch of 2, cfg 3"] = lambda m: ksampler(m, p2, n2, cfg=3.0, batch=2)
    pair = with_references(p, randn(60, 2, 16, 8, 12))
    found["a reference each"] = lambda m: ksampler(m, pair, batch=2)
    start = {"samples": randn(70, 1, 16, 8, 12)}
    found["img2img"] = lambda m: ksampler(m, p2, latent=start, denoise=0.6)
    hole = {**start, "noise_mask": mask(64, 96)}
    found["noise mask, cfg 2"] = lambda m: ksampler(m, p2, n2, latent=hole, cfg=2.0)
    odd = with_references(p, randn(61, 1, 16, 9, 7), randn(62, 1, 16, 5, 5))
    for method in ("offset", "index", "uxo/uno"):
        placed = with_references(odd, method=method)
        found[f"odd sizes, {method}"] = lambda m, p=placed: ksampler(m, p, size=(7, 11))
    found["dpmpp_2m, beta"] = lambda m: ksampler(m, p2, sampler="dpmpp_2m", scheduler="beta")
    found["heun"] = lambda m: ksampler(m, p2, sampler="heun", steps=3)

    area = call(
        nodes.ConditioningSetArea, conditioning=p2, width=48, height=64, x=0, y=0, strength=1.0
    )
    found["area"] = lambda m: ksampler(m, [*area, *p])
    masked = call(
        nodes.ConditioningSetMask,
        conditioning=p2, mask=mask(8, 12), set_cond_area="default", strength=1.0,
    )  # fmt: skip
    found["conditioning mask"] = lambda m: ksampler(m, [*masked, *n2], n, cfg=2.0)
    early, late = (
        call(nodes.ConditioningSetTimestepRange, conditioning=c, start=a, end=b)
        for c, a, b in ((p2, 0.0, 0.5), (n, 0.5, 1.0))
    )
    found["timestep ranges"] = lambda m: ksampler(m, [*early, *late])
    found["zeroed negative"] = lambda m: ksampler(
        m, p2, call(nodes.ConditioningZeroOut, conditioning=p2), cfg=2.0
    )
    guided = call(nodes_flux.FluxGuidance, conditioning=p2, guidance=30.0)
    found["guidance 30"] = lambda m: ksampler(m, guided)
    unguided = call(nodes_flux.FluxDisableGuidance, conditioning=p2)
    found["no guidance"] = lambda m: ksampler(m, unguided)

    def shifted(model: Any) -> Any:
        node = nodes_model_advanced.ModelSamplingFlux
        return call(node, model=model, max_shift=1.4, base_shift=0.3, width=512, height=768)

    found["ModelSamplingFlux"] = lambda m: ksampler(shifted(m), p2)

    def by_parts(model: Any) -> torch.Tensor:
        run = {
            "noise": call(custom.RandomNoise, noise_seed=7),
            "guider": call(custom.BasicGuider, model=model, conditioning=p2),
            "sampler": call(custom.KSamplerSelect, sampler_name="dpmpp_2m"),
            "sigmas": call(
                custom.BasicScheduler, model=model, scheduler="beta", steps=4, denoise=1
            ),
            "latent_image": {"samples": torch.zeros(1, 16, 8, 12)},
        }
        return call(custom.SamplerCustomAdvanced, **run)["samples"]

    found["SamplerCustomAdvanced"] = by_parts
    from comfy_extras import nodes_differential_diffusion as differential

    def soft(model: Any) -> Any:
        try:
            return call(differential.DifferentialDiffusion, model=model, strength=1.0)
        except TypeError:
            return call(differential.DifferentialDiffusion, model=model)

    slope = torch.linspace(0, 1, 96).expand(1, 64, 96)
    found["DifferentialDiffusion"] = lambda m: ksampler(
        soft(m), p2, latent={**start, "noise_mask": slope}
    )
    bare = [[p[0][0], {k: v for k, v in p2[0][1].items() if k != "pooled_output"}]]
    import inspect

    import comfy.model_base

    if "kwargs.get" in inspect.getsource(comfy.model_base.Flux.encode_adm):
        found["no pooled text"] = lambda m: ksampler(m, bare)
    return found


def answers() -> dict[str, Any]:
    """Of every case the largest difference, and what it differs from a run without references."""
    network = random_flux()
    theirs, ours = host_model(network), our_model(network)
    made: dict[str, Any] = {}
    latents: dict[str, torch.Tensor] = {}
    for name, run in cases().items():
        a, b = run(theirs), run(ours)
        latents[name] = b
        made[name] = {
            "difference": float((a - b).abs().max()),
            "shape": list(a.shape) == list(b.shape),
        }
    unguided = random_flux(guidance_embed=False)
    pair = [
        ksampler(model, with_references(text(1), *references(1)))
        for model in (host_model(unguided), our_model(unguided))
    ]
    difference = float((pair[0] - pair[1]).abs().max())
    made["without guidance embedding"] = {"difference": difference, "shape": True}
    plain = latents["0 references"]
    for name in ("1 references", "2 references", "3 references", "3 references, index"):
        made[name]["effect"] = float((latents[name] - plain).abs().max())
        plain = latents[name]
    return made
