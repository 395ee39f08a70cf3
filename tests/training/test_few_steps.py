"""Distillation to few steps: each part against its formula, the recipe killed and gone on with."""

import json
import signal
import time
from argparse import Namespace
from collections import Counter

import pytest
import torch
from recipe_runs import finish, rows, same, start
from small_models import make_flux

from kontext_core.errors import InputError
from kontext_core.finetune import save_lora
from kontext_core.finetune.adapters import Adapters
from kontext_core.guidance import Conditioning
from kontext_core.latents import pack, unpack
from kontext_core.lora import load_lora
from kontext_core.lora.apply import loras_for_now
from kontext_core.lora.few_steps import few_steps
from kontext_core.model_files import LORAS
from kontext_core.pipeline import load_pipeline
from kontext_core.sampling import sample
from kontext_core.schedule import make_timesteps
from kontext_core.stitcher import Reference, stitch
from kontext_lab.bench import command
from kontext_lab.bench import few_steps as bench
from kontext_lab.bench.held_out import answers, assess, held_out_cases, summary
from kontext_lab.recipes import ladd
from kontext_lab.training.adversarial import (
    FeatureHead,
    FeatureHeads,
    block_features,
    deceiving,
    hinge,
    renoising_timesteps,
)
from kontext_lab.training.batch import Group
from kontext_lab.training.checkpoint import load_state
from kontext_lab.training.few_steps import (
    SHARES,
    euler,
    guess,
    imitation_loss,
    student_timesteps,
)
from kontext_lab.training.flow import noised
from kontext_lab.training.objective import latent_velocity


def seeded(number=0):
    return torch.Generator().manual_seed(number)


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed))


@pytest.fixture(scope="module")
def flux():
    return make_flux()


@pytest.fixture
def shown():
    """txt, vec, z, t, guidance and references for the small transformer."""
    return (
        drawn(2, 5, 40, seed=1), drawn(2, 24, seed=2), drawn(2, 16, 4, 8, seed=3),
        torch.tensor([0.4, 0.9]), torch.tensor([2.5, 2.5]), [drawn(2, 16, 4, 4, seed=4)],
    )  # fmt: skip


def test_timesteps_are_the_samplers_own_and_come_as_often_as_they_should():
    schedule = make_timesteps(4, 16)[:4].tolist()
    assert set(make_timesteps(1, 16)[:1].tolist()) <= set(make_timesteps(2, 16)[:2].tolist())
    assert set(make_timesteps(2, 16)[:2].tolist()) <= set(schedule)
    found = Counter(student_timesteps(4000, 16, SHARES, seeded()).tolist())
    # Standard error of the first: 0.007.
    assert [found[t] / 4000 for t in schedule] == pytest.approx(SHARES, abs=0.03)
    easy = student_timesteps(100, 16, (0, 0, 1, 1), seeded())
    assert set(easy.tolist()) == set(schedule[2:])
    for wrong in ((), (0.0, 0.0), (1.0, -0.1)):
        with pytest.raises(InputError, match="expected weights"):
            student_timesteps(3, 16, wrong, seeded())


def test_renoising_is_logit_normal():
    logits = torch.logit(renoising_timesteps(4000, seeded(), 1.0, 0.5))
    # Standard errors: 0.008 and 0.006.
    assert float(logits.mean()) == pytest.approx(1.0, abs=0.04)
    assert float(logits.std()) == pytest.approx(0.5, abs=0.03)


def test_the_true_velocity_leads_to_the_picture():
    x, eps, t = drawn(2, 16, 4, 8), drawn(2, 16, 4, 8, seed=1), torch.tensor([0.3, 1.0])
    found = guess(noised(x, eps, t), pack(eps) - pack(x), t)
    assert torch.allclose(found, x, atol=1e-6)  # measured 2e-7


