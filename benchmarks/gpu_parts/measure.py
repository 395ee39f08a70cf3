"""Times and memory of the transformer, whole edits and the autoencoder on one device."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kontext_core.accelerate import PRESETS, Acceleration, Pruning, Region, Reuse, StepReuse
from kontext_core.cost import part_cost
from kontext_core.guidance import Conditioning
from kontext_core.metrics import psnr
from kontext_core.models.autoencoder import AutoEncoder
from kontext_core.models.flux import Flux
from kontext_core.quant import eight_bit
from kontext_core.quant.encode import quantize_blocks
from kontext_core.quant.linear import QuantLinear
from kontext_core.sampling import make_noise, sample
from kontext_core.schedule import make_timesteps
from kontext_core.weights.eight_bit import use_eight_bit

from .sizes import Stage

Row = dict[str, Any]
TRICKS: dict[str, Acceleration | Reuse | StepReuse | Region | Pruning] = {
    "context reuse": Reuse(0.15, 4, 1),
    # Random weights change too much from step to step for the usual thresholds.
    "step reuse, all that it may skip": StepReuse(threshold=1.0),
    "region": Region(),
    "region with context reuse": Acceleration(context=Reuse(0.0, 16, 1), region=Region()),
    "pruning": Pruning(),
}


def step(stage: Stage, model: Flux, references: int) -> Callable[[], Tensor]:
    """One forward at full size, as the sampler calls it: with modulations and references prepared."""
    sizes = stage.sizes
    context = stage.context(references).to(stage.device, stage.dtype)
    part = context.at(0.5)
    target = context.target_tokens
    img = torch.cat([stage.draw(1, target, 64).to(stage.dtype), part.tokens], 1)
    txt = stage.draw(1, sizes.text, sizes.params.context_in_dim).to(stage.dtype)
    y = stage.draw(1, sizes.params.vec_in_dim).to(stage.dtype)
    txt_ids = torch.zeros(1, sizes.text, 3, device=stage.device)
    times = torch.tensor([0.5], device=stage.device)
    guidance = torch.tensor([2.5], device=stage.device, dtype=stage.dtype)
    made = model.modulations(times, y, guidance).at(0, 1)
    prepared = model.prepare(img, part.img_ids, txt, txt_ids, part.bias, target)
    return lambda: model(
        img, part.img_ids, txt, txt_ids, times, y, guidance, attn_bias=part.bias,
        target_tokens=target, modulation=made, prepared=prepared,
    )  # fmt: skip


def forward(stage: Stage) -> Iterator[Row]:
    """A step with 0 to 4 references, eager bfloat16: milliseconds, peak memory, TFLOP a second."""
    for references in stage.sizes.references:
        yield _timed(stage, stage.model, references, "eager bfloat16")
    for references in stage.sizes.references:
        yield from _diffusers(stage, references)


def _timed(stage: Stage, model: Flux, references: int, name: str) -> Row:
    run = step(stage, model, references)
    seconds, peak = stage.time(run), stage.peak(run)
    p, tokens = stage.sizes.params, stage.context(references).target_tokens
    every = stage.sizes.text + tokens * (1 + references)
    # part_cost counts 4 products of hidden size a unit: 2 FLOPs for each of a block's multiplications.
    flop = (
        4
        * p.hidden_size
        * part_cost(every, every, p.hidden_size)
        * (p.depth + p.depth_single_blocks)
    )
    return {
        "what": f"step, {references} references, {name}", "value": 1e3 * seconds, "unit": "ms",
        "TFLOP/s": round(flop / seconds / 1e12, 1), "peak GB": round(peak, 1),
    }  # fmt: skip


def _diffusers(stage: Stage, references: int) -> Iterator[Row]:
    """diffusers' transformer of the same sizes, with weights of its own, in the same process."""
    try:
        kind = importlib.import_module("diffusers").FluxTransformer2DModel
    except ImportError as error:
        if references == stage.sizes.references[0]:
            yield {"what": "diffusers", "left out": f"can't be imported ({error})"}
        return
    p = stage.sizes.params
    known = stage.__dict__.get("diffusers")
    if known is None:
        with stage.device:
            known = kind(
                in_channels=p.in_channels, num_layers=p.depth, num_single_layers=p.depth_single_blocks,
                attention_head_dim=p.hidden_size // p.num_heads, num_attention_heads=p.num_heads,
                joint_attention_dim=p.context_in_dim, pooled_projection_dim=p.vec_in_dim,
                guidance_embeds=True, axes_dims_rope=p.axes_dim,
            ).to(stage.dtype).eval()  # fmt: skip
        stage.__dict__["diffusers"] = known
    context = stage.context(references)
    count = context.target_tokens * (1 + references)
    given = {
        "hidden_states": stage.draw(1, count, 64).to(stage.dtype),
        "encoder_hidden_states": stage.draw(1, stage.sizes.text, p.context_in_dim).to(stage.dtype),
        "pooled_projections": stage.draw(1, p.vec_in_dim).to(stage.dtype),
        "timestep": torch.tensor([0.5], device=stage.device, dtype=stage.dtype),
        "img_ids": context.at(0.5).img_ids[0].to(stage.device),
        "txt_ids": torch.zeros(stage.sizes.text, 3, device=stage.device),
        "guidance": torch.tensor([2.5], device=stage.device, dtype=stage.dtype),
        "return_dict": False,
    }
    seconds = stage.time(partial(known, **given))
    yield {
        "what": f"step, {references} references, diffusers", "value": 1e3 * seconds, "unit": "ms"
    }  # fmt: skip
    if references == stage.sizes.references[-1]:
        del stage.__dict__["diffusers"], known, given
        gc.collect()


