"""The transformer's forward, references, modulations and the guider, beside a stand-in for ComfyUI.

The oracle is the core's own forward: same network, same tokens. Both are float32 on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_models import draw
from stand_in_comfy import CFGGuider, Interrupt
from torch import Tensor

# Velocities are of order one. Measured: 2.4e-6, where attention comes in another order of sums.
SAME = 1e-5
SIZE = (6, 8)


@pytest.fixture(params=["plain", "with gradients"], autouse=True)
def gradients(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where nobody asks for gradients, blocks attend by the core's `Joint`; else as others see them."""
    with torch.set_grad_enabled(request.param == "with gradients"):
        yield


def given(batch: int = 1) -> dict[str, Tensor]:
    return {
        "x": draw(1, batch, 16, *SIZE),
        "timestep": torch.full((batch,), 0.7),
        "context": draw(2, batch, 5, 40),
        "y": draw(3, batch, 24),
        "guidance": torch.full((batch,), 2.5),
    }


def core(inside: Any, flux: Any, chain: Any = (), method: str = "offset", **changes: Any) -> Tensor:
    """Velocity [b, 16, h, w] by the core alone; references in model space."""
    stitcher, latents = (
        inside.module("kontext_core.stitcher"),
        inside.module("kontext_core.latents"),
    )
    plain = latents.LatentFormat(scale_factor=1.0, shift_factor=0.0)
    values = {**given(), **changes}
    x = values["x"]
    context = stitcher.stitch(tuple(x.shape), tuple(chain), method=method, latent_format=plain)
    out = flux(
        torch.cat([latents.pack(x), context.tokens], 1),
        context.img_ids,
        values["context"],
        torch.zeros(1, values["context"].shape[1], 3),
        values["timestep"],
        values["y"],
        values["guidance"],
        attn_bias=context.bias,
        target_tokens=context.target_tokens,
    )
    return latents.unpack(out, *x.shape[-2:])


def native(inside: Any, flux: Any, chain: Any = (), **more: Any) -> Tensor:
    network = inside.module("nodes.native.forward").NativeFlux(flux)
    inside.module("nodes.native.layers").host_layers(network)
    latents = [one.latent for one in chain if one.strength] or None
    values = {**given(), "ref_latents": latents, **more}
    if chain:
        values["kontext_references"] = SimpleNamespace(items=tuple(chain))
    return network(**values)


def chain_of(inside: Any, *changes: dict[str, Any]) -> list[Any]:
    make = inside.module("kontext_core.stitcher").Reference
    sizes = ((6, 8), (4, 6), (8, 4))
    return [make(draw(20 + i, 1, 16, *sizes[i]), **values) for i, values in enumerate(changes)]


HOLE = torch.zeros(16, 16)
HOLE[:8] = 1
CHAINS: dict[str, tuple[dict[str, Any], ...]] = {
    "none": (),
    "plain": ({}, {}),
    "strength": ({"strength": 0.4}, {}),
    "strength 0": ({}, {"strength": 0.0}, {}),
    "mask": ({"mask": HOLE}, {}),
    "a place": ({}, {"position": (2, 1.0, 3.0)}),
}


@pytest.mark.parametrize("method", ["offset", "index", "uxo"])
@pytest.mark.parametrize("name", CHAINS)
def test_velocity_is_the_cores(inside: Any, name: str, method: str) -> None:
    flux = inside.flux()
    chain = chain_of(inside, *CHAINS[name])
    out = native(inside, flux, chain, ref_latents_method=method)
    wanted = core(inside, flux, chain, method)
    assert (out - wanted).abs().max() < SAME
    assert wanted.abs().mean() > 0.1
    if chain:
        assert (wanted - core(inside, flux)).abs().max() > 100 * SAME


def test_without_guidance_or_pooled_text(inside: Any) -> None:
    flux = inside.flux()
    out = native(inside, flux, guidance=None, y=None)
    assert (out - core(inside, flux, guidance=None, y=torch.zeros(1, 24))).abs().max() < SAME


def test_a_batch_is_its_pictures(inside: Any) -> None:
    flux, two = inside.flux(), given(2)
    out = native(inside, flux, **two)
    for i in range(2):
        one = {key: value[i : i + 1] for key, value in two.items()}
        assert (out[i : i + 1] - core(inside, flux, **one)).abs().max() < SAME


