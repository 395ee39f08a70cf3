"""What a forward inside ComfyUI works out without ComfyUI: places, weights, masks, share of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import embedded_host  # noqa: F401  makes `standalone` importable
import pytest
import torch
from torch import Tensor

from standalone.loader import load_pack

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function that gives a module of the pack by its path."""
    import importlib

    folder = tmp_path_factory.mktemp("custom_nodes") / "pack"
    folder.symlink_to(ROOT, target_is_directory=True)
    key = load_pack(folder).module.__name__
    return lambda path: importlib.import_module(f"{key}.{path}")


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


SIZES = ((8, 12), (9, 7), (4, 6), (5, 5))
T = torch.ones(1)


@pytest.mark.parametrize("method", ["offset", "index", "uxo", "index_timestep_zero"])
@pytest.mark.parametrize("special", [False, True])
def test_a_scene_is_what_the_core_stitches(method: str, special: bool, modules: Any) -> None:
    stitcher = modules("kontext_core.stitcher")
    plain = modules("kontext_core.latents").LatentFormat(scale_factor=1.0, shift_factor=0.0)
    chain = [stitcher.Reference(randn(i, 1, 16, *size)) for i, size in enumerate(SIZES)]
    if special:
        hole = torch.zeros(40, 40)
        hole[:20] = 1
        change = ({"strength": 0.5}, {"strength": 0.0}, {"mask": hole}, {"position": (3, 1.5, 2)})
        chain = [
            stitcher.Reference(one.latent, **more) for one, more in zip(chain, change, strict=True)
        ]
    x = randn(9, 1, 16, 7, 11)
    wanted = stitcher.stitch(x.shape, chain, method=method, latent_format=plain)
    latents = [one.latent for one in chain if one.strength]
    scene = modules("nodes.native.references").arrange(
        x, latents, chain if special else None, method, {}, T
    )
    assert scene.ids.equal(wanted.img_ids)
    assert scene.tokens[:, scene.target :].equal(wanted.tokens)
    assert scene.target == wanted.target_tokens == 24
    assert scene.counts == tuple(placed.tokens for placed in wanted.layout[1:])
    assert scene.bias is None if wanted.bias is None else scene.bias.equal(wanted.bias)
    assert scene.still == (method == "index_timestep_zero")


def test_scaled_and_shifted_places(modules: Any) -> None:
    arrange = modules("nodes.native.references").arrange
    options = {"rope_options": {"scale_x": 0.5, "shift_y": 2.0, "shift_t": 1.0}}
    ids = arrange(randn(1, 1, 16, 4, 6), [randn(2, 1, 16, 2, 4)], None, "index", options, T).ids
    assert ids[0, :4].tolist() == [[1, 2, 0], [1, 2, 0.5], [1, 2, 1], [1, 3, 0]]
    assert ids[0, 6:].tolist() == [[2, 2, 0], [2, 2, 0.5]]


@pytest.mark.parametrize(
    ("now", "expected"), [(1.0, 0.0), (0.9, 0.25), (0.8, 0.25), (0.5, 0.5), (0.1, 0.75)]
)
def test_share_of_a_run(now: float, expected: float, modules: Any) -> None:
    progress = modules("nodes.native.references").progress_of
    schedule = torch.tensor([1.0, 0.9, 0.5, 0.2, 0.0])
    options = {"sample_sigmas": schedule, "sigmas": torch.tensor([now])}
    assert progress(options, T) == expected


def test_share_of_a_run_without_a_schedule(modules: Any) -> None:
    progress = modules("nodes.native.references").progress_of
    assert progress({}, torch.tensor([0.75])) == 0.25


def test_references_of_a_part_of_the_run_come_and_go(modules: Any) -> None:
    make, arrange = (
        modules("kontext_core.stitcher").Reference,
        modules("nodes.native.references").arrange,
    )
    chain = [make(randn(1, 1, 16, 4, 4), end=0.5), make(randn(2, 1, 16, 4, 6), start=0.5)]
    schedule = torch.linspace(1, 0, 5)
    counts = []
    for sigma in schedule[:-1]:
        options = {"sample_sigmas": schedule, "sigmas": sigma[None]}
        latents = [one.latent for one in chain]
        scene = arrange(randn(3, 1, 16, 4, 4), latents, chain, "index", options, T)
        counts.append(scene.counts)
        # The second keeps its place.
        assert scene.ids[0, 4, 0] == (1 if scene.counts == (4,) else 2)
    assert counts == [(4,), (4,), (6,), (6,)]


def test_what_does_not_fit_is_refused(modules: Any) -> None:
    arrange = modules("nodes.native.references").arrange
    shape_error = modules("kontext_core.errors").ShapeError
    x = randn(1, 1, 16, 4, 4)
    with pytest.raises(shape_error, match="channels must agree"):
        arrange(x, [randn(2, 1, 4, 4, 4)], None, "offset", {}, T)
    chain = [modules("kontext_core.stitcher").Reference(x)]
    with pytest.raises(shape_error, match="changed one and not the other"):
        arrange(x, [x, x], chain, "offset", {}, T)


def test_an_unknown_method_counts_as_offset_and_is_told_of_once(
    modules: Any, caplog: pytest.LogCaptureFixture
) -> None:
    arrange = modules("nodes.native.references").arrange
    x = randn(1, 1, 16, 4, 4)
    for _ in range(2):
        odd = arrange(x, [x, x], None, "negative_index", {}, T)
    assert odd.ids.equal(arrange(x, [x, x], None, "offset", {}, T).ids)
    assert len([r for r in caplog.records if "negative_index" in r.getMessage()]) == 1


def test_positions_in_the_hosts_form_and_back(modules: Any) -> None:
    attention, rope = modules("nodes.native.attention"), modules("kontext_core.models.rope")
    table = rope.rope_table(randn(1, 1, 5, 3) * 10, (4, 6, 6), 10_000)
    turned = attention.rotations(table)
    assert turned.shape == (1, 1, 5, 8, 2, 2)
    assert attention.table_of(turned).equal(table) and attention.table_of(table) is table
    x = randn(2, 1, 2, 5, 16)
    by_matrix = torch.einsum("bhndij,bhndj->bhndi", turned, x.unflatten(-1, (8, 2))).flatten(-2)
    # float32 rounding; measured 2.4e-7.
    assert (by_matrix - rope.apply_rope(x, table)).abs().max() < 1e-6


def test_masks_join(modules: Any) -> None:
    joined = modules("nodes.native.attention").joined_mask
    bias = torch.tensor([[0.0, 0.0, -1.0]])
    assert joined(None, None, 3) is None
    assert joined(None, bias, 3).tolist() == [[[[0, 0, -1]]]]
    allowed = torch.tensor([[True, False], [True, True]])
    both = joined(allowed, bias, 3)[0, 0]
    assert both.tolist() == [[0, -torch.inf, -1], [0, 0, -1], [0, 0, -1]]
    # Nothing to add: as it came.
    assert joined(allowed, None, 2)[0, 0].equal(allowed)


def test_what_a_native_model_leaves_out(modules: Any) -> None:
    make = modules("kontext_core.stitcher").Reference
    leaves_out = modules("nodes.stitch").native_leaves_out
    x = randn(1, 1, 16, 4, 4)
    assert leaves_out([make(x), make(x, strength=0.0)]) == []
    assert leaves_out([make(x), make(x, strength=0.5, end=0.5), make(x, position=(1, 2, 3))]) == [
        "image 2: strength 0.5, start 0 and end 0.5",
        "image 3: its own place",
    ]
