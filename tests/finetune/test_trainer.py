"""The loop: it learns, goes on where it was stopped or killed, and its files load everywhere."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from packed_flux import pack
from safetensors.torch import load_file
from small_models import draw, make_flux
from torch import Tensor, nn

from kontext_core import Flux, Pipeline
from kontext_core.errors import CheckpointError, InputError, KontextError
from kontext_core.finetune import (
    NAMINGS,
    Encoded,
    EncodedStore,
    TrainProgress,
    TrainSettings,
    codecs_of,
    encode_examples,
    read_examples,
    save_lora,
    train_lora,
)
from kontext_core.finetune.adapters import Adapters
from kontext_core.finetune.encoded import Words
from kontext_core.finetune.objective import draw as draw_step
from kontext_core.finetune.objective import flow_losses, grouped
from kontext_core.lora import load_lora, set_loras
from kontext_core.schedule import mu_for

Data = tuple[list[Encoded], Words]
QUICK = TrainSettings(
    steps=6, rank=4, alpha=6.0, learning_rate=3e-3, warmup=2, batch=3, seed=5,
    caption_dropout=0.2, reference_dropout=0.2, targets="blocks and modulation",
)  # fmt: skip


def losses(run: Path) -> list[tuple[int, float]]:
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [(row["step"], row["loss"]) for row in map(json.loads, lines)]


def test_it_learns_what_it_is_shown(encoded: Data, tmp_path: Path) -> None:
    examples, empty = encoded
    settings = replace(QUICK, steps=60, learning_rate=1e-2, caption_dropout=0, reference_dropout=0)
    flux = make_flux()
    before = flux.state_dict()
    done = train_lora(flux, examples[:1], empty, settings, tmp_path / "a.st", run=tmp_path / "run")
    first, last = done.losses[:10], done.losses[-10:]
    share = sum(loss for _, loss in last) / sum(loss for _, loss in first)
    # Measured: 0.64 on a random network; without learning it is 1.
    assert done.finished and share < 0.8
    # Nothing of the network has changed, nothing is left on it.
    assert all(torch.equal(value, flux.state_dict()[key]) for key, value in before.items())
    assert not any(module._forward_hooks for module in flux.modules())


def test_stopped_and_gone_on_is_the_same_run(encoded: Data, tmp_path: Path) -> None:
    examples, empty = encoded
    flux, whole, parts = make_flux(), tmp_path / "whole", tmp_path / "parts"
    train_lora(flux, examples, empty, QUICK, whole / "a.st", run=whole, save_every=2)
    told: list[TrainProgress] = []
    stopped = train_lora(
        flux, examples, empty, QUICK, parts / "a.st", run=parts, save_every=2,
        callback=told.append, should_stop=lambda: len(told) == 3,
    )  # fmt: skip
    assert (stopped.step, stopped.finished) == (3, False) and (parts / "a.st").is_file()
    done = train_lora(flux, examples, empty, QUICK, parts / "a.st", run=parts, save_every=2)
    assert (done.first, done.step) == (3, 6)
    assert losses(parts) == losses(whole)
    one, other = load_file(whole / "a.st"), load_file(parts / "a.st")
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_kill_leaves_the_last_whole_state(encoded: Data, tmp_path: Path) -> None:
    examples, empty = encoded
    flux, whole, killed = make_flux(), tmp_path / "whole", tmp_path / "killed"
    train_lora(flux, examples, empty, QUICK, whole / "a.st", run=whole, save_every=2)
    train_lora(
        flux, examples, empty, replace(QUICK, steps=4), killed / "a.st", run=killed, save_every=2
    )
    state = (killed / "state.safetensors").read_bytes()
    train_lora(
        flux, examples, empty, replace(QUICK, steps=5), killed / "a.st", run=killed, save_every=0
    )
    # As a kill after step 5 leaves it: the state of step 4, a longer log with a line cut off.
    (killed / "state.safetensors").write_bytes(state)
    (killed / ".kontext-0badcafe.part").write_bytes(state[:500])
    with (killed / "log.jsonl").open("a") as log:
        log.write('{"step": 6, "lo')
    train_lora(flux, examples, empty, QUICK, killed / "a.st", run=killed, save_every=2)
    assert losses(killed) == losses(whole)
    assert not list(killed.glob("*.part"))


@pytest.mark.parametrize("changes", [{"rank": 8}, {"seed": 1}, {"learning_rate": 1e-4}])
def test_a_run_of_other_settings_is_not_gone_on_with(
    encoded: Data, tmp_path: Path, changes: dict[str, float]
) -> None:
    examples, empty = encoded
    flux, run = make_flux(), tmp_path / "run"
    short = replace(QUICK, steps=1)
    train_lora(flux, examples, empty, short, run / "a.st", run=run)
    other = replace(short, **changes)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"{next(iter(changes))} was .*start anew"):
        train_lora(flux, examples, empty, other, run / "a.st", run=run)
    with pytest.raises(InputError, match="examples was"):
        train_lora(flux, examples[:2], empty, short, run / "a.st", run=run)
    with pytest.raises(InputError, match="model was"):
        train_lora(make_flux(3), examples, empty, short, run / "a.st", run=run)
    assert train_lora(flux, examples, empty, other, run / "a.st", run=run, resume=False).first == 0


def test_a_damaged_state_is_told(encoded: Data, tmp_path: Path) -> None:
    (tmp_path / "state.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="state.safetensors: can't be read"):
        train_lora(make_flux(), *encoded, QUICK, tmp_path / "a.st", run=tmp_path)


def test_infinite_gradients_leave_the_last_state(encoded: Data, tmp_path: Path) -> None:
    examples, empty = encoded
    flux = make_flux()
    train_lora(flux, examples, empty, replace(QUICK, steps=2), tmp_path / "a", run=tmp_path)
    kept = (tmp_path / "state.safetensors").read_bytes()
    wild = replace(examples[0], pictures=(lambda: {"latent": torch.full((1, 16, 8, 8), 3e38)},) * 2)
    with pytest.raises(KontextError, match="NaN or infinite at step"):
        train_lora(flux, [wild, *examples[1:]], empty, QUICK, tmp_path / "a", run=tmp_path)
    assert (tmp_path / "state.safetensors").read_bytes() == kept


def packed(kind: str) -> Flux:
    flux = make_flux()
    if kind != "plain":
        for name, module in list(flux.named_modules()):
            if isinstance(module, nn.Linear) and "blocks" in name:
                parent, _, leaf = name.rpartition(".")
                setattr(flux.get_submodule(parent), leaf, pack(module, kind))
    return flux


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("kind", ["plain", "Q8_0", "fp8"])
def test_the_saved_file_acts_as_the_trained_pairs(
    encoded: Data, tmp_path: Path, naming: str, kind: str
) -> None:
    examples, empty = encoded
    flux, out = packed(kind), tmp_path / "a.safetensors"
    targets = "*_blocks.*, final_layer.adaLN_modulation.1, img_in, txt_in, time_in.*"
    settings = replace(QUICK, steps=2, targets=targets)
    train_lora(flux, examples, empty, settings, out, run=tmp_path / "run", naming=naming)
    adapters = Adapters(flux, targets, QUICK.rank, QUICK.scale)
    adapters.load(load_file(tmp_path / "run" / "state.safetensors"))
    inputs = (
        draw(1, 2, 10, 64), draw(2, 1, 10, 3), draw(3, 2, 4, 40), torch.zeros(1, 4, 3),
        torch.tensor([0.3, 0.8]), draw(4, 2, 24), torch.tensor([2.5, 3.0]),
    )  # fmt: skip
    with torch.no_grad():
        plain = flux(*inputs)
        with adapters.on(flux):
            expected = flux(*inputs)
        report = set_loras(flux, [(load_lora(out), 1.0)])
        loaded = flux(*inputs)
    assert not report.unmatched and report.loras[0].layers == len(adapters.pairs)
    change = (expected - plain).abs().max()
    # Measured: 2.0e-6, of outputs of up to 3.8.
    assert change > 1e-2
    torch.testing.assert_close(loaded, expected, rtol=0, atol=2e-5)


def test_dropout_order_and_noise_come_from_seed_and_step_alone(encoded: Data) -> None:
    examples, empty = encoded
    settings = replace(QUICK, caption_dropout=0.5, reference_dropout=0.5)

    def drawn(seed: int) -> list:
        return draw_step(examples * 8, empty, settings, torch.Generator().manual_seed(seed))

    one, again, other = drawn(1), drawn(1), drawn(2)
    assert [x.t for x in one] == [x.t for x in again] != [x.t for x in other]
    assert all(torch.equal(x.eps, y.eps) for x, y in zip(one, again, strict=True))
    blind = [not x.references for x in one]
    silent = [x.words is empty for x in one]
    assert 4 < sum(blind) < 28 and 4 < sum(silent) < 28 and blind != silent


def test_timesteps_follow_the_resolution(encoded: Data) -> None:
    examples, empty = encoded
    settings = replace(QUICK, caption_dropout=0, reference_dropout=0)
    generator = torch.Generator().manual_seed(0)
    many = draw_step([examples[0]] * 4000, empty, settings, generator)
    logits = torch.logit(torch.tensor([one.t for one in many]))
    # A 64x64 picture has 16 tokens. Standard errors: 0.016 and 0.011.
    assert float(logits.mean()) == pytest.approx(mu_for(16), abs=0.06)
    assert float(logits.std()) == pytest.approx(1.0, abs=0.05)


def test_losses_of_a_group_are_those_of_its_members(encoded: Data) -> None:
    examples, empty = encoded
    flux = make_flux()
    settings = replace(QUICK, method="index_timestep_zero")
    drawn = draw_step(examples * 2, empty, settings, torch.Generator().manual_seed(3))
    groups = grouped(drawn)
    assert sorted(len(g) for g in groups)[-1] > 1 and sum(len(g) for g in groups) == 8
    with torch.no_grad():
        for group in groups:
            alone = torch.cat([flow_losses(flux, [one], settings) for one in group])
            # Measured: 4.8e-7 of losses of up to 2.8.
            torch.testing.assert_close(flow_losses(flux, group, settings), alone, rtol=1e-5, atol=0)


def test_a_loss_is_the_flow_of_the_paper(encoded: Data) -> None:
    examples, empty = encoded
    flux, seen = make_flux(), {}
    settings = replace(QUICK, caption_dropout=0, reference_dropout=0)
    (one,) = draw_step([examples[3]], empty, settings, torch.Generator().manual_seed(3))

    def listen(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict, output: Tensor) -> None:
        seen.update(img=args[0], ids=args[1], t=args[4], guidance=args[6], v=output)

    flux.register_forward_hook(listen, with_kwargs=True)
    with torch.no_grad():
        loss = flow_losses(flux, [one], settings)
    x = flux.latent_format.process_in(one.target)
    patch = x.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    noise = one.eps.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5)
    noise = noise.flatten(3).flatten(1, 2)
    torch.testing.assert_close(seen["img"][:, :16], (1 - one.t) * patch + one.t * noise)
    assert seen["img"].shape[1] == 16 * 3 and float(seen["t"][0]) == pytest.approx(one.t)
    assert float(seen["guidance"][0]) == 1.0
    # Both references stand at t = 1, the second one beside the first, as `offset` places them.
    ids = seen["ids"][0]
    assert ids[:16, 0].unique().tolist() == [0] and ids[16:, 0].unique().tolist() == [1]
    assert float(ids[32:, 1].max()) == 7 or float(ids[32:, 2].max()) == 7
    expected = (seen["v"] - (noise - patch)).square().mean()
    torch.testing.assert_close(loss[0], expected)


def test_latents_on_disk_are_made_once_and_are_the_same(
    folder: Path, small_pipeline: Pipeline, tmp_path: Path
) -> None:
    calls: list[str] = []
    plain = codecs_of(small_pipeline)

    def text(words: str) -> tuple[Tensor, Tensor]:
        calls.append(words)
        return plain.text(words)

    codecs = replace(plain, text=text)
    examples, sizes = read_examples(folder), small_pipeline.model.resolutions
    in_memory, _ = encode_examples(examples, plain, sizes)
    for expected in (5, 6):
        on_disk, _ = encode_examples(
            examples, codecs, sizes, store=EncodedStore(tmp_path / "cache")
        )
        # Four instructions and the empty one; later only the empty one.
        assert len(calls) == expected
    for one, other in zip(in_memory, on_disk, strict=True):
        (target, references, words), (target2, references2, words2) = one.load(), other.load()
        assert torch.equal(target, target2) and torch.equal(words.txt, words2.txt)
        assert all(torch.equal(a, b) for a, b in zip(references, references2, strict=True))


def test_samples_show_the_lora_at_work(
    encoded: Data, small_pipeline: Pipeline, tmp_path: Path
) -> None:
    told: list[TrainProgress] = []
    train_lora(
        make_flux(), *encoded, replace(QUICK, steps=2), tmp_path / "a", run=tmp_path / "run",
        sample_every=1, samples=encoded[0][2:3], sample_steps=2,
        decode=codecs_of(small_pipeline).decode, callback=told.append,
    )  # fmt: skip
    names = sorted(path.name for path in (tmp_path / "run" / "samples").iterdir())
    assert names == ["step-000001-1.png", "step-000002-1.png"]
    assert told[0].pictures[0].shape == (1, 48, 80, 3)
    assert not torch.equal(told[0].pictures[0], told[1].pictures[0])


def test_bad_settings_are_told_before_anything_starts() -> None:
    for changes, words in (
        ({"rank": 0}, "rank is 0"), ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"caption_dropout": 2}, "caption_dropout is 2"), ({"method": "x"}, "placement method"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            replace(QUICK, **changes)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no linear layer"):
        Adapters(make_flux(), "double_blocks.*.nothing", 4, 1.0)


def test_the_header_tells_rank_and_alpha(tmp_path: Path) -> None:
    from safetensors import safe_open

    adapters = Adapters(make_flux(), "attention", 4, 1.5)
    save_lora(tmp_path / "a.safetensors", adapters, dtype=torch.bfloat16, told={"steps": 3})
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        header = file.metadata()
        tensor = file.get_tensor("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight")
    assert (header["ss_network_dim"], header["ss_network_alpha"]) == ("4", "6")
    assert tensor.dtype == torch.bfloat16 and json.loads(header["kontext_training"])["steps"] == 3
