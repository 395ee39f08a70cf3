"""References with strength, mask, part of the run and place: KSampler on our MODEL beside the core's
own sampler; and Kontext: Sampler beside KSampler."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from model_hooks import Calls
from native_flux import (
    call,
    host_model,
    ksampler,
    our_model,
    pack_module,
    randn,
    random_flux,
    text,
    with_references,
)
from torch import Tensor


def reference(seed: int, height: int = 8, width: int = 12, batch: int = 1, **values: Any) -> Any:
    made = pack_module("kontext_core.stitcher").Reference
    return made(randn(seed, batch, 16, height, width), **values)


def stitched(conditioning: Any, *references: Any, method: str = "offset") -> Any:
    return pack_module("nodes.conditioning").attach(conditioning, references, method)


def chains() -> dict[str, tuple[list[Any], str]]:
    """Name to references and a method."""
    hole = torch.zeros(64, 96)
    hole[:32, 20:70] = 1
    one, two = reference(50), reference(51, 10, 6)
    return {
        "plain": ([one, two], "offset"),
        "strength": ([replace(one, strength=0.4), replace(two, strength=2.5)], "offset"),
        "strength 0": ([replace(one, strength=0.0), two], "index"),
        "mask": ([replace(one, mask=hole), two], "offset"),
        "start and end": ([replace(one, end=0.5), replace(two, start=0.25)], "offset"),
        "at timestep 0": ([replace(one, strength=0.5), two], "index_timestep_zero"),
        "a place": ([replace(one, position=(1.0, 5.0, 3.5)), two], "uxo"),
        "all at once": (
            [
                replace(one, strength=0.7, mask=hole, end=0.75),
                replace(two, strength=1.5, start=0.25),
                reference(52, 5, 7, position=(2.0, 0.0, 9.0)),
            ],
            "index",
        ),
    }


def core_latent(network: Any, positive: Any, **values: Any) -> Tensor:
    """By the core's own sampler, as outside ComfyUI."""
    sampler, host = pack_module("nodes.sampler"), pack_module("nodes.host")
    model = pack_module("nodes.native").KontextModel
    settings = {
        "seed": 7, "steps": 4, "guidance": 2.5, "negative": None, "cfg": 1.0,
        "solver": "euler", "schedule": "simple", "denoise": 1.0, **values,
    }  # fmt: skip
    latent = settings.pop("latent", None) or {"samples": torch.zeros(1, 16, 8, 12)}
    host.set_host(host.PlainHost())
    try:
        return sampler.run_sampler(model(network, "core"), positive, latent, **settings)
    finally:
        host.set_host(None)


def node_latent(model: Any, positive: Any, **values: Any) -> Tensor:
    """By Kontext: Sampler in this host."""
    settings = {
        "seed": 7, "steps": 4, "guidance": 2.5, "cfg": 1.0, "solver": "euler",
        "schedule": "simple", "denoise": 1.0, **values,
    }  # fmt: skip
    latent = settings.pop("latent", None) or {"samples": torch.zeros(1, 16, 8, 12)}
    node = pack_module("nodes.sampler").KontextSampler
    return node.execute(model, positive, latent, **settings).result[0]["samples"]


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max()) if a.shape == b.shape else float("inf")


def answers() -> dict[str, Any]:
    # Asked whether the client of this run takes previews.
    instance = SimpleNamespace(sockets_metadata={}, client_id=None)
    server = ModuleType("server")
    server.PromptServer = SimpleNamespace(instance=instance)  # type: ignore[attr-defined]
    sys.modules["server"] = server
    network = random_flux()
    ours, theirs = our_model(random_flux()), host_model(network)
    return {
        "chains": _chains(network, ours),
        "batching": _batching(network, ours),
        "sampler": _sampler(network, ours, theirs),
        "nag": _nag(network, ours, theirs),
        "early": _early(network, ours, theirs),
        "notes": _notes(ours, theirs),
        "format": _format(),
    }


def _chains(network: Any, ours: Any) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, (references, method) in chains().items():
        positive = stitched(text(1), *references, method=method)
        out = ksampler(ours, positive)
        bare = [replace(r, strength=1.0, start=0.0, end=1.0, mask=None, position=None)
                for r in references]  # fmt: skip
        made[name] = {
            "difference": distance(out, core_latent(network, positive)),
            "effect": distance(out, ksampler(ours, stitched(text(1), *bare, method=method))),
        }
    return made


