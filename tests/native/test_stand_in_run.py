"""What a run of the host's sampler keeps and leaves out, and that nothing of it outlives the run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_models import draw
from stand_in_comfy import Interrupt
from torch import Tensor

# Velocities are of order one. Measured: 1.4e-6, where keys are put together in another order.
SAME = 1e-5
SIGMAS = torch.tensor([1.0, 0.8, 0.5, 0.2, 0.0])
SIZE = (8, 8)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def network(inside: Any) -> Any:
    made = inside.module("nodes.native.forward").NativeFlux(inside.flux())
    inside.module("nodes.native.layers").host_layers(made)
    return made


def accelerated(inside: Any, **parts: Any) -> Any:
    core, carried = inside.module("kontext_core.accelerate"), inside.module("nodes.native.carried")
    return carried.Accelerated(core.Acceleration(**parts), "custom")


def during(inside: Any, network: Any, body: Callable[[], Any], wanted: Any = None) -> Any:
    """What `body` gives within a run of the host's, and the run's report."""
    run = inside.module("nodes.native.run")
    options = {} if wanted is None else {"kontext_acceleration": wanted}
    patcher = SimpleNamespace(model=SimpleNamespace(diffusion_model=network))
    guider = SimpleNamespace(model_patcher=patcher, model_options={"transformer_options": options})

    class Executor:
        class_obj = guider

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return body()

    noise = torch.zeros(1, 16, *SIZE)
    made = run.during(Executor(), noise, noise, "euler", SIGMAS, None)
    return made, getattr(guider, run.REPORT, None)


def call(network: Any, step: int, side: int = 0, batch: int = 1, **more: Any) -> Tensor:
    """The model call of a step for one text, [b, 16, 8, 8]."""
    options = {
        "sample_sigmas": SIGMAS,
        "sigmas": SIGMAS[step : step + 1],
        "uuids": [f"text {side}"],
        "cond_or_uncond": [side],
        **more.pop("options", {}),
    }
    values = {
        "x": draw(1 + step, batch, 16, *SIZE),
        "timestep": SIGMAS[step].repeat(batch),
        "context": draw(50 + side, 1, 5, 40).repeat(batch, 1, 1),
        "y": draw(60 + side, 1, 24).repeat(batch, 1),
        "guidance": torch.full((batch,), 2.5),
        "ref_latents": [draw(20, 1, 16, *SIZE).repeat(batch, 1, 1, 1)],
        **more,
    }
    return network(**values, transformer_options=options)


def count(network: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every preparation."""
    seen: list[int] = []
    plain = network.prepare

    def prepare(*args: Any) -> Any:
        seen.append(1)
        return plain(*args)

    monkeypatch.setattr(network, "prepare", prepare, raising=False)
    return seen


