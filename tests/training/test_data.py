"""Batches, linear latents and checkpoints."""

import random

import pytest
import torch

from kontext_core.errors import CheckpointError
from kontext_core.models.text import END, FIRST_BYTE, PAD, Tokenizer
from kontext_lab.training.batch import PLANS, Plan, StepData, token_ids, token_weights
from kontext_lab.training.checkpoint import load_state, save_state
from kontext_lab.training.patch_pca import fit_patch_pca
from kontext_lab.world.render import render
from kontext_lab.world.tasks import make_sample
from kontext_lab.world.wording import vocabulary


@pytest.fixture(scope="module")
def pictures():
    rng = random.Random(1)
    return render([make_sample(rng).target for _ in range(200)]) * 2 - 1


@pytest.fixture(scope="module")
def pca(pictures):
    return fit_patch_pca(pictures)


def test_latents_have_unit_variance_and_invert(pca, pictures):
    latent = pca.encode(pictures)
    assert latent.shape == (200, 16, 8, 8)
    assert abs(float(latent.square().mean()) - 1) < 1e-3
    error = (pca.decode(latent) - pictures).square().mean() / 4
    # 16 of 192 components keep so much of these pictures (mean of squares, measured 28.9 dB).
    assert float(-10 * torch.log10(error)) > 27.5


def test_components_are_orthonormal(pca):
    gram = pca.components @ pca.components.T
    assert torch.allclose(gram, torch.eye(16), atol=1e-5)


def test_preview_gives_the_mean_colour_of_a_cell(pca, pictures):
    factors, bias = pca.preview()
    rgb = torch.einsum("bchw,cr->brhw", pca.encode(pictures), torch.tensor(factors))
    rgb = rgb + torch.tensor(bias)[:, None, None]
    means = torch.nn.functional.avg_pool2d(pca.decode(pca.encode(pictures)) / 2 + 0.5, 8)
    assert torch.allclose(rgb, means, atol=1e-4)


def test_a_step_depends_on_seed_and_number_only(pca):
    tokenizer = Tokenizer(vocabulary())
    one, again, other = (
        StepData(pca, tokenizer, 16, seed=seed)[step] for seed, step in ((3, 5), (3, 5), (3, 6))
    )
    assert sum(len(g.target) for g in one) == sum(plan.count for plan in PLANS)
    assert {len(g.references) for g in one} == {0, 1, 2}
    for a, b in zip(one, again, strict=True):
        assert torch.equal(a.target, b.target) and torch.equal(a.ids, b.ids)
        assert all(torch.equal(x, y) for x, y in zip(a.references, b.references, strict=True))
    assert not torch.equal(one[0].target[0, :, :4, :4], other[0].target[0, :, :4, :4])


def test_dropout_empties_texts_and_takes_references_away(pca):
    tokenizer = Tokenizer(vocabulary())
    data = StepData(pca, tokenizer, 16, text_dropout=1.0, reference_dropout=1.0)[0]
    for group in data:
        assert group.references == []
        assert (group.ids[:, 0] == END).all() and (group.ids[:, 1:] == PAD).all()


def test_a_step_is_scaled_and_own_sizes_differ_from_the_target(pca):
    tokenizer = Tokenizer(vocabulary())
    plans = (Plan(1, 8), Plan(2, 4, own_sizes=True))
    sizes = set()
    for step in range(30):
        data = StepData(pca, tokenizer, 16, plans=plans, scale=0.5, reference_dropout=0.0)
        same, own = data[step]
        assert len(same.target) == 4 and len(own.target) == 2
        for reference in same.references:
            assert reference.shape == same.target.shape
        for reference in own.references:
            sizes.add((own.target.shape[2:], reference.shape[2:]))
    assert any(target != reference for target, reference in sizes)


def test_weights_stress_what_changes_and_average_to_one():
    target = torch.zeros(2, 16, 4, 4)
    reference = target.clone()
    reference[0, :, 0, 0] = 1.0  # one cell of the first token
    kind = torch.zeros(2, 4, 4, dtype=torch.long)
    kind[1, 3, 2] = 5
    weight = token_weights(target, reference, kind, emphasis=3.0)
    assert torch.allclose(weight.mean(1), torch.ones(2))
    assert torch.allclose(weight[0], torch.tensor([4.0, 1, 1, 1]) * 4 / 7)
    assert torch.equal(weight[1], torch.ones(4))  # nothing changed: a plain mean
    labelled = token_weights(target, None, kind, emphasis=3.0)
    assert torch.allclose(labelled[1], torch.tensor([1.0, 1, 1, 4]) * 4 / 7)


def test_labels_follow_the_order_of_packed_tokens(pca):
    group = StepData(pca, Tokenizer(vocabulary()), 16, plans=(Plan(0, 6),))[3][0]
    tokens = group.target.shape[2] * group.target.shape[3] // 4
    assert group.kind.shape == group.colour.shape == (6, tokens, 4)
    assert group.weight.shape == (6, tokens)
    assert bool(((group.kind > 0) == (group.colour > 0)).all())


def test_disturbed_texts_keep_their_other_words():
    tokenizer = Tokenizer(vocabulary())
    text = "make the red star blue"
    plain = tokenizer.ids(text)
    spelled = filled = 0
    rng = random.Random(0)
    for _ in range(400):
        row = [i for i in token_ids(tokenizer, [text], 4, rng)[0].tolist() if i != PAD]
        assert row[-1] == END
        if row == plain:
            continue
        kept = [i for i in row if i in plain]
        missing = [i for i in plain if i not in row]
        assert len(missing) <= 1 and len(kept) >= len(plain) - 1
        spelled += len(missing)
        filled += not missing
        if missing:
            assert any(FIRST_BYTE <= i < FIRST_BYTE + 256 for i in row)
    assert spelled > 3 and filled > 3  # 4 % of 400 each expected


def test_checkpoint_round_trip_and_damage(tmp_path):
    path = tmp_path / "run" / "last.pt"
    save_state(path, {"step": 3, "x": torch.arange(4)})
    assert load_state(path)["step"] == 3
    assert [p.name for p in path.parent.iterdir()] == ["last.pt"]
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="last.pt"):
        load_state(path)
    with pytest.raises(CheckpointError):
        load_state(tmp_path / "none.pt")
