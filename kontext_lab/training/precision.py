"""Which arithmetic trains fastest here: bfloat16 on GPUs and on CPUs that multiply it in hardware."""

from __future__ import annotations

import time
from functools import cache

import torch
from torch import Tensor, nn

from kontext_core.models.attention import Attend
from kontext_core.models.flux import Flux
from kontext_core.models.rope import apply_rope


@cache
def multiplies_bfloat16(device: str) -> bool:
    """Whether bfloat16 products are clearly faster than float32 ones on this device.

    A processor without such instructions emulates them: measured 2 instead of 75 GFLOP/s on one
    Zen 3 core, but 440 instead of 109 on a Zen 5 core.
    """
    if torch.device(device).type != "cpu":
        return True
    spent = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.ones(1024, 128, dtype=dtype), torch.ones(128, 384, dtype=dtype)
        times = []
        for _ in range(5):
            begun = time.perf_counter()
            a @ b
            times.append(time.perf_counter() - begun)
        spent[dtype] = min(times)
    return spent[torch.bfloat16] < 0.8 * spent[torch.float32]


def plain_attention(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, bias: Tensor | None = None
) -> Tensor:
    """`attention.attention` as two products and a float32 softmax.

    For training in bfloat16 on a CPU, where the backward pass of PyTorch's fused attention takes
    42 % of a step of the embedded model; nothing else gains from it.
    """
    q, k = apply_rope(q, table[:, :, : q.shape[2]]), apply_rope(k, table)
    logits = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2))
    if bias is not None:
        logits = logits + bias[:, None, None, :]
    weights = logits.softmax(-1, dtype=torch.float32).to(v.dtype)
    return torch.matmul(weights, v).transpose(1, 2).flatten(2)


def train_with(flux: Flux, attend: Attend) -> None:
    """Make the blocks of this network call `attend` in place of their own attention."""

    def call(block: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return args, {**kwargs, "attend": attend}

    for block in (*flux.double_blocks, *flux.single_blocks):
        block.register_forward_pre_hook(call, with_kwargs=True)
