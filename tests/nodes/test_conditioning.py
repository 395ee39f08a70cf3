"""What travels in CONDITIONING: references in two forms, guidance, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

FEATURES = torch.zeros(1, 12, 40)
POOLED = {"pooled_output": torch.zeros(1, 24)}


@pytest.fixture
def module(pack: Any) -> Any:
    return pack.module("nodes.conditioning")


@pytest.fixture
def reference(pack: Any) -> Any:
    return pack.module("kontext_core.stitcher").Reference


def test_attach_leaves_the_given_conditioning_alone(module: Any, reference: Any) -> None:
    given = [[FEATURES, {**POOLED, "guidance": 3.0}]]
    one, off = reference(torch.ones(1, 16, 4, 4)), reference(torch.ones(1, 16, 4, 4), strength=0)
    [[features, extra]] = module.attach(given, [one, off], "index")
    assert features is FEATURES
    assert given == [[FEATURES, {**POOLED, "guidance": 3.0}]]
    assert extra["guidance"] == 3.0
    assert extra["reference_latents_method"] == "index"
    assert extra["kontext_references"].items == (one, off)
    # A native Flux knows no strength, but "not at all" can be said to it.
    assert [latent is one.latent for latent in extra["reference_latents"]] == [True]


def test_reading_gives_back_the_chain_and_later_native_references(
    module: Any, reference: Any
) -> None:
    ours = reference(torch.ones(1, 16, 4, 4), strength=0.5, position=(2.0, 0.0, 4.0))
    [[features, extra]] = module.attach([[FEATURES, POOLED]], [ours], "uxo")
    native = torch.ones(1, 16, 2, 2)
    extra["reference_latents"] = [*extra["reference_latents"], native]
    read = module.read([[features, extra]], 2.5, "positive")
    assert read.references[0] is ours
    assert read.references[1].latent is native
    assert len(read.references) == 2
    assert read.method == "uxo"


@pytest.mark.parametrize(
    ("written", "expected"),
    [("offset", "offset"), ("index", "index"), ("uxo/uno", "uxo"), (None, "offset")],
)
def test_methods_under_their_native_names(module: Any, written: Any, expected: str) -> None:
    entry = [[FEATURES, {**POOLED, "reference_latents_method": written}]]
    assert module.read(entry, 2.5, "positive").method == expected


@pytest.mark.parametrize(
    ("extra", "expected"), [({}, 2.5), ({"guidance": 4.0}, 4.0), ({"guidance": None}, None)]
)
def test_guidance_of_the_conditioning_wins(module: Any, extra: Any, expected: Any) -> None:
    read = module.read([[FEATURES, {**POOLED, **extra}]], 2.5, "positive")
    assert read.conditioning.guidance == expected


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([], "0 instructions"),
        ([[FEATURES, POOLED], [FEATURES, POOLED]], "2 instructions"),
        (None, "no list"),
        ([[FEATURES, {}]], "pooled output"),
        ([[FEATURES, {**POOLED, "control": object()}]], "ControlNet"),
        ([[FEATURES, {**POOLED, "area": (8, 8, 0, 0)}]], "areas"),
        ([[FEATURES, {**POOLED, "end_percent": 0.5}]], "timestep ranges"),
        ([[FEATURES, {**POOLED, "guidance": float("nan")}]], "guidance is nan"),
        ([[FEATURES, {**POOLED, "reference_latents_method": "magic"}]], "'magic'"),
    ],
)
def test_what_the_sampler_cannot_do_is_refused(
    pack: Any, module: Any, entries: Any, says: str
) -> None:
    with pytest.raises(pack.error("InputError"), match=says):
        module.read(entries, 2.5, "positive")


def test_chains_compare_by_value(module: Any, reference: Any) -> None:
    def chain(value: float = 1.0, **settings: Any) -> Any:
        return module.ReferenceChain().add(reference(torch.full((1, 16, 4, 4), value), **settings))

    assert chain() == chain()
    assert hash(chain()) == hash(chain())
    assert chain() != chain(2.0)
    assert chain() != chain(strength=0.5)
    assert chain() != chain(mask=torch.ones(4, 4))
    assert chain(mask=torch.ones(4, 4)) == chain(mask=torch.ones(4, 4))
    assert chain() != module.ReferenceChain()
    moved = chain().to("meta")
    assert moved.items[0].latent.device.type == "meta"