def test_what_stays_the_same_is_made_once(
    inside: Any, network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = [call(network, step, side) for step in range(4) for side in (0, 1)]
    seen = count(network, monkeypatch)

    def run() -> list[Tensor]:
        return [call(network, step, side) for step in range(4) for side in (0, 1)]

    made, _ = during(inside, network, run)
    assert len(seen) == 2
    assert all(torch.equal(a, b) for a, b in zip(made, plain, strict=True))
    # Outside of a run nothing is kept.
    call(network, 0)
    call(network, 0)
    assert len(seen) == 4


def test_a_change_is_noticed_whatever_the_host_calls_it(
    inside: Any, network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same conditioning by its name: another text, picture, method or weight counts all the same."""
    reference = draw(20, 1, 16, *SIZE)
    changes: list[dict[str, Any]] = [
        {"context": draw(70, 1, 5, 40)},
        {"ref_latents": [reference + 1]},
        {"ref_latents": [reference], "ref_latents_method": "uxo"},
        {"ref_latents": [reference, reference]},
        {"ref_latents": None},
    ]
    wanted = accelerated(inside, context=inside.module("kontext_core.accelerate").Reuse(0, 9, 0))
    for change in changes:
        plain = call(network, 1, **change)
        now = functools.partial(call, network, 1, **change)
        made, report = during(inside, network, lambda now=now: (call(network, 0), now())[1], wanted)
        assert torch.equal(made, plain), change
        assert (report.full, report.reused) == (2, 0)

    def heavier() -> Tensor:
        call(network, 0)
        network.run.forget()
        return call(network, 1)

    made, report = during(inside, network, heavier, wanted)
    assert torch.equal(made, call(network, 1)) and report.reused == 0


def test_references_are_taken_from_an_earlier_step(inside: Any, network: Any) -> None:
    reuse = inside.module("kontext_core.accelerate").Reuse(0, 9, 0)

    def run() -> list[Tensor]:
        # The same step twice, then later ones; both texts in turn.
        return [call(network, step, side) for step in (1, 1, 2, 3) for side in (0, 1)]

    made, report = during(inside, network, run, accelerated(inside, context=reuse))
    assert (report.full, report.reused) == (2, 6)
    assert 0.5 < report.work < 0.8
    for side in (0, 1):
        plain = call(network, 1, side)
        assert torch.equal(made[side], plain)
        assert (made[2 + side] - plain).abs().max() < SAME
        # Another step's are other numbers. Measured: 0.05 and more.
        assert (made[4 + side] - call(network, 2, side)).abs().max() > 100 * SAME


def test_texts_together_and_apart(inside: Any, network: Any) -> None:
    """The host puts both texts into one call when memory suffices, and may change its mind."""
    both: dict[str, Any] = {
        "context": torch.cat([draw(50, 1, 5, 40), draw(51, 1, 5, 40)]),
        "y": torch.cat([draw(60, 1, 24), draw(61, 1, 24)]),
        "options": {"uuids": ["text 0", "text 1"], "cond_or_uncond": [0, 1]},
    }
    reuse = inside.module("kontext_core.accelerate").Reuse(0, 9, 0)

    def run() -> list[Tensor]:
        first = call(network, 1, batch=2, **dict(both, options=dict(both["options"])))
        apart = [call(network, 1, side) for side in (0, 1)]
        again = call(network, 2, batch=2, **dict(both, options=dict(both["options"])))
        later = [call(network, 2, side) for side in (0, 1)]
        return [first, torch.cat(apart), again, torch.cat(later)]

    made, report = during(inside, network, run, accelerated(inside, context=reuse))
    assert (report.full, report.reused) == (3, 3)
    # `draw` gives the second picture of a batch other noise: the first one's is compared.
    assert (made[0][0] - made[1][0]).abs().max() < SAME
    assert (made[2][0] - made[3][0]).abs().max() < SAME


def test_whoever_looks_at_blocks_sees_all_of_them(inside: Any, network: Any) -> None:
    reuse = inside.module("kontext_core.accelerate").Reuse(0, 9, 0)

    def patch(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> dict[str, Tensor]:
        assert k.shape[2] == 5 + 2 * 16
        return {"q": q, "k": k, "v": v}

    options = {"patches": {"attn1_patch": [patch]}}
    plain = [call(network, step) for step in (0, 1)]
    made, report = during(
        inside,
        network,
        lambda: [call(network, step, options=dict(options)) for step in (0, 1)],
        accelerated(inside, context=reuse),
    )
    assert report.reused == 0
    for one, other in zip(made, plain, strict=True):
        assert (one - other).abs().max() < SAME


def test_a_run_leaves_nothing(inside: Any, network: Any) -> None:
    """However it ends, and whatever runs within it."""
    core = inside.module("kontext_core.accelerate")
    wanted = accelerated(
        inside,
        context=core.Reuse(0, 2, 0),
        steps=core.StepReuse(1.0, 0, 0, 2),
        region=core.Region(0, 9, 0),
    )
    plain = [call(network, step) for step in range(4)]

    def interrupted() -> None:
        call(network, 0)
        inside.state.interrupted = True
        call(network, 1)

    def nested() -> Any:
        outer = network.run
        call(network, 0)
        within, _ = during(inside, network, lambda: call(network, 2))
        assert network.run is outer
        return within

    try:
        with pytest.raises(Interrupt):
            during(inside, network, interrupted, wanted)
    finally:
        inside.state.interrupted = False
    assert network.run is None
    made, report = during(inside, network, nested, wanted)
    assert torch.equal(made, plain[2]) and report.full == 1
    fast, report = during(inside, network, lambda: [call(network, s) for s in range(4)], wanted)
    assert report.full < 4 and report.work < 1
    assert network.run is None
    for step in range(4):
        assert torch.equal(call(network, step), plain[step])
    assert torch.equal(fast[0], plain[0]) and not torch.equal(fast[2], plain[2])


def test_a_region_takes_of_a_controlnet_what_belongs_to_it(inside: Any, network: Any) -> None:
    core, first = inside.module("kontext_core.accelerate"), draw(5, 1, 16, 96)
    control = {"input": [first], "output": [first]}
    mask = torch.zeros(1, 16, *SIZE)
    mask[..., 4:, :] = 1
    run_module = inside.module("nodes.native.run")

    def half() -> list[Tensor]:
        network.run = run_module.HostRun(
            network.params,
            accelerated(inside, region=core.Region(0, 9, 0, grow=0)).settings,
            mask.shape,
            mask,
        )
        return [call(network, 1, control=control) for _ in range(2)]

    (plain, made), _ = during(inside, network, half)
    # Keys of the rest are those of the same call: tokens that are computed get the same numbers.
    assert (made - plain)[:, :, 4:].abs().max() < SAME


def test_areas_take_no_region(inside: Any, network: Any) -> None:
    """A part of the latent is not the picture that a reference is compared with."""
    core = inside.module("kontext_core.accelerate")
    wanted = accelerated(inside, region=core.Region(0, 9, 0, similarity=0.0, grow=0, most=1.0))

    def run(**part: Any) -> int:
        _, report = during(
            inside, network, lambda: [call(network, step, **part) for step in range(3)], wanted
        )
        return report.regional

    assert run() > 0
    assert run(x=draw(3, 1, 16, 4, 8), ref_latents=[draw(20, 1, 16, 4, 8)]) == 0


def test_a_copy_of_the_network_takes_part_in_no_run(inside: Any, network: Any) -> None:
    import copy

    made, _ = during(inside, network, lambda: copy.deepcopy(network))
    assert made.run is None and network.run is None


def test_the_hosts_attention_is_called_where_it_was_chosen(
    inside: Any, network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what ComfyUI takes unasked on a CPU gives way to the core's own kernel."""
    import comfy.ldm.modules.attention as host

    plain = call(network, 0)
    calls: list[str] = []

    def named(name: str) -> Any:
        kernel = inside.state.kernel

        def attention(*args: Any, **kwargs: Any) -> Tensor:
            calls.append(name)
            return kernel(*args, **kwargs)

        attention.__name__ = name
        return attention

    inside.state.kernel = host.optimized_attention
    for name, seen in (("attention_sub_quad", 0), ("attention_sage", 4)):
        monkeypatch.setattr(host, "optimized_attention", named(name))
        calls.clear()
        assert (call(network, 0) - plain).abs().max() < SAME
        assert len(calls) == seen, name
    monkeypatch.setattr(host, "optimized_attention", named("attention_sub_quad"))
    calls.clear()
    call(network, 0, options={"optimized_attention_override": print})
    assert len(calls) == 4