def _batching(network: Any, ours: Any) -> dict[str, Any]:
    """True guidance and several pictures; equal references on both sides make one call of two."""
    references, method = chains()["all at once"]
    positive, negative = (stitched(text(i), *references, method=method) for i in (1, 2))
    latent = {"samples": torch.zeros(2, 16, 8, 12)}
    each = stitched(text(1), reference(53, batch=2, strength=0.5))
    later = with_references(positive, randn(54, 1, 16, 8, 8))
    masked = {"samples": randn(70, 1, 16, 8, 12), "noise_mask": torch.zeros(1, 64, 96)}
    masked["noise_mask"][:, :, :40] = 1
    runs = {
        "cfg 3, batch of 2": (
            ksampler(ours, positive, negative, batch=2, cfg=3.0),
            core_latent(network, positive, negative=negative, cfg=3.0, latent=latent),
        ),
        "a reference each": (
            ksampler(ours, each, batch=2),
            core_latent(network, each, latent=latent),
        ),
        "one added by ReferenceLatent": (
            ksampler(ours, later),
            core_latent(network, later),
        ),
        "noise mask": (
            ksampler(ours, positive, latent=masked, denoise=0.7),
            core_latent(network, positive, latent=masked, denoise=0.7),
        ),
    }
    made = {name: {"difference": distance(*pair)} for name, pair in runs.items()}
    for name, other in (("same", negative), ("none", text(2))):
        calls = Calls(ours)
        ksampler(ours, positive, other, cfg=3.0)
        made[f"calls, {name}"] = {"calls": calls.end()}
    return made


def differential(model: Any) -> Any:
    """The host's own node for masks that say how much may change."""
    from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion

    return call(DifferentialDiffusion, model=model, strength=1.0)


def _sampler(network: Any, ours: Any, theirs: Any) -> dict[str, Any]:
    """Kontext: Sampler and KSampler with the same settings, on our MODEL and on the host's."""
    references, method = chains()["all at once"]
    special = stitched(text(1), *references, method=method)
    plain = stitched(text(1), reference(50), reference(51, 10, 6))
    negative = stitched(text(2), reference(50), reference(51, 10, 6))
    start = {"samples": randn(70, 1, 16, 8, 12), "noise_mask": torch.zeros(1, 64, 96)}
    start["noise_mask"][:, :, :40] = 1
    picked = {"samples": torch.zeros(2, 16, 8, 12), "batch_index": [3, 1]}
    made: dict[str, Any] = {}
    for kind, model in (("ours", ours), ("host's", theirs)):
        runs = {
            "plain": (ksampler(model, plain), node_latent(model, plain)),
            "cfg 3": (
                ksampler(model, plain, negative, cfg=3.0),
                node_latent(model, plain, negative=negative, cfg=3.0),
            ),
            "img2img, mask": (
                ksampler(model, plain, latent=start, denoise=0.6),
                node_latent(model, plain, latent=start, denoise=0.6),
            ),
            "heun": (
                ksampler(model, plain, sampler="heun"),
                node_latent(model, plain, solver="heun"),
            ),
            "two of a batch": (
                ksampler(model, plain, latent=picked),
                node_latent(model, plain, latent=picked),
            ),
            "two entries": (
                ksampler(model, [*plain, *text(3)]),
                node_latent(model, [*plain, *text(3)]),
            ),
            "our schedule": (
                core_latent(network, plain, schedule="kontext"),
                node_latent(model, plain, schedule="kontext"),
            ),
        }
        slope = {**start, "noise_mask": torch.linspace(0, 1, 96).expand(1, 64, 96)}
        runs["differential mask"] = (
            ksampler(differential(model), plain, latent=slope, denoise=0.6),
            node_latent(model, plain, latent=slope, denoise=0.6, mask_mode="differential"),
        )
        for name, pair in runs.items():
            made[f"{kind}, {name}"] = distance(*pair)
        made[f"{kind}, soft is another"] = distance(
            runs["differential mask"][1], node_latent(model, plain, latent=slope, denoise=0.6)
        )
    made["ours, all at once"] = distance(ksampler(ours, special), node_latent(ours, special))
    own = stitched(text(2), reference(58))
    made["negative sees what positive sees"] = distance(
        node_latent(ours, plain, negative=own, cfg=3.0),
        node_latent(ours, plain, negative=negative, cfg=3.0),
    )
    bare = [[f, {k: v for k, v in extra.items() if k != "guidance"}] for f, extra in plain]
    made["guidance of the widget"] = distance(
        node_latent(ours, bare, guidance=4.0), ksampler(ours, with_guidance(bare, 4.0))
    )
    return made


