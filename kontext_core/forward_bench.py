"""How long one forward of the transformer takes, in units of its own products and attention.

"Ideal" is every product of the forward by `F.linear` at its true shape and one
`scaled_dot_product_attention` a block: what a plain implementation can't get below. Times are CPU time of
one thread (the clock on a GPU), each round measures all in turn, and a ratio is the median over rounds.
"""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .config import FluxParams
from .models.attention import AUTO
from .models.flux import Flux
from .models.kept import KeptContext

Run = Callable[[], object]


@dataclass(frozen=True)
class Sizes:
    """What is measured: a network of FLUX's kind with random weights, and the tokens it is given."""

    hidden_size: int = 1536
    head_size: int = 128
    double: int = 1
    single: int = 2
    text: int = 512
    side: int = 32
    references: int = 1
    context: int = 256

    @property
    def target(self) -> int:
        """Tokens of the target, and of each reference."""
        return self.side**2

    @property
    def params(self) -> FluxParams:
        """The network's sizes."""
        d = self.head_size
        axes = d // 8, d // 16 * 7, d // 16 * 7
        return FluxParams(
            context_in_dim=self.context, hidden_size=self.hidden_size,
            num_heads=self.hidden_size // d, depth=self.double, depth_single_blocks=self.single,
            axes_dim=axes,
        )  # fmt: skip


QUICK = Sizes(hidden_size=768, single=1, text=256, side=24)


def measure(
    sizes: Sizes,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    attention: str = AUTO,
    rounds: int = 5,
) -> dict[str, Any]:
    """One thread's time of our forward, of the ideal, and of those peers that can be imported.

    Args:
        dtype: of weights and tokens.
        attention: our kernel, see `models.attention.choose`.
        rounds: how often all are measured, after one that does not count.

    Returns:
        `ours_over_ideal`, `reuse_over_ideal` (references' keys and values kept), `region_over_ideal`
        (and those of three quarters of the target), and for each peer `<name>_over_ideal`, medians of
        paired ratios;
        `seconds`, the least of each; `absent`, why a peer is not there; and what was measured.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            runs, absent = _runs(sizes, torch.device(device), dtype, attention)
            times = _in_turn(runs, rounds, torch.device(device))
    finally:
        torch.set_num_threads(threads)
    ratios = {
        f"{name}_over_ideal": statistics.median(
            one / ideal for one, ideal in zip(taken, times["ideal"], strict=True)
        )
        for name, taken in times.items()
        if name != "ideal"
    }
    return {
        **ratios,
        "seconds": {name: min(taken) for name, taken in times.items()},
        "absent": absent,
        "sizes": vars(sizes),
        "dtype": str(dtype).removeprefix("torch."),
        "device": str(device),
        "attention": attention,
        "rounds": rounds,
        "torch": torch.__version__,
    }


def _in_turn(runs: dict[str, Run], rounds: int, device: torch.device) -> dict[str, list[float]]:
    def now() -> float:
        if device.type != "cuda":
            return time.process_time()
        torch.cuda.synchronize(device)
        return time.perf_counter()

    times: dict[str, list[float]] = {name: [] for name in runs}
    for counted in [False] + [True] * rounds:
        for name, run in runs.items():
            start = now()
            run()
            if counted:
                times[name].append(now() - start)
    return times


def _runs(
    sizes: Sizes, device: torch.device, dtype: torch.dtype, attention: str
) -> tuple[dict[str, Run], dict[str, str]]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    model = Flux(sizes.params, device=device, dtype=dtype)
    rows = torch.arange(sizes.side, device=device).float()
    place = torch.cartesian_prod(torch.zeros(1, device=device), rows, rows)
    step = torch.tensor([1.0, 0, 0], device=device)
    ids = torch.cat([place] + [place + step] * sizes.references)[None]
    tokens, txt, y = draw(1, ids.shape[1], 64), draw(1, sizes.text, sizes.context), draw(1, 768)
    txt_ids = torch.zeros(1, sizes.text, 3, device=device)
    times = torch.tensor([0.7], device=device)
    guidance = torch.tensor([2.5], device=device, dtype=dtype)
    planned = model.modulations(times, y, guidance).at(0, 1)

    def ours(kept: KeptContext | None = None) -> Tensor:
        return model(
            tokens, ids, txt, txt_ids, times, y, guidance,
            target_tokens=sizes.target, modulation=planned, kept=kept,
        )  # fmt: skip

    model.attention = "sdpa"
    # Seen as PyTorch's own products, which the ideal is made of.
    with torch.backends.mkldnn.flags(enabled=False), _Recorded() as recorded:
        ours()
    model.attention = attention
    runs: dict[str, Run] = {"ours": ours, "ideal": recorded.replay(dtype, device)}
    if sizes.references:
        kept = KeptContext()
        ours(kept)
        kept.reuse = True
        runs["reuse"] = partial(ours, kept)
        region = KeptContext()
        region.keeps_target = True
        ours(region)
        region.focus(torch.arange(sizes.target // 4, device=device), sizes.target)
        region.reuse = region.regional = True
        runs["region"] = partial(ours, region)
    absent: dict[str, str] = {}
    given = tokens, ids, txt, txt_ids, times, y, guidance
    for name, peer in (("diffusers", _diffusers), ("comfyui", _comfyui)):
        made, why = _if_there(peer, sizes, device, dtype, given)
        if made is None:
            absent[name] = why
        else:
            runs[name] = made
    return runs, absent


def _if_there(peer: Callable[..., Run], *given: Any) -> tuple[Run | None, str]:
    try:
        return peer(*given), ""
    except ImportError as error:
        return None, f"can't be imported ({error})"


class _Recorded(TorchDispatchMode):
    """The products and attentions of a forward, to be run again alone."""

    def __init__(self) -> None:
        super().__init__()
        self.products: list[tuple[tuple[int, ...], Tensor, Tensor | None]] = []
        self.attentions: list[tuple[tuple[int, ...], ...]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket._qualified_op_name
        if name == "aten::addmm":
            self.products.append((tuple(args[1].shape), args[2], args[0]))
        elif name == "aten::mm":
            self.products.append((tuple(args[0].shape), args[1], None))
        elif name.startswith("aten::_scaled_dot_product"):
            self.attentions.append(tuple(tuple(each.shape) for each in args[:3]))
        return func(*args, **(kwargs or {}))

    def replay(self, dtype: torch.dtype, device: torch.device) -> Run:
        """All of them with inputs of the same shapes."""
        made: dict[tuple[int, ...], Tensor] = {}

        def of(shape: tuple[int, ...]) -> Tensor:
            return made.setdefault(shape, torch.randn(shape, device=device).to(dtype))

        products = [(of(shape), weight.t(), bias) for shape, weight, bias in self.products]
        attentions = [[of(shape) for shape in shapes] for shapes in self.attentions]

        def run() -> None:
            for x, weight, bias in products:
                F.linear(x, weight, bias)
            for q, k, v in attentions:
                F.scaled_dot_product_attention(q, k, v)

        return run


def _diffusers(
    sizes: Sizes, device: torch.device, dtype: torch.dtype, given: tuple[Tensor, ...]
) -> Run:
    """diffusers' transformer with weights of its own."""
    kind = importlib.import_module("diffusers").FluxTransformer2DModel
    p = sizes.params
    model = kind(
        in_channels=p.in_channels, num_layers=p.depth, num_single_layers=p.depth_single_blocks,
        attention_head_dim=sizes.head_size, num_attention_heads=p.num_heads,
        joint_attention_dim=p.context_in_dim, pooled_projection_dim=p.vec_in_dim,
        guidance_embeds=True, axes_dims_rope=p.axes_dim,
    ).to(device, dtype).eval()  # fmt: skip
    img, ids, txt, txt_ids, times, y, guidance = given
    return lambda: model(
        hidden_states=img, encoder_hidden_states=txt, pooled_projections=y, timestep=times,
        img_ids=ids[0], txt_ids=txt_ids[0], guidance=guidance, return_dict=False,
    )  # fmt: skip