def test_the_teachers_answer_is_the_samplers(flux, shown):
    txt, vec, noise, _, guidance, references = shown
    made = euler(flux, txt, vec, noise, guidance, references, steps=3)
    space = flux.latent_format
    context = stitch(
        noise.shape, [Reference(space.process_out(r)) for r in references], latent_format=space
    )
    with torch.no_grad():
        raw = sample(
            flux, context, Conditioning(txt, vec, 2.5), make_timesteps(3, context.target_tokens),
            noise=noise,
        )  # fmt: skip
    # Measured: 5e-6, of values up to 4.
    assert torch.allclose(made, space.process_in(raw), atol=1e-4)


def test_imitation_compares_with_the_teacher_where_the_student_leads(flux, shown):
    txt, vec, z, t, guidance, references = shown
    group = Group(torch.zeros(2, 5), z, references, *[torch.zeros(2, 8, 4)] * 2, torch.ones(2, 8))
    velocity = drawn(2, 8, 64, seed=9).requires_grad_()
    u = torch.tensor([0.1, 0.6])
    loss = imitation_loss(flux, txt, vec, group, z, velocity, t, u, guidance)
    there = z + (u - t)[:, None, None, None] * unpack(velocity.detach(), 4, 8)
    with torch.no_grad():
        right = latent_velocity(flux, txt, vec, there, u, guidance, references)
    wanted = (velocity - right).square().flatten(1).mean(1)
    assert torch.allclose(loss, wanted, atol=1e-5)  # measured 2e-7
    loss.sum().backward()
    # As if the point and the teacher's velocity were given.
    expected = 2 * (velocity.detach() - right) / right[0].numel()
    assert torch.allclose(velocity.grad, expected, atol=1e-6)


def test_features_are_the_target_tokens_behind_each_block(flux, shown):
    seen = {}
    blocks = [*flux.double_blocks, *flux.single_blocks]
    handles = [
        block.register_forward_hook(lambda m, a, out, i=i: seen.update({i: out}))
        for i, block in enumerate(blocks)
    ]
    found = block_features(flux, range(len(blocks)), *shown)
    for handle in handles:
        handle.remove()
    doubles = len(flux.double_blocks)
    for i, feature in enumerate(found):
        out = seen[i]
        out = out[0] if i < doubles else out if i == len(blocks) - 1 else out[:, 5:]
        assert feature.shape == (2, 8, 96) and torch.equal(feature, out[:, :8])
    some = block_features(flux, [3, 1], *shown)
    assert len(some) == 2 and all(map(torch.equal, some, (found[1], found[3])))
    # They depend on the references, which is what makes the heads judge an edit.
    other = block_features(flux, [1], *shown[:5], [shown[5][0] + 1])
    assert not torch.allclose(other[0], found[1], atol=1e-3)
    with pytest.raises(InputError, match="expected some of 0 to 3"):
        block_features(flux, [4], *shown)


def test_a_head_sees_neighbours_timestep_and_text():
    torch.manual_seed(0)
    head = FeatureHead(6, 3, width=8)
    x, t, vec = drawn(2, 20, 6), torch.tensor([0.2, 0.7]), drawn(2, 3, seed=1)
    plain = head(x, t, vec, 4)
    assert plain.shape == (2, 20)
    changed = x.clone()
    changed[:, 0, 0] += 1
    moved = (head(changed, t, vec, 4) - plain).abs().amax(0).view(4, 5) > 1e-7
    # Two convolutions of three: two tokens to each side of the corner.
    assert bool(moved[:3, :3].all()) and not bool(moved[3:].any() or moved[:, 3:].any())
    assert not torch.allclose(head(x, t + 0.1, vec, 4), plain)
    assert not torch.allclose(head(x, t, vec + 1, 4), plain)


def test_hinge_asks_for_a_margin_and_the_student_for_the_opposite():
    right, made = torch.tensor([[2.0, 0.5], [0.0, 0.0]]), torch.tensor([[-3.0, 0.0], [0.0, 1.0]])
    assert hinge(right, made).tolist() == [0.75, 2.5]
    assert deceiving(made).tolist() == [1.5, -0.5]


