"""The loop: steps of AdamW on a LoRA's matrices, with a log, sample pictures and a state to go on from.

A step's examples, noise, timesteps and dropout depend on seed and step alone, so a run that is stopped
or killed goes on at its last state with the numbers it would have had (same machine, same threads).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checks import check_choice, check_whole
from ..errors import Cancelled, InputError, KontextError
from ..guidance import Conditioning
from ..models.flux import Flux
from ..sampling import make_noise, sample
from ..schedule import make_timesteps
from ..stitcher import Reference, stitch
from ..writing import save_image
from .adapters import Adapters
from .encoded import Encoded, Words
from .objective import draw, flow_losses, forgetful, grouped
from .run_log import RunLog, read_log
from .saving import NAMINGS, save_lora
from .settings import TrainSettings
from .state import NAME, load_state, save_state

LONGEST_GRADIENT = 1.0
BETAS = (0.9, 0.99)


@dataclass(frozen=True, eq=False)
class TrainProgress:
    """What is told after every step.

    Attributes:
        step, steps: done, and of the whole run.
        loss, rate: of this step.
        seconds: since the run was begun or gone on with.
        pictures: what the LoRA paints now, [1, h, w, 3] each, after the steps that make samples.
    """

    step: int
    steps: int
    loss: float
    rate: float
    seconds: float
    pictures: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Trained:
    """How a training ended.

    Attributes:
        path: the LoRA.
        step, steps: done, and asked for; fewer where it was stopped.
        first: steps that were done before, 0 in a new run.
        losses: (step, loss) of the whole run.
    """

    path: Path
    step: int
    steps: int
    first: int
    losses: tuple[tuple[int, float], ...]

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.steps


def train_lora(
    network: Flux,
    examples: Sequence[Encoded],
    empty: Words,
    settings: TrainSettings,
    out: str | Path,
    *,
    run: str | Path,
    naming: str = NAMINGS[0],
    dtype: torch.dtype | None = None,
    resume: bool = True,
    save_every: int = 200,
    sample_every: int = 0,
    samples: Sequence[Encoded] = (),
    sample_steps: int = 20,
    sample_guidance: float | None = 2.5,
    decode: Callable[[Tensor], Tensor] | None = None,
    callback: Callable[[TrainProgress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Trained:
    """Train a LoRA, or go on with its training.

    Args:
        network: the transformer, on the device to train on; any weights that the pack loads. It is
            not changed.
        examples, empty: from `encode_examples`.
        settings: see `TrainSettings`.
        out: the LoRA's file, written with every state and at the end.
        run: folder of the run: `state.safetensors`, `log.jsonl`, `samples/`.
        naming: one of `NAMINGS`.
        dtype: of the file's tensors; None is the one computed in.
        resume: go on with the run in the folder, if there is one; False begins anew.
        save_every: write state and LoRA after so many steps; 0 at the end only.
        sample_every: paint samples after so many steps; 0 never.
        samples: what to paint: instruction and references of these, at their targets' sizes.
        sample_steps, sample_guidance: of the sampler.
        decode: a RAW latent to a picture; needed for samples.
        callback: called after every step.
        should_stop: asked before every step; yes writes the state and leaves.

    Raises:
        InputError: no examples, or a run of other settings in the folder.
        CheckpointError: a damaged state.
        KontextError: the loss became NaN or infinite; the last state stays.
    """
    run, out = Path(run), Path(out)
    check_choice(naming, "naming", NAMINGS)
    check_whole(save_every, "save_every", 0, 10**9)
    check_whole(sample_every, "sample_every", 0, 10**9)
    if not examples:
        raise InputError("there are no examples to train on; give at least one")
    if sample_every and (decode is None or not samples):
        raise InputError(
            "sample_every is set, but there is nothing to paint, or no way to decode it"
        )
    with torch.inference_mode(False), torch.enable_grad(), _in_training(network):
        adapters = Adapters(
            network, settings.targets, settings.rank, settings.scale, settings.seed
        ).to(network.device)
        optimizer = torch.optim.AdamW(
            adapters.parameters(), lr=settings.learning_rate, betas=BETAS,
            weight_decay=settings.weight_decay,
        )  # fmt: skip
        about = {
            "settings": settings.must_match(),
            "examples": _identity(examples),
            "model": _identity_of(network),
        }
        state = run / NAME
        first = load_state(state, adapters, optimizer, about) if resume and state.exists() else 0
        log = RunLog(run / "log.jsonl", first)
        training = _Training(network, examples, empty, settings, adapters, optimizer)
        save_as = network.dtype if dtype is None else dtype
        told = {**asdict(settings), "examples": len(examples)}

        def keep(step: int) -> None:
            save_state(state, adapters, optimizer, step, about)
            save_lora(out, adapters, naming=naming, dtype=save_as, told={**told, "step": step})

        def paint(step: int) -> tuple[Tensor, ...]:
            made = [
                _painted(network, one, settings, sample_steps, sample_guidance, decode, should_stop)  # type: ignore[arg-type]
                for one in samples
            ]
            for number, picture in enumerate(made, 1):
                save_image(picture, run / "samples" / f"step-{step:06d}-{number}.png")
            return tuple(made)

        start, kept = time.monotonic(), first if first and out.exists() else -1
        training.done = first
        try:
            with adapters.on(network):
                while training.done < settings.steps:
                    if should_stop is not None and should_stop():
                        break
                    loss, rate = training.step(training.done)
                    step = training.done
                    seconds = time.monotonic() - start
                    log.write({"step": step, "loss": round(loss, 6), "rate": rate})
                    if save_every and step % save_every == 0:
                        keep(step)
                        kept = step
                    pictures: tuple[Tensor, ...] = ()
                    if sample_every and step % sample_every == 0:
                        # Stopped in the middle of one: the next round leaves.
                        with suppress(Cancelled):
                            pictures = paint(step)
                    if callback is not None:
                        callback(TrainProgress(step, settings.steps, loss, rate, seconds, pictures))
        finally:
            # Also where the callback ended it: a host's interrupt, Ctrl-C.
            if kept != training.done and training.sound:
                keep(training.done)
            log.close()
    losses = tuple((row["step"], row["loss"]) for row in read_log(run / "log.jsonl"))
    return Trained(out, training.done, settings.steps, first, losses)


class _Training:
    """Everything a step needs."""

    def __init__(
        self,
        network: Flux,
        examples: Sequence[Encoded],
        empty: Words,
        settings: TrainSettings,
        adapters: Adapters,
        optimizer: torch.optim.AdamW,
    ) -> None:
        self.network, self.examples, self.empty = network, examples, empty
        self.settings, self.adapters, self.optimizer = settings, adapters, optimizer
        self.parameters = adapters.parameters()
        self.done = 0
        # False while weights are of no step, which must not be written.
        self.sound = True
        self._epoch, self._order = -1, [0]

    def step(self, number: int) -> tuple[float, float]:
        """Step `number` from 0; gives its loss and learning rate."""
        settings = self.settings
        # Neither noise nor order repeats between seeds that lie beside each other.
        generator = torch.Generator().manual_seed((settings.seed * 1_000_003 + number) % 2**63)
        chosen = [self._example(number * settings.batch + i) for i in range(settings.batch)]
        drawn = draw(chosen, self.empty, settings, generator)
        call = forgetful if settings.checkpointing else None
        total = 0.0
        for group in grouped(drawn):
            loss = flow_losses(self.network, group, settings, call).sum() / len(drawn)
            loss.backward()
            total += float(loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, LONGEST_GRADIENT)
        if not bool(torch.isfinite(norm)):
            # Their like may have crept in before; what was written then was still sound.
            self.sound = False
            raise KontextError(
                f"the gradients became NaN or infinite at step {number + 1} (loss {total:g}); lower "
                "the learning rate, or compute in bfloat16 or float32. The last state that was "
                "written is sound"
            )
        rate = settings.rate(number)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.sound = False
        self.optimizer.step()
        self.done = number + 1
        self.sound = True
        self.optimizer.zero_grad(set_to_none=True)
        return total, rate

    def _example(self, place: int) -> Encoded:
        """Each once an epoch, in an order of the epoch's own."""
        epoch, index = divmod(place, len(self.examples))
        if epoch != self._epoch:
            seed = (self.settings.seed * 7_368_787 + epoch) % 2**63
            generator = torch.Generator().manual_seed(seed)
            self._order = torch.randperm(len(self.examples), generator=generator).tolist()
            self._epoch = epoch
        return self.examples[self._order[index]]