def _comfyui(
    sizes: Sizes, device: torch.device, dtype: torch.dtype, given: tuple[Tensor, ...]
) -> Run:
    """ComfyUI's Flux with weights of its own and its own choice of attention; its checkout has to
    be on the import path."""
    if device.type == "cpu":
        importlib.import_module("comfy.cli_args").args.cpu = True
    flux = importlib.import_module("comfy.ldm.flux.model")
    ops = importlib.import_module("comfy.ops").disable_weight_init
    p = sizes.params
    # Later ones ask for this too; none of FLUX.1's.
    more = {"txt_ids_dims": []} if "txt_ids_dims" in flux.FluxParams.__annotations__ else {}
    model = flux.Flux(
        image_model="flux", in_channels=16, out_channels=16, patch_size=2,
        vec_in_dim=p.vec_in_dim, context_in_dim=p.context_in_dim, hidden_size=p.hidden_size,
        mlp_ratio=p.mlp_ratio, num_heads=p.num_heads, depth=p.depth,
        depth_single_blocks=p.depth_single_blocks, axes_dim=list(p.axes_dim), theta=p.theta,
        qkv_bias=True, guidance_embed=True, operations=ops, device=device, dtype=dtype, **more,
    ).eval()  # fmt: skip
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    _, _, txt, _, times, y, guidance = given
    latent = torch.zeros(1, 16, 2 * sizes.side, 2 * sizes.side, device=device, dtype=dtype)
    references = [latent] * sizes.references
    return lambda: model(latent, times.to(dtype), txt, y, guidance, ref_latents=references)