def arguments(*more):
    return ladd.options().parse_args(["--precision", "float32", *more])


def test_losses_reach_whom_they_are_for_and_the_model_stays():
    pipeline = load_pipeline("tiny", dtype=torch.float32)
    before = {k: v.clone() for k, v in pipeline.model.state_dict().items()}
    student = ladd.Student(arguments("--method", "both"), pipeline.model, pipeline.text_encoder)
    ids = pipeline.text_encoder.tokenize(["make the star red", "remove the circle"])
    one = torch.zeros(2, 16, 4)
    reference = [drawn(2, 16, 8, 8, seed=2)]
    group = Group(ids, drawn(2, 16, 8, 8), reference, one, one, torch.ones(2, 16))
    words = student.text(ids)
    eps, right = student._answer((0, 0), 0, group, words)
    again = student._answer((0, 0), 0, group, words)
    assert again[1] is right
    found = student._losses(seeded(), group, words, eps, right)
    assert set(found) == {"imitation", "deceiving", "heads"}
    lora, heads = student.adapters.parameters(), list(student.heads.parameters())
    for name, learns, not_ in (("heads", heads, lora), ("deceiving", lora, heads)):
        for parameter in (*lora, *heads):
            parameter.grad = None
        found[name].sum().backward(retain_graph=True)
        assert any(p.grad is not None and bool(p.grad.any()) for p in learns)
        assert all(p.grad is None or not bool(p.grad.any()) for p in not_)
    assert all(torch.equal(v, before[k]) for k, v in pipeline.model.state_dict().items())
    assert not any(m._forward_hooks for m in pipeline.model.modules())


def test_heads_learn_to_tell_answers_of_one_step(flux, shown):
    txt, vec, noise, _, guidance, references = shown
    right = euler(flux, txt, vec, noise, guidance, references, steps=8)
    made = euler(flux, txt, vec, noise, guidance, references, steps=1)
    torch.manual_seed(0)
    heads = FeatureHeads(2, 96, 24)
    adam = torch.optim.Adam(heads.parameters(), lr=3e-3)
    losses = []
    for number in range(40):
        generator = seeded(number)
        t = renoising_timesteps(2, generator, -1.0, 0.5)
        eps = torch.randn(noise.shape, generator=generator)
        with torch.no_grad():
            both = [
                block_features(flux, [1, 2], txt, vec, noised(x, eps, t), t, guidance, references)
                for x in (right, made)
            ]
        loss = hinge(*(heads(one, t, vec, 2) for one in both)).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    # Measured: from 2.0 to 0.1; undecided heads stay at 2.
    assert losses[0] > 1.7 and sum(losses[-5:]) / 5 < 1.0


def test_a_killed_run_goes_on_with_the_same_numbers_and_writes_a_lora(tmp_path):
    small = (
        "--batch", "0.04", "--workers", "0", "--steps", "4", "--cool", "2", "--save-every", "2",
        "--rank", "4", "--method", "both",
    )  # fmt: skip
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    ladd.main(["--run", str(straight), *small])
    process = start("ladd", "--run", killed, *small)
    deadline = time.time() + 120
    while not (killed / "last.pt").exists() and process.poll() is None and time.time() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert load_state(killed / "last.pt")["step"] == 2
    assert "going on at step 2" in finish(start("ladd", "--run", killed, *small))
    assert same(load_state(straight / "last.pt"), load_state(killed / "last.pt"))
    assert rows(straight) == rows(killed) and rows(straight)[-1]["step"] == 4
    with pytest.raises(InputError, match=r"method was 'both', is 'ladd'.*--run"):
        ladd.main(["--run", str(killed), *small, "--method", "ladd"])

    # The file acts as the averaged pairs do.
    state = load_state(straight / "last.pt")
    flux = load_pipeline("tiny", dtype=torch.float32).model
    adapters = Adapters(flux, ladd.TARGETS, 4, 1.0)
    adapters.load(state["average"]["average"])
    given = (
        drawn(1, 16, 64), torch.zeros(1, 16, 3), drawn(1, 4, 128, seed=1), torch.zeros(1, 4, 3),
        torch.tensor([0.7]), drawn(1, 128, seed=2), torch.tensor([2.5]),
    )  # fmt: skip
    with torch.no_grad():
        plain = flux(*given)
        with adapters.on(flux):
            wanted = flux(*given)
        with loras_for_now(flux, [(load_lora(straight / "lora.safetensors"), 1.0)]) as report:
            found = flux(*given)
    assert not report.unmatched and not torch.equal(plain, wanted)
    # Half precision in the file. Measured: 2e-5, where the pairs change 3e-2.
    assert (found - wanted).abs().max() < 0.02 * (wanted - plain).abs().max()