def _nag(network: Any, ours: Any, theirs: Any) -> dict[str, Any]:
    """Guidance within the attention: here, in the core, and by a MODEL that knows nothing of it."""
    nag = pack_module("kontext_core.guidance").Nag(5.0)
    references, method = chains()["all at once"]
    special = stitched(text(1), *references, method=method)
    plain, negative = stitched(text(1), reference(50)), text(2)
    asked = {"negative": negative, "nag_scale": 5.0}
    runs = {
        "one reference": (
            node_latent(ours, plain, **asked),
            core_latent(network, plain, negative=negative, nag=nag),
        ),
        "all at once": (
            node_latent(ours, special, **asked),
            core_latent(network, special, negative=negative, nag=nag),
        ),
        "cfg 3, batch of 2": (
            node_latent(ours, plain, cfg=3.0, latent={"samples": torch.zeros(2, 16, 8, 12)}, **asked),
            core_latent(
                network, plain, negative=stitched(negative, reference(50)), cfg=3.0, nag=nag,
                latent={"samples": torch.zeros(2, 16, 8, 12)},
            ),
        ),
    }  # fmt: skip
    return {
        **{name: distance(*pair) for name, pair in runs.items()},
        "effect": distance(runs["one reference"][0], node_latent(ours, plain)),
        "off again": distance(node_latent(ours, plain), ksampler(ours, plain)),
        "host's": distance(node_latent(theirs, plain, **asked), node_latent(theirs, plain)),
    }


def _early(network: Any, ours: Any, theirs: Any) -> dict[str, Any]:
    """Kontext: Candidates' look after 2 of 4 steps, here and in the core."""
    node = pack_module("nodes.candidates").KontextCandidates
    references, method = chains()["all at once"]
    special = stitched(text(1), *references, method=method)
    plain = stitched(text(1), reference(50))
    empty = {"samples": torch.zeros(1, 16, 8, 12)}

    def look(model: Any, positive: Any) -> Tensor:
        out = node.execute(model, positive, empty, 6, 2, 2, "", 4, 2.5)
        return out.result[0]["samples"][1:]

    return {
        name: distance(
            look(model, positive), core_latent(network, positive, schedule="kontext", stop_at=2)
        )
        for name, model, positive in (
            ("ours", ours, special), ("ours, plain", ours, plain), ("host's", theirs, plain),
        )
    } | {"schedule kept": distance(node_latent(ours, special), ksampler(ours, special))}  # fmt: skip


def with_guidance(conditioning: Any, value: float) -> Any:
    return [[features, {**extra, "guidance": value}] for features, extra in conditioning]


def _notes(ours: Any, theirs: Any) -> dict[str, Any]:
    """What a run says it left out, and what it refuses."""
    node = pack_module("nodes.sampler").KontextSampler
    error = pack_module("kontext_core.errors").KontextError
    references, method = chains()["all at once"]
    positive = stitched(text(1), *references, method=method)
    plain = stitched(text(1), reference(50), reference(51, strength=0.0))
    empty = {"samples": torch.zeros(1, 16, 8, 12)}
    settings = {"seed": 1, "steps": 1, "guidance": 2.5, "cfg": 1.0, "solver": "euler"}
    settings |= {"schedule": "simple", "denoise": 1.0}

    def said(model: Any, conditioning: Any, **more: Any) -> list[str]:
        ui = node.execute(model, conditioning, empty, **settings, **more).ui
        return ui["kontext_notes"] if ui else []

    class Other:
        model = torch.nn.Linear(1, 1)

    refused = ""
    try:
        node.execute(Other(), positive, empty, **settings)
    except error as caught:
        refused = str(caught)
    return {
        "ours": said(ours, positive),
        "host's": said(theirs, positive),
        "plain": said(theirs, plain),
        "nag": said(theirs, text(1), negative=text(2), nag_scale=5.0),
        "idle": said(ours, text(1), negative=text(2)),
        "refused": refused,
    }


def _format() -> dict[str, Any]:
    """A model whose latents have factors of their own, as the embedded one."""
    made = pack_module("kontext_core.latents").LatentFormat
    network, twin = random_flux(), random_flux()
    factors = randn(91, 16, 3).tolist()
    for one in (network, twin):
        one.latent_format = made(scale_factor=0.7, shift_factor=-0.3, rgb_factors=factors)
        one.resolutions = ((64, 64), (96, 64))
    ours = our_model(twin)
    positive = stitched(text(1), reference(50))
    inner = ours.get_model_object("latent_format")
    import latent_preview

    args = latent_preview.args
    before, args.preview_method = args.preview_method, latent_preview.LatentPreviewMethod.Auto
    try:
        previewer = latent_preview.get_previewer(torch.device("cpu"), inner)
        shown = previewer.decode_latent_to_preview(randn(92, 1, 16, 4, 6))
    finally:
        args.preview_method = before
    core = network.latent_format.preview(randn(92, 1, 16, 4, 6))[0]
    import numpy

    pixels = torch.from_numpy(numpy.array(shown)).float() / 255
    return {
        "difference": distance(ksampler(ours, positive), core_latent(network, positive)),
        "preview": distance(pixels, core),
        "resolutions": pack_module("nodes.native").resolutions_of(ours),
        "theirs": pack_module("nodes.native").resolutions_of(host_model(network))[:2],
    }