def test_references_that_come_and_go(inside: Any) -> None:
    """Second step of four: one that ends there is gone, one that starts there has come."""
    flux = inside.flux()
    chain = chain_of(inside, {"end": 0.25}, {"start": 0.25}, {})
    options = {"sample_sigmas": torch.linspace(1, 0, 5), "sigmas": torch.tensor([0.75])}
    out = native(inside, flux, chain, ref_latents_method="index", transformer_options=options)
    make = inside.module("kontext_core.stitcher").Reference
    there = [
        make(chain[0].latent, strength=0.0),
        make(chain[1].latent),
        make(chain[2].latent),
    ]
    assert (out - core(inside, flux, there, "index")).abs().max() < SAME


def test_references_as_finished_pictures(inside: Any) -> None:
    """`index_timestep_zero`: tokens behind the target are modulated at timestep 0, others are not."""
    flux = inside.flux()
    chain = chain_of(inside, {}, {})
    still = native(inside, flux, chain, ref_latents_method="index_timestep_zero")
    assert (still - core(inside, flux, chain, "index")).abs().max() > 100 * SAME
    zero = torch.zeros(1)
    at_zero = native(inside, flux, chain, ref_latents_method="index_timestep_zero", timestep=zero)
    assert (at_zero - core(inside, flux, chain, "index", timestep=zero)).abs().max() < SAME
    # Nothing but the references is: without any, the method changes nothing.
    alone = native(inside, flux, ref_latents_method="index_timestep_zero")
    assert (alone - core(inside, flux)).abs().max() < SAME


def test_outputs_of_a_controlnet_are_added_to_the_images_tokens(inside: Any) -> None:
    flux = inside.flux()
    tokens = SIZE[0] * SIZE[1] // 4
    first, last = draw(5, 1, tokens, 96), draw(6, 1, tokens, 96)
    control = {"input": [None, first], "output": [last]}
    out = native(inside, flux, control=control)
    flux.double_blocks[1].register_forward_hook(lambda m, i, o: (o[0] + first, o[1]))

    def behind_text(module: Any, inputs: Any, x: Tensor) -> Tensor:
        return torch.cat([x[:, :5], x[:, 5:] + last], 1)

    flux.single_blocks[0].register_forward_hook(behind_text)
    assert (out - core(inside, flux)).abs().max() < SAME


def test_patches_see_blocks_and_may_replace_them(inside: Any) -> None:
    flux, seen = inside.flux(), []

    def replaced(args: Any, more: Any) -> Any:
        options = args["transformer_options"]
        seen.append((options["block_type"], options["block_index"], options["total_blocks"]))
        assert args["pe"].shape[-2:] == (2, 2)
        return more["original_block"](args)

    where = {(kind, i): replaced for kind in ("double_block", "single_block") for i in range(2)}
    options = {"patches_replace": {"dit": where}}
    out = native(inside, flux, transformer_options=options)
    assert (out - core(inside, flux)).abs().max() < SAME
    assert seen == [("double", 0, 2), ("double", 1, 2), ("single", 0, 2), ("single", 1, 2)]


