"""Batches, linear latents and checkpoints."""

import random

import pytest
import torch

from kontext_core.errors import CheckpointError
from kontext_core.models.text import END, FIRST_BYTE, PAD, Tokenizer
from kontext_core.training.batch import GROUPS, StepData, token_ids
from kontext_core.training.checkpoint import load_state, save_state
from kontext_core.training.patch_pca import fit_patch_pca
from kontext_core.training.world.render import render
from kontext_core.training.world.tasks import make_sample
from kontext_core.training.world.wording import vocabulary


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
    # 16 of 192 components keep 30 dB and more of these pictures (measured 30.8).
    assert float(-10 * torch.log10(error)) > 29


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
    assert [len(g.target) for g in one] == [count for _, count in GROUPS]
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
        assert any(FIRST_BYTE <= i < FIRST_BYTE + 256 for i in row)
    assert spelled > 3 and filled > 3  # 3 % of 400 each expected


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
