"""One training by several processes: FSDP2, activation checkpointing, compilation block by block.

    torchrun --nproc-per-node 8 -m kontext_lab.recipes.train_flux --device cuda ...

Weights, gradients and optimizers' averages are spread over all processes (FSDP2, `fully_shard`; Zhao et
al. 2023, arXiv 2304.11277); each computes its share of every group of a step. What chance decides is drawn
for whole groups everywhere, so that any number of processes takes the same steps, up to the order of sums.
Checkpoints hold whole tensors: one process can go on where eight were, and eight where one was.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from kontext_core.errors import InputError
from kontext_core.models.block_run import BlockCall
from kontext_core.models.flux import Flux

from .batch import Group

CHECKPOINTING = ("none", "selective", "full")
# Results that are dear to compute: selective checkpointing keeps attention's, and every other product.
_ATTENTION = (
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
)
_PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)


@dataclass(frozen=True)
class Ranks:
    """This process among those of a training.

    Attributes:
        rank: its number, from 0.
        world: how many there are; 1 without torchrun.
        device: where it computes.
        mesh: what tensors are spread over; None where there is one process.
    """

    rank: int
    world: int
    device: torch.device
    mesh: DeviceMesh | None = None

    @classmethod
    def start(cls, device: str) -> Ranks:
        """As torchrun says; one process where it did not start this one."""
        world = int(os.environ.get("WORLD_SIZE", "1"))
        place = torch.device(device)
        if world == 1:
            return cls(0, 1, place)
        if place.type == "cuda":
            place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(place)
        if not dist.is_initialized():
            dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
        return cls(dist.get_rank(), world, place, init_device_mesh(place.type, (world,)))

    @property
    def first(self) -> bool:
        """Whether it writes log and checkpoints."""
        return self.rank == 0

    def shard(self, flux: Flux, *others: nn.Module, methods: Mapping[nn.Module, str]) -> None:
        """Spread the parameters of networks, the transformer's block by block.

        Args:
            methods: of networks that are called by another name than `forward`.
        """
        if self.mesh is None:
            return
        # Nothing here writes into what a block returns.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
        for block in (*flux.double_blocks, *flux.single_blocks):
            fully_shard(block, mesh=self.mesh)
            register_fsdp_forward_method(block, "modulate")
        for network in (flux, *others):
            fully_shard(network, mesh=self.mesh)
            if network in methods:
                register_fsdp_forward_method(network, methods[network])

    def share(self, group: Group, *beside: Tensor) -> tuple[Group, list[Tensor]]:
        """This process's samples of a group, and its rows of tensors [b, ...] that belong to them.

        Where there are fewer samples than processes, some compute one that counts nothing: all have
        to take part in every exchange.
        """
        if self.world == 1:
            return group, list(beside)
        count = len(group.ids)
        rows = torch.arange(count)[self.rank :: self.world]
        idle = not len(rows)
        rows = torch.zeros(1, dtype=torch.long) if idle else rows
        mine = Group(
            group.ids[rows], group.target[rows], [r[rows] for r in group.references],
            group.kind[rows], group.colour[rows], group.weight[rows] * (0.0 if idle else 1.0),
        )  # fmt: skip
        return mine, [tensor[rows] for tensor in beside]

    def total(self, *numbers: float) -> list[float]:
        """Sums over all processes."""
        if self.world == 1:
            return list(numbers)
        summed = torch.tensor(numbers, dtype=torch.float64)
        if self.device.type == "cuda":
            summed = summed.to(self.device)
        dist.all_reduce(summed)
        return summed.tolist()

    def stop(self) -> None:
        """Leave the group."""
        if self.world > 1:
            dist.destroy_process_group()


def block_call(kind: str) -> BlockCall | None:
    """How blocks are called, by one of `CHECKPOINTING`.

    Raises:
        InputError: another kind.
    """
    if kind not in CHECKPOINTING:
        raise InputError(f"checkpointing is {kind!r}; expected one of {', '.join(CHECKPOINTING)}")
    if kind == "none":
        return None
    if kind == "full":
        return partial(checkpoint, use_reentrant=False)
    return partial(checkpoint, use_reentrant=False, context_fn=_selective)


def _selective() -> Any:
    """The contexts of one call of a block, with a count of products of their own."""
    counts = {False: 0, True: 0}

    def policy(context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        keep = op in _ATTENTION
        if op in _PRODUCTS:
            counts[context.is_recompute] += 1
            keep = counts[context.is_recompute] % 2 == 0
        return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)


def compile_blocks(flux: Flux) -> None:
    """Compile each block by itself: seconds instead of minutes, as blocks of a kind are the same."""
    blocks: Iterable[nn.Module] = (*flux.double_blocks, *flux.single_blocks)
    for block in blocks:
        block.compile()