def test_wrappers_run_around_the_forward(inside: Any) -> None:
    flux = inside.flux()

    def twice(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        return 2 * executor(*args, **kwargs)

    options = {"wrappers": {"diffusion_model": [twice]}}
    out = native(inside, flux, transformer_options=options)
    assert (out - 2 * core(inside, flux)).abs().max() < 2 * SAME


def test_an_interrupt_ends_a_forward(inside: Any) -> None:
    inside.state.interrupted = True
    try:
        with pytest.raises(Interrupt):
            native(inside, inside.flux())
    finally:
        inside.state.interrupted = False


@pytest.mark.parametrize("chain", ["none", "plain"])
def test_kept_modulations_are_those_asked_for(inside: Any, chain: str) -> None:
    """Layers off the device: rows are made ahead, once for steps to come, for each picture its own."""
    flux = inside.flux()
    network = inside.module("nodes.native.forward").NativeFlux(flux)
    inside.module("nodes.native.layers").host_layers(network)
    layers = inside.module("nodes.native.modulation").modulation_layers(network)
    calls = []
    for layer in layers:
        layer.comfy_cast_weights = True
    layers[0].register_forward_hook(lambda *_: calls.append(1))
    plain, references = inside.flux(), chain_of(inside, *CHAINS[chain])
    sigmas = torch.tensor([1.0, 0.7, 0.4, 0.0])
    more: dict[str, Any] = {}
    if references:
        more["ref_latents"] = [one.latent for one in references]
    with torch.no_grad():
        for now in (1.0, 0.7, 0.4):
            options = {"sample_sigmas": sigmas, "sigmas": torch.tensor([now])}
            values = {**given(), "timestep": torch.tensor([now])}
            out = network(**values, transformer_options=options, **more)
            wanted = core(inside, plain, references, timestep=values["timestep"])
            assert (out - wanted).abs().max() < SAME
        assert len(calls) == 1
        # Two texts in one call, and after weights have changed.
        both = given(2)
        out = network(**both)
        for i in range(2):
            one = {key: value[i : i + 1] for key, value in both.items()}
            assert (out[i : i + 1] - core(inside, plain, **one)).abs().max() < SAME
        changed = layers[0].weight.detach() * 1.5
        layers[0].weight.copy_(changed)
        plain.double_blocks[0].img_mod.lin.weight.copy_(changed)
        network.modulated.forget()
        assert (network(**given()) - core(inside, plain)).abs().max() < SAME


def test_rows_that_are_kept_have_a_limit(inside: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    flux = inside.flux()
    network = inside.module("nodes.native.forward").NativeFlux(flux)
    inside.module("nodes.native.layers").host_layers(network)
    modulation = inside.module("nodes.native.modulation")
    monkeypatch.setattr(modulation, "KEPT", 4)
    for layer in modulation.modulation_layers(network):
        layer.comfy_cast_weights = True
    with torch.no_grad():
        for step in range(modulation.KEPT + 3):
            network(**{**given(), "timestep": torch.tensor([1 - step / 100])})
    assert sum(map(len, network.modulated._tables)) == modulation.KEPT


class Model:
    """A MODEL whose estimate is a tenth of what it sees."""

    def __init__(self, inside: Any) -> None:
        flux = inside.module("nodes.native.forward").NativeFlux(inside.flux())
        self.model = SimpleNamespace(
            diffusion_model=flux, manual_cast_dtype=None, get_dtype=lambda: torch.float32
        )
        self.seen: list[float] = []

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        self.seen.append(sigma)
        return 0.1 * x

    def get_model_object(self, name: str) -> str:
        return name


def guide(inside: Any, model: Any, positive: Any, **changes: Any) -> tuple[Tensor, list[Any]]:
    told: list[Any] = []
    values = {
        "seed": 5, "steps": 4, "guidance": 3.5, "negative": None, "cfg": 1.0, "solver": "euler",
        "schedule": "kontext", "denoise": 1.0, **changes,
    }  # fmt: skip
    latent = values.pop("latent", {"samples": torch.zeros(1, 16, *SIZE)})
    out = inside.module("nodes.native.guider").guided(
        model, positive, latent, callback=lambda *args: told.append(args), **values
    )
    return out, told


def test_a_guided_run_and_what_it_tells(inside: Any) -> None:
    model = Model(inside)
    _, told = guide(inside, model, [[draw(1, 1, 5, 40), {}]])
    assert [(step, total) for step, total, _ in told] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    make = inside.module("kontext_core.schedule").make_timesteps
    expected = make(4, SIZE[0] * SIZE[1] // 4)
    assert torch.equal(CFGGuider.last.sigmas, expected)
    assert model.seen == expected[:-1].tolist()
    # The estimate, not the noisy latent.
    last = told[0][2]
    noise = inside.module("kontext_core.sampling").make_noise(5, (1, 16, *SIZE))
    assert torch.equal(CFGGuider.last.noise, noise)
    assert (last - 0.1 * noise).abs().max() < 1e-6


def test_the_hosts_schedule_is_cut_at_its_end(inside: Any) -> None:
    guide(inside, Model(inside), [[draw(1, 1, 5, 40), {}]], schedule="simple", denoise=0.5)
    # Eight steps, of which the last four are run.
    assert torch.equal(CFGGuider.last.sigmas, torch.linspace(1, 0, 9)[-5:])


def test_what_each_side_of_a_guided_run_is_given(inside: Any) -> None:
    words, own = draw(1, 1, 5, 40), draw(2, 1, 5, 40)
    mine, theirs = [draw(3, 1, 16, 4, 4)], [draw(4, 1, 16, 4, 4)]
    positive = [
        [words, {"reference_latents": mine, "reference_latents_method": "index"}],
        [own, {"guidance": 1.5}],
    ]
    negative = [[own, {"reference_latents": theirs, "kontext_references": "old", "area": 1}]]
    guide(inside, Model(inside), positive, negative=negative, cfg=2.0)
    told = CFGGuider.last
    assert [extra["guidance"] for _, extra in told.positive] == [3.5, 1.5]
    [[features, extra]] = told.negative
    assert features is own and extra["guidance"] == 3.5 and extra["area"] == 1
    # Both look at the same pictures.
    assert extra["reference_latents"] is mine and extra["reference_latents_method"] == "index"
    assert "kontext_references" not in extra
    assert told.cfg == 2.0 and told.sampler == "euler"


def test_a_noise_mask_and_places_in_a_batch_go_to_the_guider(inside: Any) -> None:
    mask = torch.ones(1, 1, 8, 8)
    latent = {"samples": torch.zeros(1, 16, *SIZE), "noise_mask": mask, "batch_index": [2]}
    guide(inside, Model(inside), [[draw(1, 1, 5, 40), {}]], latent=latent)
    assert CFGGuider.last.more["denoise_mask"] is mask
    drawn = torch.Generator().manual_seed(5)
    third = [torch.randn((1, 16, *SIZE), generator=drawn) for _ in range(3)][2]
    assert torch.equal(CFGGuider.last.noise, third)


def test_a_differential_mask_sets_the_guiders_model_only(inside: Any) -> None:
    model = Model(inside)
    set_to: list[Any] = []

    def clone() -> Any:
        made = Model(inside)
        made.set_model_denoise_mask_function = set_to.append
        return made

    model.clone = clone  # type: ignore[attr-defined]
    guide(inside, model, [[draw(1, 1, 5, 40), {}]], mask_mode="differential")
    [now] = set_to
    assert CFGGuider.last.model is not model
    levels = {"sigmas": torch.tensor([0.8, 0.4, 0.0])}
    found = now(torch.tensor([0.4]), torch.tensor([0.0, 0.4, 0.5, 1.0]), extra_options=levels)
    assert found.tolist() == [0, 0, 1, 1]


def test_a_run_that_gives_no_numbers_is_refused(inside: Any) -> None:
    error = inside.module("kontext_core.errors").KontextError
    model = Model(inside)
    model.denoise = lambda x, sigma: x * torch.nan  # type: ignore[method-assign]
    with pytest.raises(error, match="NaN or infinite"):
        guide(inside, model, [[draw(1, 1, 5, 40), {}]])
    with pytest.raises(error, match="no instruction"):
        guide(inside, model, [])
    with pytest.raises(error, match="guidance is nan"):
        guide(inside, model, [[draw(1, 1, 5, 40), {}]], guidance=float("nan"))


def test_a_file_overwritten_in_place_is_noticed_by_the_hosts_forward_too(
    inside: Any, tmp_path: Path
) -> None:
    """The host calls its own wrapper of the layers, not the network that was loaded."""
    unchanged = inside.module("kontext_core.weights.unchanged")
    flux, path = inside.flux(), tmp_path / "model.safetensors"
    path.write_bytes(b"whole")
    flux.register_forward_pre_hook(unchanged.FileGuard((unchanged.stamp_of(path, path.stat()),)))
    network = inside.module("nodes.native.forward").NativeFlux(flux)
    inside.module("nodes.native.layers").host_layers(network)
    network(**given())
    path.write_bytes(b"half")
    with pytest.raises(inside.module("kontext_core.errors").CheckpointError, match="written to"):
        network(**given())
