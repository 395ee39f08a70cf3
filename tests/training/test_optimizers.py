"""Muon and the moving average against what they promise."""

import pytest
import torch
from torch import nn

from kontext_core.errors import InputError
from kontext_lab.training.ema import EMA
from kontext_lab.training.muon import Muon, orthogonalized


@pytest.mark.parametrize("shape", [(8, 8), (24, 8), (8, 24), (3, 16, 8)])
def test_newton_schulz_gives_nearly_orthogonal_factors(shape):
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    got = orthogonalized(matrix)
    singular = torch.linalg.svdvals(got)
    # The quintic oscillates around 1 by design; measured 0.68 .. 1.13 over these shapes.
    assert float(singular.min()) > 0.5 and float(singular.max()) < 1.3
    cosine = (got * (u @ vh)).sum() / (got.norm() * (u @ vh).norm())
    assert float(cosine) > 0.95  # measured 0.98


def test_first_step_follows_the_gradient_with_the_stated_length():
    weight = nn.Parameter(torch.zeros(16, 4))
    weight.grad = torch.randn(16, 4, generator=torch.Generator().manual_seed(2))
    gradient = weight.grad.clone()
    Muon([weight], lr=0.1).step()
    # Scale sqrt(16 / 4) = 2; the momentum of a first step is the gradient times 1.95.
    expected = -0.2 * orthogonalized(1.95 * gradient)
    assert torch.allclose(weight, expected, atol=1e-6)
    assert float((weight.detach() * gradient).sum()) < 0


def test_muon_solves_a_small_regression():
    torch.manual_seed(0)
    truth = torch.randn(6, 6) / 3
    weight = nn.Parameter(torch.zeros(6, 6))
    muon = Muon([weight], lr=0.02)
    x = torch.randn(64, 6)
    first = None
    for step in range(200):
        muon.param_groups[0]["lr"] = 0.02 * (1 - step / 200)
        loss = ((x @ weight - x @ truth) ** 2).mean()
        first = first or loss.item()
        muon.zero_grad()
        loss.backward()
        muon.step()
    assert loss.item() < first / 100


def test_muon_takes_convolutions_as_matrices():
    gradient = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(2))
    kernel, matrix = nn.Parameter(torch.zeros(6, 4, 3, 3)), nn.Parameter(torch.zeros(6, 36))
    kernel.grad, matrix.grad = gradient, gradient.flatten(1).clone()
    Muon([kernel, matrix], lr=0.1).step()
    assert torch.allclose(kernel.flatten(1), matrix, atol=1e-6)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 0.02), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("shape", [(32, 64), (96, 32)])
def test_muon_steps_as_torchs_own_does(shape, dtype, bound):
    """Which takes no convolutions and iterates in bfloat16 whatever the processor."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=generator)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    muon = Muon([ours], lr=0.02, dtype=dtype)
    oracle = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.0, adjust_lr_fn="original")
    for _ in range(5):
        ours.grad = torch.randn(shape, generator=generator)
        theirs.grad = ours.grad.clone()
        muon.step()
        oracle.step()
    # Measured 0.0107 and 0.0105 in float32, 0.0250 and 0.0250 in bfloat16.
    assert float((ours - theirs).norm() / (theirs - start).norm()) < bound


def test_muon_refuses_vectors():
    with pytest.raises(InputError, match="matrices"):
        Muon([nn.Parameter(torch.zeros(4))])


def test_ema_follows_its_formula_and_gives_back():
    module = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(module.weight)
    ema = EMA({"m": module}, decay=0.5)
    nn.init.ones_(module.weight)
    ema.update()  # n = 1: decay min(0.5, 2 / 11)
    assert torch.allclose(ema.average["m.weight"], torch.full((1, 2), 1 - 2 / 11))
    with ema.applied():
        assert torch.allclose(module.weight, torch.full((1, 2), 1 - 2 / 11))
    assert torch.equal(module.weight, torch.ones(1, 2))


def test_ema_survives_a_checkpoint():
    module = nn.Linear(2, 2)
    ema = EMA({"m": module})
    ema.update()
    other = EMA({"m": nn.Linear(2, 2)})
    other.load_state_dict(ema.state_dict())
    assert other.updates == 1
    assert torch.equal(other.average["m.weight"], ema.average["m.weight"])
