"""One model call inside a real ComfyUI: the pack's MODEL beside ComfyUI's own Flux, same weights.

    CHECKOUT/venv/bin/python benchmarks/comfyui_forward.py CHECKOUT [--dtype bfloat16] [--references 2] [--rounds 5]

Times are CPU time of one thread, all measured in turn; a ratio is the median over rounds. ComfyUI attends
as it chooses on a CPU. Prints JSON.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import statistics
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from inside_comfyui import enter, part

SIZES = {
    "vec_in_dim": 768, "context_in_dim": 256, "hidden_size": 768, "num_heads": 6, "depth": 1,
    "depth_single_blocks": 2, "axes_dim": (16, 56, 56),
}  # fmt: skip
TEXT, CELLS = 256, 48


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--references", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    enter(options.checkout)
    import torch

    with torch.inference_mode():
        print(json.dumps(measure(options, getattr(torch, options.dtype))))


def measure(options: Any, dtype: Any) -> dict[str, Any]:
    """Ratios and the least times, in seconds."""
    import comfy.ldm.flux.model as theirs
    import comfy.ops
    import torch

    network = part("kontext_core.models.flux").Flux(
        part("kontext_core.config").FluxParams(**SIZES), dtype=dtype
    )
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    more = {"txt_ids_dims": []} if "txt_ids_dims" in theirs.FluxParams.__annotations__ else {}
    native = theirs.Flux(
        image_model="flux", in_channels=16, out_channels=16, patch_size=2, mlp_ratio=4.0,
        theta=10_000, qkv_bias=True, guidance_embed=True, dtype=dtype,
        operations=comfy.ops.disable_weight_init, **{**SIZES, "axes_dim": list(SIZES["axes_dim"])}, **more,
    ).eval()  # fmt: skip
    weights = network.state_dict()
    renamed = [name for name in native.state_dict() if name not in weights]
    assert all(name.endswith("norm.weight") for name in renamed), renamed
    native.load_state_dict(
        {
            name: weights[name if name in weights else f"{name.removesuffix('weight')}scale"]
            for name in native.state_dict()
        }
    )
    ours = part("nodes.native.forward").NativeFlux(network)
    part("nodes.native.layers").host_layers(ours)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    given = draw(1, 16, CELLS, CELLS), torch.tensor([0.7]), draw(1, TEXT, 256), draw(1, 768)
    references = [draw(1, 16, CELLS, CELLS) for _ in range(options.references)]
    sigmas = torch.tensor([1.0, 0.7, 0.3, 0.0])

    def call(model: Any) -> Any:
        to = {"sample_sigmas": sigmas, "sigmas": sigmas[1:2], "uuids": [0], "cond_or_uncond": [0]}
        return model(
            given[0], given[1].to(dtype) if model is native else given[1], *given[2:],
            guidance=torch.tensor([2.5], dtype=dtype), ref_latents=references, transformer_options=to,
        )  # fmt: skip

    core, run = part("kontext_core.accelerate"), part("nodes.native.run")
    reuse = core.Acceleration(core.Reuse(0.0, 1000, 0))
    runs = {"plain": run.HostRun(ours.params), "reuse": run.HostRun(ours.params, reuse)}

    def within(name: str) -> Any:
        ours.run = runs[name]
        return call(ours)

    within("reuse")
    difference = float((within("plain") - call(native)).abs().max())
    calls = {
        "comfyui": lambda: call(native),
        "ours": lambda: within("plain"),
        "reuse": lambda: within("reuse"),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for counted in [False] + [True] * options.rounds:
        for name, one in calls.items():
            start = time.process_time()
            one()
            if counted:
                times[name].append(time.process_time() - start)
    ratios = {
        f"{name}_over_comfyui": statistics.median(
            a / b for a, b in zip(taken, times["comfyui"], strict=True)
        )
        for name, taken in times.items()
        if name != "comfyui"
    }
    version = SimpleNamespace(__version__="unknown")
    if importlib.util.find_spec("comfyui_version"):
        version = importlib.import_module("comfyui_version")
    return {
        **ratios,
        "difference": difference,
        "seconds": {name: min(taken) for name, taken in times.items()},
        "references": options.references,
        "dtype": options.dtype,
        "comfyui": version.__version__,
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    main()
