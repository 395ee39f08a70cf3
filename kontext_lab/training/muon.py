"""Muon: momentum whose matrix steps are made orthogonal, for large matrices and convolutions.

K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024): a step along
U V^T of the momentum U S V^T, found with a quintic Newton-Schulz iteration instead of an SVD.

`torch.optim.Muon` takes the same steps (the tests hold them together), but only for matrices, and
always iterates in bfloat16, which processors without it emulate many times slower.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from kontext_core.errors import InputError

from .spread import like, whole


def orthogonalized(matrix: Tensor, steps: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    """About U V^T of each matrix [..., rows, columns]: singular values land in roughly 0.7..1.2.

    Iterates in `dtype`; bfloat16 is exact enough where the hardware multiplies it.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.transpose(-2, -1) if tall else matrix
    x = (x / (x.flatten(-2).norm(dim=-1)[..., None, None] + 1e-7)).to(dtype)
    for _ in range(steps):
        gram = x @ x.transpose(-2, -1)
        x = a * x + (b * gram + c * gram @ gram) @ x
    x = x.to(matrix.dtype)
    return x.transpose(-2, -1) if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalized; the step is scaled by sqrt(max(1, rows / columns)).

    Args:
        params: matrices, and convolution kernels [out, in, ...], which count as matrices
            [out, in * ...].
        lr: size of a step in spectral norm.
        momentum: of the running sum.
        dtype: that the iteration runs in.

    Raises:
        InputError: a parameter with fewer than two dimensions.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float = 0.02, momentum: float = 0.95,
        dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        params = list(params)
        self.dtype = dtype
        for parameter in params:
            if parameter.ndim < 2:
                raise InputError(
                    "Muon takes matrices and convolution kernels, got a parameter of shape "
                    f"{tuple(parameter.shape)}; give vectors to AdamW"
                )
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update everything that has a gradient; equal shapes are iterated together."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(tuple(parameter.shape), []).append(parameter)
            for (rows, *inner), parameters in by_shape.items():
                moves = []
                for parameter in parameters:
                    state = self.state[parameter]
                    if "momentum" not in state:
                        state["momentum"] = torch.zeros_like(parameter)
                    total = state["momentum"].mul_(group["momentum"]).add_(parameter.grad)
                    move = parameter.grad + group["momentum"] * total
                    # Of a matrix that is spread over processes, each makes the whole step.
                    moves.append(whole(move).flatten(1))
                scale = group["lr"] * max(1.0, rows / math.prod(inner)) ** 0.5
                for parameter, move in zip(
                    parameters, orthogonalized(torch.stack(moves), dtype=self.dtype), strict=True
                ):
                    parameter.add_(like(move.view(parameter.shape), parameter), alpha=-scale)
