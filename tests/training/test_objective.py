"""Losses of the transformer and of guidance distillation, against their formulas."""

import pytest
import torch

from kontext_core.config import FluxParams
from kontext_core.latents import pack
from kontext_core.models.flux import Flux
from kontext_core.models.text import END, PAD
from kontext_lab.training.batch import Group
from kontext_lab.training.distillation import (
    classifier_free_scale,
    empty_like,
    guided_velocity,
    sample_guidance,
)
from kontext_lab.training.flow import noised
from kontext_lab.training.objective import CellLabels, group_velocity, weighted_flow_loss

PARAMS = FluxParams(
    vec_in_dim=8, context_in_dim=8, hidden_size=32, num_heads=2, depth=1,
    depth_single_blocks=2, axes_dim=(4, 6, 6),
)  # fmt: skip


@pytest.fixture
def flux():
    torch.manual_seed(0)
    model = Flux(PARAMS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture
def group():
    torch.manual_seed(1)
    return Group(
        torch.randint(2, 9, (3, 5)), torch.randn(3, 16, 4, 4), [torch.randn(3, 16, 4, 6)],
        torch.randint(0, 4, (3, 4, 4)), torch.randint(0, 3, (3, 4, 4)), torch.ones(3, 4),
    )  # fmt: skip


def words(rows):
    torch.manual_seed(2)
    return torch.randn(rows, 5, 8), torch.randn(rows, 8)


def test_even_weights_give_the_plain_loss_and_a_weight_of_zero_hides_a_token():
    target, eps = torch.randn(2, 16, 4, 4), torch.randn(2, 16, 4, 4)
    velocity = torch.randn(2, 4, 64)
    plain = (velocity - (pack(eps) - pack(target))).square().flatten(1).mean(1)
    assert torch.allclose(weighted_flow_loss(velocity, target, eps, torch.ones(2, 4)), plain)
    weight = torch.tensor([[4.0, 0, 0, 0]]).expand(2, 4)
    other = velocity.clone()
    other[:, 1:] += 7
    assert torch.equal(
        weighted_flow_loss(velocity, target, eps, weight),
        weighted_flow_loss(other, target, eps, weight),
    )


def test_velocity_is_the_models_own_at_the_noised_target(flux, group):
    txt, vec = words(3)
    t, guidance = torch.tensor([0.2, 0.5, 0.9]), torch.full((3,), 2.0)
    eps = torch.randn_like(group.target)
    velocity = group_velocity(flux, txt, vec, group, t, eps, guidance)
    img = torch.cat([pack(noised(group.target, eps, t)), pack(group.references[0])], 1)
    h, w = torch.meshgrid(torch.arange(2.0), torch.arange(2.0), indexing="ij")
    target_ids = torch.stack([torch.zeros(2, 2), h, w], -1).reshape(4, 3)
    h, w = torch.meshgrid(torch.arange(2.0), torch.arange(3.0), indexing="ij")
    reference_ids = torch.stack([torch.ones(2, 3), h, w], -1).reshape(6, 3)
    ids = torch.cat([target_ids, reference_ids])[None]
    plain = flux(img, ids, txt, torch.zeros(1, 5, 3), t, vec, guidance)[:, :4]
    assert torch.allclose(velocity, plain, atol=1e-6)  # measured 2e-7


def test_guidance_1_is_unguided_and_the_rest_stands_for_gentle_scales():
    assert classifier_free_scale(1.0) == 1.0
    assert classifier_free_scale(torch.tensor([2.5, 5.0])).tolist() == pytest.approx([1.45, 2.2])


def test_guided_velocity_is_the_formula_of_two_passes(flux, group):
    wanted, empty = words(3), tuple(-x for x in words(3))
    t, guidance = torch.tensor([0.2, 0.5, 0.9]), torch.tensor([1.0, 2.5, 5.0])
    eps = torch.randn_like(group.target)
    references = group.references
    guided = guided_velocity(flux, wanted, empty, group, t, eps, guidance, references)
    fixed = torch.full((3,), 2.5)
    with_words = group_velocity(flux, *wanted, group, t, eps, fixed)
    without = group_velocity(flux, *empty, group, t, eps, fixed)
    right = without + guidance[:, None, None] * (with_words - without)
    assert torch.allclose(guided, right, atol=1e-5)  # measured 1e-6
    assert torch.allclose(guided[0], with_words[0], atol=1e-5)
    assert not guided.requires_grad


def test_empty_text_is_one_end_and_padding():
    ids = empty_like(torch.randint(5, 9, (2, 4)))
    assert ids.tolist() == [[END, PAD, PAD, PAD]] * 2


def test_guidance_values_are_even_in_log():
    values = sample_guidance(100_000, 1.0, 4.0, generator=torch.Generator().manual_seed(0))
    assert float(values.min()) >= 1 and float(values.max()) <= 4
    assert abs(float((values < 2).float().mean()) - 0.5) < 0.01  # standard error 0.0016


def test_cell_labels_learn_and_listen_only_in_training(flux, group):
    torch.manual_seed(3)
    labels = CellLabels(flux, kinds=3, colours=2)
    txt, vec = words(3)
    t, guidance, eps = torch.full((3,), 0.5), torch.ones(3), torch.zeros_like(group.target)
    adam = torch.optim.Adam([*flux.parameters(), *labels.parameters()], lr=1e-2)
    losses = []
    for _ in range(60):
        group_velocity(flux, txt, vec, group, t, eps, guidance)
        loss = labels.loss(5, group.kind, group.colour, group.weight).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]  # measured 0.02
    with torch.no_grad():
        group_velocity(flux, txt, vec, group, t, eps, guidance)
    with pytest.raises(RuntimeError, match="before a forward pass"):
        labels.loss(5, group.kind, group.colour, group.weight)
    assert not any("norm" in key for key in flux.state_dict() if key.startswith("labels"))


def test_a_colour_without_a_name_is_no_lesson(flux, group):
    torch.manual_seed(3)
    labels = CellLabels(flux, kinds=3, colours=2)
    txt, vec = words(3)
    t, guidance, eps = torch.full((3,), 0.5), torch.ones(3), torch.zeros_like(group.target)
    kind = torch.ones_like(group.kind)

    def loss(colour):
        group_velocity(flux, txt, vec, group, t, eps, guidance)
        return labels.loss(5, kind, torch.full_like(kind, colour), group.weight).sum()

    unnamed, named = loss(0), loss(1)
    assert unnamed.item() < named.item()
    unnamed.backward()
    # Rows of the head that tell colours: those after the kinds of each cell.
    of_colours = labels.out.weight.grad.view(4, 7, -1)[:, 4:]
    assert float(of_colours.abs().max()) == 0