@pytest.fixture(scope="module")
def lora_file(tmp_path_factory):
    """A LoRA that does much harm."""
    pipeline = load_pipeline("tiny")
    adapters = Adapters(pipeline.model, "single_blocks.*", 2, 1.0)
    for pair in adapters.pairs.values():
        torch.nn.init.constant_(pair.up, 0.3)
    return save_lora(tmp_path_factory.mktemp("lora") / "harm.safetensors", adapters)


def test_the_table_has_each_lora_beside_none(lora_file, monkeypatch, tmp_path):
    cases = bench.few_step_cases(1)[:3]
    monkeypatch.setattr(bench, "few_step_cases", lambda count, seed: cases)
    monkeypatch.setattr(bench, "STEPS", (1, 2))
    options = Namespace(
        world="few-steps", lora=[str(lora_file)], cases=1, quick=False, seed=0, model="tiny",
        device="cpu", progress=False, out=str(tmp_path / "found" / "a.json"), json=False,
        markdown=True,
    )  # fmt: skip
    text = command.run(options)
    found = json.loads((tmp_path / "found" / "a.json").read_text())
    assert list(found["rows"]) == ["without", "harm"]
    assert "| category |" in text and "1 step, harm" in text and "28 steps, without" in text
    pipeline = load_pipeline("tiny")
    with loras_for_now(pipeline.model, [(load_lora(lora_file), 1.0)]):
        harmed = summary(assess(cases, answers(pipeline, cases, steps=2)))
    assert found["rows"]["harm"]["2"]["all"] == harmed
    assert (
        found["rows"]["without"]["2"]["all"]["psnr"] > harmed["psnr"] + 1
    )  # measured: 29.5 and 27.6


def test_loras_are_called_by_what_tells_them_apart(tmp_path):
    assert list(bench.named(["a/lora.safetensors", "b/lora.safetensors"])) == ["a", "b"]
    assert list(bench.named(["a/x.safetensors", "a/y.safetensors"])) == ["x", "y"]
    with pytest.raises(InputError, match="same name and folder"):
        bench.named(["a/x.safetensors", "a/x.safetensors"])


@pytest.mark.parametrize("name", LORAS)
def test_embedded_loras_fit_the_embedded_model_and_make_one_step_enough(name):
    found, pipeline = load_lora(name), load_pipeline("tiny")
    known = few_steps(found)
    assert known is not None and known.steps == 2
    cases = [case for task in ("recolour", "add") for case in held_out_cases(task, 4, seed=3)]
    plain = summary(assess(cases, answers(pipeline, cases, steps=1)))["psnr"]
    with loras_for_now(pipeline.model, [(found, 1.0)]) as report:
        helped = summary(assess(cases, answers(pipeline, cases, steps=1)))["psnr"]
    assert report.matched and not report.unmatched
    # Measured: 24.8 and 28.2 dB.
    assert helped > plain + 2