@contextmanager
def _in_training(network: Flux) -> Iterator[None]:
    """No weight of the network wants gradients inside."""
    wanted = [p for p in network.parameters() if p.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


@torch.no_grad()
def _painted(
    network: Flux,
    one: Encoded,
    settings: TrainSettings,
    steps: int,
    guidance: float | None,
    decode: Callable[[Tensor], Tensor],
    should_stop: Callable[[], bool] | None,
) -> Tensor:
    target, references, words = one.load()
    space, device = network.latent_format, network.device
    context = stitch(
        tuple(target.shape), [Reference(r.to(device)) for r in references],
        method=settings.method, latent_format=space,
    )  # fmt: skip
    return decode(
        sample(
            network, context, Conditioning(words.txt.float(), words.vec.float(), guidance),
            make_timesteps(steps, context.target_tokens),
            noise=make_noise(0, tuple(target.shape)),
            should_stop=should_stop,
        )
    )  # fmt: skip


def _identity(examples: Sequence[Encoded]) -> str:
    """A short key of what is learned from."""
    made = hashlib.sha256()
    for one in examples:
        made.update(f"{one.name}\0{one.prompt}\0{one.key}\0".encode())
    return made.hexdigest()[:16]


def _identity_of(network: Flux) -> dict[str, Any]:
    p, weight = network.params, network.img_in.weight
    mean = f"{float(weight.detach().float().abs().mean()):.6e}"
    return {
        "weights": mean,
        "hidden_size": p.hidden_size,
        "depth": p.depth,
        "singles": p.depth_single_blocks,
    }
