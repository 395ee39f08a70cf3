"""Batches, linear latents and checkpoints."""

import random

import pytest
import torch

from kontext_core.errors import CheckpointError
from kontext_core.models.text import END, FIRST_BYTE, PAD, Tokenizer
from kontext_lab.training.batch import (
    PLANS,
    STEPS,
    USES,
    Plan,
    ShardData,
    dropped,
    schedule,
    shards_of,
    step_groups,
    token_ids,
    token_weights,
)
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


def shard(pca, number=0, **options):
    tokenizer = Tokenizer(vocabulary())
    return ShardData(pca, tokenizer, 16, **{"steps": 2, "scale": 0.5, **options})[number]


def test_a_shard_depends_on_seed_and_number_only(pca):
    one, again, other = (shard(pca, number, seed=3) for number in (5, 5, 6))
    groups = [group for step in one for group in step]
    assert sum(len(g.target) for g in groups) == 2 * sum(round(plan.count / 2) for plan in PLANS)
    assert {len(g.references) for g in groups} == {0, 1, 2}
    for a, b in zip(groups, (group for step in again for group in step), strict=True):
        assert torch.equal(a.target, b.target) and torch.equal(a.ids, b.ids)
        assert all(torch.equal(x, y) for x, y in zip(a.references, b.references, strict=True))
    assert not torch.equal(groups[0].target[0, :, :4, :4], other[0][0].target[0, :, :4, :4])


def test_every_step_of_a_shard_has_each_number_of_references(pca):
    for step in shard(pca, scale=1.0):
        counts = {n: sum(len(g.target) for g in step if len(g.references) == n) for n in range(3)}
        square = {plan.references: plan.count for plan in PLANS if not plan.oblong}
        assert all(counts[n] >= square[n] - 1 for n in square)


def test_dropout_empties_texts_and_takes_references_away(pca):
    generator = torch.Generator().manual_seed(0)
    for group in (group for step in shard(pca) for group in step):
        bare = dropped(group, generator, texts=1.0, references=1.0)
        assert bare.references == [] and bare.target is group.target
        assert (bare.ids[:, 0] == END).all() and (bare.ids[:, 1:] == PAD).all()
        same = dropped(group, generator, texts=0.0, references=0.0)
        assert torch.equal(same.ids, group.ids) and same.references is group.references


def test_oblong_targets_and_references_of_their_own_size(pca):
    plans = (Plan(1, 8), Plan(1, 4, oblong=True), Plan(2, 4, oblong=True, own_sizes=True))
    shapes = set()
    for number in range(8):
        for step in shard(pca, number, plans=plans, scale=1.0):
            for group in step:
                target = tuple(group.target.shape[2:])
                if target == (8, 8):
                    assert all(r.shape == group.target.shape for r in group.references)
                elif len(group.references) == 1:
                    assert target in ((8, 12), (12, 8))
                    assert tuple(group.references[0].shape[2:]) == target
                else:
                    shapes |= {(target, tuple(r.shape[2:])) for r in group.references}
    assert any(target != reference for target, reference in shapes)


def test_weights_treat_what_changes_and_what_stays_alike():
    target = torch.zeros(2, 16, 4, 4)
    reference = target.clone()
    reference[0, :, 0, 0] = 1.0  # one cell of the first token
    kind = torch.zeros(2, 4, 4, dtype=torch.long)
    kind[1, 3, 2] = 5
    before = torch.zeros(2, 4, 4, dtype=torch.long)
    before[0, 1, 0] = before[1, 2, 0] = 3
    weight = token_weights(target, kind, reference, before, emphasis=3.0)
    assert torch.allclose(weight.mean(1), torch.ones(2))
    # A change in the first token, a thing that stays in the second.
    assert torch.allclose(weight[0], torch.tensor([4.0, 4, 1, 1]) * 4 / 10)
    # A thing of the reference that is gone or not, and one of the target.
    assert torch.allclose(weight[1], torch.tensor([1.0, 1, 4, 4]) * 4 / 10)
    without = token_weights(target, kind, emphasis=3.0)
    assert torch.allclose(without[1], torch.tensor([1.0, 1, 1, 4]) * 4 / 7)
    assert torch.equal(without[0], torch.ones(4))


def test_labels_follow_the_order_of_packed_tokens(pca):
    for group in (group for step in shard(pca, plans=(Plan(0, 6),)) for group in step):
        tokens = group.target.shape[2] * group.target.shape[3] // 4
        assert group.kind.shape == group.colour.shape == (len(group.ids), tokens, 4)
        assert group.weight.shape == (len(group.ids), tokens)
        assert bool(((group.kind > 0) == (group.colour > 0)).all())


def test_every_sample_is_visited_as_often_as_promised():
    last = STEPS * USES * 6
    visits = [schedule(step) for step in range(last)]
    counts = {}
    for visit in visits[STEPS * USES * (USES - 1) :]:
        counts[visit] = counts.get(visit, 0) + 1
    whole = [shard for shard in range(USES - 1, 6 - USES + 1)]
    assert whole
    for number in whole:
        assert all(counts[number, index] == USES for index in range(STEPS))


@pytest.mark.parametrize("first", [0, 1, 47, 48, 100, 155])
def test_a_run_that_goes_on_meets_the_same_groups(first):
    def drawn(numbers):
        # A shard stands for itself.
        return ([[(number, index)] for index in range(STEPS)] for number in numbers)

    last = 200
    whole = [step[0] for step in step_groups(drawn(shards_of(0, last)), 0, last)]
    later = [step[0] for step in step_groups(drawn(shards_of(first, last)), first, last)]
    assert later == whole[first:]
    assert whole == [schedule(step) for step in range(last)]


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
