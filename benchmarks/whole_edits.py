"""Whole edits: the pack by every preset, ComfyUI's own Flux and diffusers', same weights, one process.

    PYTHONPATH=FOLDER_WITH_DIFFUSERS CHECKOUT/venv/bin/python benchmarks/whole_edits.py CHECKOUT [--dtype bfloat16]

28 steps of a small network of FLUX's kind with one reference and random weights, those of the timestep made
small. ComfyUI runs its KSampler, for its own MODEL and for the pack's; the core runs `sample`; diffusers
the loop of its FluxKontextPipeline, which needs text encoders otherwise. Times are CPU time of one thread,
measured in turn; a ratio is the median over rounds. Prints JSON. Without diffusers its rows are left out.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inside_comfyui import ROOT, enter

SIZES = {
    "hidden_size": 384, "num_heads": 3, "depth": 4, "depth_single_blocks": 8,
    "axes_dim": (16, 56, 56), "context_in_dim": 40, "vec_in_dim": 24,
}  # fmt: skip
TEXT, CELLS, SEED = 64, 24, 7
PRESETS = ("safe", "balanced", "fast")


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=28)
    options = parser.parse_args()
    # The tests' own small networks, inside the host and for diffusers.
    enter(options.checkout, ROOT / "tests/support", ROOT)
    import torch

    with torch.inference_mode():
        print(json.dumps(measure(options, getattr(torch, options.dtype)), indent=1))


def measure(options: Any, dtype: Any) -> dict[str, Any]:
    """Ratios to the pack's full run in the core, the least times in seconds, and how far results lie apart."""
    import torch
    from native_flux import (
        host_model,
        ksampler,
        our_model,
        pack_module,
        random_flux,
        with_references,
    )
    from native_flux import text as conditioning

    network = random_flux(dtype=dtype, **SIZES)
    # Random weights change wildly with the timestep, trained ones a little: else nothing is skipped.
    network.time_in.out_layer.weight.mul_(0.02)
    words = conditioning(1, TEXT)
    reference = torch.randn(1, 16, CELLS, CELLS, generator=torch.Generator().manual_seed(2))
    positive = with_references(words, reference)
    more: dict[str, Any] = {"steps": options.steps, "seed": SEED, "size": (CELLS, CELLS)}
    node = pack_module("nodes.accelerate").KontextAccelerate
    # Nobody listens to the node's notes.
    pack_module("nodes.native.run").tell = lambda wanted, report: None
    core = importlib.import_module("kontext_core")
    params = importlib.import_module("kontext_core.config").FluxParams
    twin = core.Flux(params(**vars(network.params)), dtype=dtype)
    twin.load_state_dict(network.state_dict())
    theirs = host_model(network)
    # The last, as it takes the network for its own.
    mine = our_model(network)
    reports: dict[str, str] = {}

    def ours(preset: str) -> Any:
        context = core.stitch((1, 16, CELLS, CELLS), [core.Reference(reference)])
        pooled = words[0][1]["pooled_output"]
        return core.sample(
            twin, context, core.Conditioning(words[0][0], pooled, 2.5),
            core.make_timesteps(options.steps, context.target_tokens),
            noise=core.make_noise(SEED, (1, 16, CELLS, CELLS)), accelerate=preset,
            report=lambda report: reports.__setitem__(preset, str(report)),
        )  # fmt: skip

    calls: dict[str, Callable[[], Any]] = {
        "core": lambda: ours("off"),
        "comfyui": lambda: ksampler(theirs, positive, **more),
        "pack in comfyui": lambda: ksampler(mine, positive, **more),
    }
    if importlib.util.find_spec("diffusers"):
        calls["diffusers"] = _diffusers(twin, words, reference, options.steps)
    for preset in PRESETS:
        fast = node.execute(mine, preset).result[0]
        calls[f"core, {preset}"] = lambda preset=preset: ours(preset)
        calls[f"pack in comfyui, {preset}"] = lambda fast=fast: ksampler(fast, positive, **more)
    times: dict[str, list[float]] = {name: [] for name in calls}
    results: dict[str, Any] = {}
    for _ in range(options.rounds):
        for name, one in calls.items():
            start = time.process_time()
            results[name] = one()
            times[name].append(time.process_time() - start)
    version = importlib.import_module("comfyui_version").__version__
    return {
        "over_core": {name: _over(taken, times["core"]) for name, taken in times.items()},
        "over_comfyui": {name: _over(taken, times["comfyui"]) for name, taken in times.items()},
        "least_seconds": {name: round(min(taken), 2) for name, taken in times.items()},
        "apart": {
            "core and diffusers": _apart(results, "core", "diffusers"),
            "pack and comfyui": _apart(results, "pack in comfyui", "comfyui"),
        },
        "reports": {name: text for name, text in reports.items() if name != "off"},
        "steps": options.steps,
        "rounds": options.rounds,
        "dtype": options.dtype,
        "sizes": {**SIZES, "text": TEXT, "cells": CELLS},
        "comfyui": version,
        "torch": torch.__version__,
    }


def _over(taken: list[float], base: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(taken, base, strict=True)), 3)


def _apart(results: dict[str, Any], one: str, other: str) -> float | None:
    if other not in results:
        return None
    return float((results[one].float() - results[other].float()).abs().max())


def _diffusers(network: Any, words: Any, reference: Any, steps: int) -> Callable[[], Any]:
    """A run of FluxKontextPipeline's loop by diffusers' transformer and scheduler."""
    import numpy as np
    import torch
    from oracle import diffusers_transformer

    from kontext_core import make_noise
    from kontext_core.latents import FLUX_LATENT, pack, unpack

    kind: Any = importlib.import_module("diffusers").FlowMatchEulerDiscreteScheduler
    dtype = network.dtype
    twin = diffusers_transformer(network).to(dtype)
    side = CELLS // 2
    rows = torch.arange(side).float()
    places = torch.cartesian_prod(torch.zeros(1), rows, rows)
    ids = torch.cat([places, places + torch.tensor([1.0, 0, 0])])
    image = pack(FLUX_LATENT.process_in(reference)).to(dtype)
    txt, vec = words[0][0].to(dtype), words[0][1]["pooled_output"].to(dtype)

    def run() -> Any:
        scheduler = kind(shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)
        latents = pack(make_noise(SEED, (1, 16, CELLS, CELLS))).to(dtype)
        mu = 0.5 + (1.15 - 0.5) * (side**2 - 256) / (4096 - 256)
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
        scheduler.set_begin_index(0)
        for t in scheduler.timesteps:
            velocity = twin(
                hidden_states=torch.cat([latents, image], dim=1), timestep=t.expand(1).to(dtype) / 1000,
                guidance=torch.tensor([2.5]), pooled_projections=vec, encoder_hidden_states=txt,
                txt_ids=torch.zeros(TEXT, 3), img_ids=ids, return_dict=False,
            )[0][:, : side**2]  # fmt: skip
            latents = scheduler.step(velocity, t, latents, return_dict=False)[0]
        return FLUX_LATENT.process_out(unpack(latents.float(), CELLS, CELLS))

    return run


if __name__ == "__main__":
    main()
