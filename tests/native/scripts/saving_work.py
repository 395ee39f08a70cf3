"""Kontext: Accelerate inside the host, with its KSampler and with Kontext: Sampler."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import comfy.model_management as management
import torch
from native_flux import (
    host_model,
    ksampler,
    our_model,
    pack_module,
    randn,
    random_flux,
    text,
    with_references,
)

STEPS = 8
PRESETS = ("safe", "balanced", "fast")


def difference(one: Any, other: Any) -> float:
    return float((one - other).abs().max())


def main(pack: Any) -> dict[str, Any]:
    network = random_flux()
    model, theirs = our_model(network), host_model(random_flux())
    node = pack_module("nodes.accelerate").KontextAccelerate
    sampler = pack_module("nodes.sampler").KontextSampler
    carried = pack_module("nodes.native.carried")
    # Nobody listens, and nobody wants previews.
    server = ModuleType("server")
    server.PromptServer = SimpleNamespace(  # type: ignore[attr-defined]
        instance=SimpleNamespace(sockets_metadata={}, client_id=None, send_sync=print)
    )
    sys.modules["server"] = server
    told: list[str] = []
    carried.tell = pack_module("nodes.native.run").tell = lambda wanted, report: told.append(
        f"{wanted.preset}: {report}"
    )
    positive = with_references(text(1), randn(50, 1, 16, 8, 12))
    negative = with_references(text(2), randn(50, 1, 16, 8, 12))

    def fast(preset: str = "custom", source: Any = model, **knobs: Any) -> Any:
        given = {"references_every": 3, "warm_up": 0.0, "full_at_end": 1, **knobs}
        return node.execute(source, preset, **(given if preset == "custom" else {})).result[0]

    def run(source: Any, **more: Any) -> Any:
        return ksampler(source, positive, **{"steps": STEPS, **more})

    plain = run(model)
    off = run(node.execute(fast(), "off").result[0])
    found: dict[str, Any] = {"off": difference(off, plain), "told nothing": list(told)}
    found["presets"] = {}
    for preset in PRESETS:
        told.clear()
        made = run(fast(preset))
        found["presets"][preset] = {"difference": difference(made, plain), "told": list(told)}
    told.clear()
    made = run(fast())
    ours = sampler.execute(
        fast(), positive, {"samples": torch.zeros(1, 16, 8, 12)}, seed=7, steps=STEPS, guidance=2.5,
        cfg=1.0, solver="euler", schedule="simple", denoise=1.0,
    )  # fmt: skip
    found["sampler"] = {
        "difference": difference(ours.result[0]["samples"], made),
        "notes": ours.ui["kontext_notes"],
        "told": list(told),
    }
    found["again plain"] = difference(run(model), plain)

    # What graphs do with a MODEL.
    cases: dict[str, dict[str, Any]] = {
        "cfg 3": {"negative": negative, "cfg": 3.0},
        "cfg 3, batch of 2": {"negative": negative, "cfg": 3.0, "batch": 2},
        "batch of 2": {"batch": 2},
        "heun": {"sampler": "heun"},
        "dpm_2": {"sampler": "dpm_2"},
        "ancestral": {"sampler": "euler_ancestral"},
        "img2img": {"latent": {"samples": randn(3, 1, 16, 8, 12)}, "denoise": 0.6},
        "noise mask": {
            "latent": {
                "samples": randn(3, 1, 16, 8, 12),
                "noise_mask": torch.zeros(1, 1, 64, 96).index_fill(2, torch.arange(32), 1.0),
            }
        },
    }
    found["runs"] = {}
    for name, more in cases.items():
        told.clear()
        whole = run(model, **more)
        made = run(fast(), **more)
        region = run(fast(references_every=1, region_every=9), **more)
        # The same numbers twice, so nothing of the first run is in the second.
        again = run(fast(), **more)
        found["runs"][name] = {
            "effect": difference(made, whole),
            "again": difference(made, again),
            "region": difference(region, whole),
            "plain again": difference(run(model, **more), whole),
            "finite": bool(torch.isfinite(made).all() and torch.isfinite(region).all()),
            "told": list(told),
        }

    # Two texts by turns when memory is short: the host splits its batches.
    told.clear()
    free = management.get_free_memory
    together = run(fast(), **cases["cfg 3"])
    management.get_free_memory = lambda *args, **kwargs: 0
    try:
        apart = run(fast(), **cases["cfg 3"])
    finally:
        management.get_free_memory = free
    found["apart"] = {"difference": difference(apart, together), "told": list(told)}

    # A run that is stopped, then a plain one.
    calls = 0

    def stop(step: int, x0: Any, x: Any, total: int) -> None:
        raise management.InterruptProcessingException

    import comfy.sample

    noise = comfy.sample.prepare_noise(torch.zeros(1, 16, 8, 12), 7)
    try:
        comfy.sample.sample(
            fast(), noise, STEPS, 1.0, "euler", "simple", positive, positive,
            torch.zeros(1, 16, 8, 12), callback=stop,
        )  # fmt: skip
    except management.InterruptProcessingException:
        calls = 1
    found["stopped"] = {"raised": calls, "left": model.model.diffusion_model.run is None}
    found["stopped"]["plain again"] = difference(run(model), plain)
    found["stopped"]["other size"] = difference(run(model, size=(12, 8)), run(model, size=(12, 8)))

    # Nothing of the weights is loaded anew for it, and it is seen in the memory asked for.
    found["same weights"] = bool(model.clone_has_same_weights(fast()))
    run_module = pack_module("nodes.native.run")
    settings = carried.carried(fast(), carried.ACCELERATION).settings
    network = model.model.diffusion_model
    asked = []
    eight = carried.carried(fast(keep_8_bit=True), carried.ACCELERATION).settings
    for said in (None, settings, eight):
        network.run = None if said is None else run_module.HostRun(network.params, said)
        asked.append(model.model.memory_required([1, 16, 8, 12], {"ref_latents": [[1, 16, 96]]}))
    network.run = None
    found["memory"] = [each - asked[0] for each in asked[1:]]

    try:
        fast(source=theirs)
        found["theirs"] = ""
    except pack_module("kontext_core.errors").KontextError as error:
        found["theirs"] = str(error)
    found["theirs off"] = difference(run(node.execute(theirs, "off").result[0]), run(theirs))
    return found