def layers(stage: Stage) -> Iterator[Row]:
    """A step with one reference by kind of layer; 8-bit kinds with their error to bfloat16."""
    plain = step(stage, stage.model, 1)()
    for products in eight_bit.PRODUCTS:
        if eight_bit.available(products, stage.device):
            yield from _kind(stage, stage.make(stage.dtype), products, products, plain)
    for kind in ("Q8_0", "Q4_K"):
        model = pack(stage.make(stage.dtype), kind)
        yield from _kind(stage, model, kind, "off", plain)
        best = eight_bit.best_products(stage.device)
        if best is not None:
            yield from _kind(stage, model, f"{kind} with {best} products", best, plain)


def _kind(stage: Stage, model: Flux, name: str, products: str, plain: Tensor) -> Iterator[Row]:
    use_eight_bit(model, products)
    row = _timed(stage, model, 1, name)
    found = step(stage, model, 1)()
    error = (found.float() - plain.float()).norm() / plain.float().norm()
    yield {**row, "error to bfloat16": round(float(error), 4)}
    del model
    gc.collect()


def pack(model: Flux, kind: str) -> Flux:
    """The network with all layers of its blocks as ggml blocks, as published files have them; in place."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and "blocks." in name:
            bias = None if layer.bias is None else layer.bias.data
            made = QuantLinear(
                quantize_blocks(layer.weight.data.float(), kind), kind, layer.in_features, bias
            )
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, made)
    return model


def edit(stage: Stage, model: Flux, references: int, accelerate: Any) -> tuple[Tensor, Any]:
    """A whole run of the sampler; the latent, and the report of what was computed."""
    sizes = stage.sizes
    context = stage.context(references)
    conditioning = Conditioning(
        stage.draw(1, sizes.text, sizes.params.context_in_dim),
        stage.draw(1, sizes.params.vec_in_dim),
    )
    told: list[Any] = []
    # A quarter of the picture changes: by a mask, as random weights leave nothing alone.
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., :32, :32] = 1
    picture = None if references == 0 else stage.draw(*context.target_shape).cpu()
    latent = sample(
        model, context, conditioning, make_timesteps(sizes.steps, context.target_tokens),
        noise=make_noise(0, context.target_shape), accelerate=accelerate, report=told.append,
        latent=picture, noise_mask=None if picture is None else mask,
    )  # fmt: skip
    return latent, told[-1]


def edits(stage: Stage) -> Iterator[Row]:
    """Whole runs with one and two references by every preset and means; random weights tell times,
    not quality."""
    for references in (1, 2):
        whole = 0.0
        for name, means in {**PRESETS, **TRICKS}.items():
            run = partial(edit, stage, stage.model, references, means)
            _, report = run()
            seconds = stage.time(run, 1)
            whole = whole or seconds
            yield {
                "what": f"run of {stage.sizes.steps} steps, {references} references, {name}",
                "value": seconds, "unit": "s", "share of off": round(seconds / whole, 3),
                "computed": str(report),
            }  # fmt: skip


def compiled(stage: Stage) -> Iterator[Row]:
    """A step with compiled blocks, alone and with the device's 8-bit products."""
    # On a CPU this needs a C++ compiler; that blocks compile at all is what a rehearsal shows.
    backend = "eager" if stage.dry else "inductor"
    stage.model.compile_blocks(backend)
    for references in (0, 1):
        yield _timed(stage, stage.model, references, "compiled bfloat16")
    best = eight_bit.best_products(stage.device)
    if best is not None:
        use_eight_bit(stage.model, best)
        stage.model.compile_blocks(backend)
        yield _timed(stage, stage.model, 1, f"compiled, {best} products")


def memory(stage: Stage) -> Iterator[Row]:
    """Whether a Q4_K network's step fits a smaller card, PyTorch allowed so many GB in all."""
    model = pack(stage.make(stage.dtype), "Q4_K")
    stage.free()
    total = None
    if stage.device.type == "cuda":
        total = torch.cuda.get_device_properties(stage.device).total_memory / 1e9
    for cap in stage.sizes.caps:
        for side in (stage.sizes.side, stage.sizes.side * 3 // 4 // 16 * 16):
            yield _capped(stage, model, cap, side, total)


def _capped(stage: Stage, model: Flux, cap: float, side: int, total: float | None) -> Row:
    what = f"Q4_K, 1 reference, {side}x{side}, {cap:g} GB allowed"
    run = partial(_step_of_side, stage, model, side)
    if total is not None:
        torch.cuda.set_per_process_memory_fraction(min(1.0, cap / total), stage.device)
    try:
        seconds, peak = stage.time(run, 1), stage.peak(run)
    except torch.OutOfMemoryError as error:
        return {"what": what, "value": "does not fit", "why": str(error)[:120]}
    finally:
        if total is not None:
            torch.cuda.set_per_process_memory_fraction(1.0, stage.device)
            torch.cuda.empty_cache()
    return {"what": what, "value": 1e3 * seconds, "unit": "ms", "peak GB": round(peak, 2)}


def _step_of_side(stage: Stage, model: Flux, side: int) -> Tensor:
    context = stage.context(1, side)
    sizes = stage.sizes
    conditioning = Conditioning(
        stage.draw(1, sizes.text, sizes.params.context_in_dim),
        stage.draw(1, sizes.params.vec_in_dim),
    )
    times = make_timesteps(1, context.target_tokens)
    return sample(model, context, conditioning, times, noise=make_noise(0, context.target_shape))


def autoencoder(stage: Stage) -> Iterator[Row]:
    """Encoding and decoding a picture, whole and in tiles."""
    with stage.device:
        network = AutoEncoder(stage.sizes.autoencoder).to(stage.dtype).eval()
    side = stage.sizes.side
    picture = (stage.draw(1, 3, side, side).clamp(-1, 1)).to(stage.dtype)
    latent = network.encode(picture)
    tile = side // 2
    runs: dict[str, Callable[[], Tensor]] = {
        "encode": lambda: network.encode(picture),
        "decode": lambda: network.decode(latent),
        f"decode in tiles of {tile}": lambda: network.decode(latent, tile=tile),
    }
    whole = network.decode(latent).float()
    for name, run in runs.items():
        row: Row = {"what": f"{name}, {side}x{side}", "value": 1e3 * stage.time(run), "unit": "ms"}
        row["peak GB"] = round(stage.peak(run), 2)
        if "tiles" in name:
            row["PSNR to whole"] = round(float(psnr(run().float() / 2, whole / 2)), 1)
        yield row
