"""Seeded damage to weights and LoRA files, taken through loading, setting and one forward.

Whatever a file holds, a `KontextError` is the only way to fail, and takes no longer than success.
A mutant is told by its seed: `python -m tests.attack files --count 1 --seed S`.
"""

from __future__ import annotations

import argparse
import faulthandler
import functools
import json
import logging
import random
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from files import published_autoencoder, published_flux
from lora_files import lora_files
from small_encoders import make_clip, make_pair, make_t5, openai_clip
from small_models import draw, make_flux
from torch import Tensor, nn

from kontext_core import load_autoencoder, load_model
from kontext_core.errors import KontextError
from kontext_core.lora import load_lora, set_loras, set_text_loras
from kontext_core.text.load import load_clip_l, load_t5

# Seconds of the processor's time for one mutant of a network that takes milliseconds.
SLOW = 1.0
State = dict[str, Tensor]
KINDS = {
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64",
    torch.int32: "I32", torch.int64: "I64", torch.uint8: "U8", torch.int8: "I8", torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.complex64: "C64",
}  # fmt: skip
PARTS = (
    "weight", "bias", "scale", "alpha", "dora_scale", "rescale", "oft_blocks", "lora_mid.weight",
    "lora_up.weight", "lora_down.weight", "hada_t1", "lokr_w1", "lokr_w2_a", "lokr_t2", "diff",
    "diff_b", "set_weight", "a1.weight", "b2.weight", "weight_scale", "scale_weight", "comfy_quant",
)  # fmt: skip
HEADERS = (
    "lora_adapter_metadata", "modelspec.architecture", "ss_base_model_version",
    "_quantization_metadata", "format",
)  # fmt: skip
VALUES = (
    "", "{}", "[]", "null", "flux1", "{", '{"layers": {}}', '{"lora_alpha": 1e400, "r": 4}',
    '{"lora_alpha": 1e30}', '{"r": 0}', '{"layers": {"img_in": {"format": "nvfp4"}}}',
    '{"alpha_pattern": {"": 1}}', '{"auto_mapping": 3}', '{"lora_alpha": 16, "use_rslora": true}',
)  # fmt: skip
SEGMENTS = ("", "0", "-1", "99999999", "1e3", "\u0661", "\u00b2", "blocks", "x" * 300, "..", "\n")


@dataclass
class Outcome:
    """What became of the mutants."""

    refused: int = 0
    used: int = 0
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)


@functools.cache
def _sources() -> dict[str, State]:
    """Sound files: networks, and LoRAs of every form."""
    flux = published_flux(1, hidden_size=128, num_heads=1, depth=1, depth_single_blocks=1)
    networks: dict[str, nn.Module] = {
        "transformer": flux,
        "autoencoder": published_autoencoder(1, num_res_blocks=1, ch_mult=(1, 1)),
        "t5": make_t5(1, num_layers=2, vocab_size=50),
        "clip": make_clip(1, num_layers=2, vocab_size=50),
    }
    sources = {name: dict(network.state_dict()) for name, network in networks.items()}
    sources["clip, OpenAI's names"] = openai_clip(sources["clip"])
    for name, made in lora_files(_flux()).items():
        sources[f"lora, {name}"] = made.tensors
    sources["lora of text, kohya"] = _text_lora("lora_te3_{}", "lora_te1_{}", "_")
    sources["lora of text, OneTrainer"] = _text_lora("t5.{}", "clip_l.{}", ".")
    return sources


def _text_lora(t5: str, clip: str, dot: str) -> State:
    """A LoRA for a few layers of `_pair`."""
    state: State = {}
    for pattern, network in ((t5, _pair().t5), (clip, _pair().clip_l)):
        linears = [(n, m) for n, m in network.named_modules() if isinstance(m, nn.Linear)]
        for number, (name, layer) in enumerate(linears[::5]):
            stem = pattern.format(name.replace(".", dot))
            state[f"{stem}.lora_down.weight"] = draw(number, 2, layer.in_features)
            state[f"{stem}.lora_up.weight"] = draw(number, layer.out_features, 2)
            state[f"{stem}.alpha"] = torch.tensor(1.0)
    return state


@functools.cache
def _pair() -> Any:
    return make_pair(1)


@functools.cache
def _flux() -> Any:
    return make_flux(1)


def _forward(flux: Any) -> None:
    params = flux.params
    flux(
        draw(1, 1, 4, params.in_channels), torch.zeros(1, 4, 3),
        draw(2, 1, 2, params.context_in_dim), torch.zeros(1, 2, 3), torch.tensor([0.5]),
        draw(3, 1, params.vec_in_dim), torch.tensor([3.0]),
    )  # fmt: skip


def _lora(path: Path) -> None:
    flux = _flux()
    try:
        set_loras(flux, [(load_lora(path), 1.0)])
        _forward(flux)
    finally:
        set_loras(flux, [])


def _lora_of_text(path: Path) -> None:
    try:
        lora = load_lora(path)
        set_text_loras(_pair(), [(lora, 1.0)])
        _pair()(torch.arange(4)[None], torch.arange(4)[None])
    finally:
        set_text_loras(_pair(), [])


USES: dict[str, Callable[[Path], object]] = {
    "transformer": lambda path: _forward(load_model(path)),
    "autoencoder": lambda path: load_autoencoder(path).decode(draw(1, 1, 16, 2, 2)),
    "t5": lambda path: load_t5(path)(torch.arange(4)[None]),
    "clip": lambda path: load_clip_l(path)(torch.arange(4)[None]),
    "lora": _lora,
    "lora of text": _lora_of_text,
}


def attack(seed: int, count: int, folder: Path) -> Outcome:
    """Mutants seed to seed + count - 1, each written to `folder` and used."""
    outcome, path = Outcome(), folder / "mutant.safetensors"
    for number in range(seed, seed + count):
        rng = random.Random(number)
        # Half of them LoRAs, whose forms are many.
        sources = _sources()
        lora = rng.random() < 0.5
        name = rng.choice([n for n in sources if n.startswith("lora") == lora])
        path.unlink(missing_ok=True)
        path.write_bytes(_mutant(sources[name], rng))
        began = time.process_time()
        try:
            with torch.no_grad():
                USES[name.partition(",")[0]](path)
        except KontextError as error:
            outcome.refused += 1
            outcome.errors[type(error).__name__] += 1
            if str(path) not in str(error):
                outcome.failures.append(f"seed {number} ({name}): names no file: {error}")
        except Exception:  # noqa: BLE001 - whatever else comes up is what is looked for
            last = traceback.format_exc(limit=-3)
            outcome.failures.append(f"seed {number} ({name}): {last}")
        else:
            outcome.used += 1
        taken = time.process_time() - began
        outcome.slowest = max(outcome.slowest, taken)
        if taken > SLOW:
            outcome.failures.append(f"seed {number} ({name}): {taken:.1f} s")
    return outcome


def _mutant(source: State, rng: random.Random) -> bytes:
    state = dict(source)
    if len(state) > 40 and any(".lora" in name or "_lora" in name for name in state):
        # A few layers of a LoRA show the same.
        stems = rng.sample(sorted({name.rsplit(".", 2)[0] for name in state}), 4)
        state = {n: t for n, t in state.items() if n.rsplit(".", 2)[0] in stems}
    metadata: dict[str, str] = {}
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if state:
            rng.choice(CHANGES)(state, metadata, rng)
    raw = bytearray(_bytes(state, metadata))
    if rng.random() < 0.15:
        end = 8 + struct.unpack("<Q", raw[:8])[0]
        for _ in range(rng.choice((1, 2, 8))):
            raw[rng.randrange(end)] = rng.randrange(256)
    if rng.random() < 0.05:
        del raw[rng.randrange(len(raw)) :]
    return bytes(raw)


def _bytes(state: State, metadata: dict[str, str]) -> bytes:
    """As safetensors, whose own library would refuse some of this."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    parts, at = [], 0
    for name, tensor in state.items():
        part = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        span = [at, at + len(part)]
        header[name] = {
            "dtype": KINDS[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": span,
        }
        parts.append(part)
        at += len(part)
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + b"".join(parts)


def _any(state: State, rng: random.Random) -> str:
    return rng.choice(list(state))


def _drop(state: State, _: dict[str, str], rng: random.Random) -> None:
    del state[_any(state, rng)]


def _shape(state: State, _: dict[str, str], rng: random.Random) -> None:
    name = _any(state, rng)
    t = state[name]
    choices: list[Callable[[], Tensor]] = [
        lambda: t.reshape(-1),
        lambda: t.reshape(1, -1),
        lambda: t.reshape(-1, 1),
        lambda: t[None],
        lambda: t[..., None, None],
        lambda: t.reshape(-1)[:1].reshape(()),
        lambda: t.reshape(-1)[:0],
        lambda: t.transpose(0, -1) if t.ndim else t,
        lambda: t[:-1] if t.ndim else t,
        lambda: torch.cat([t, t]) if t.ndim else t,
        lambda: t[..., :-1] if t.ndim else t,
        lambda: t.repeat(*[1] * (t.ndim - 1), 2) if t.ndim else t,
    ]
    state[name] = rng.choice(choices)().clone()


def _kind(state: State, _: dict[str, str], rng: random.Random) -> None:
    name = _any(state, rng)
    state[name] = state[name].float().to(rng.choice(list(KINDS)))


def _numbers(state: State, _: dict[str, str], rng: random.Random) -> None:
    name = _any(state, rng)
    if not state[name].is_floating_point():
        return
    value = rng.choice((float("nan"), float("inf"), -float("inf"), 0.0, 1e38, 1e-45, 1e6, -1.0))
    changed = state[name].float().clone()
    flat = changed.reshape(-1)
    if rng.random() < 0.5:
        flat[:] = value
    elif flat.numel():
        flat[rng.randrange(flat.numel())] = value
    state[name] = flat.reshape(state[name].shape)


def _rename(state: State, _: dict[str, str], rng: random.Random) -> None:
    name = _any(state, rng)
    words = name.split(".")
    words[rng.randrange(len(words))] = rng.choice(SEGMENTS)
    state[".".join(words)] = state.pop(name)


def _other_part(state: State, _: dict[str, str], rng: random.Random) -> None:
    """A tensor of one layer under another role, instead of its own or besides."""
    name, other = _any(state, rng), _any(state, rng)
    new = f"{name.rpartition('.')[0]}.{rng.choice(PARTS)}"
    if rng.random() < 0.5:
        new = f"{name.rsplit('.', 2)[0]}.{rng.choice(PARTS)}"
    state[new] = state[other]


def _swap(state: State, _: dict[str, str], rng: random.Random) -> None:
    one, two = _any(state, rng), _any(state, rng)
    state[one], state[two] = state[two], state[one]


def _alpha(state: State, _: dict[str, str], rng: random.Random) -> None:
    name = _any(state, rng).rsplit(".", 2)[0] + ".alpha"
    value = rng.choice((0.0, -1.0, 1e9, 1e20, 1e300, float("inf"), 1e-300))
    state[name] = torch.tensor(value, dtype=rng.choice((torch.float32, torch.float64)))


def _header(_: State, metadata: dict[str, str], rng: random.Random) -> None:
    metadata[rng.choice(HEADERS)] = rng.choice(VALUES)


CHANGES = (
    _drop, _shape, _shape, _kind, _numbers, _numbers, _rename, _other_part, _other_part, _swap,
    _alpha, _header,
)  # fmt: skip


def main(arguments: list[str]) -> int:
    """The attack at length; 1 if anything but a `KontextError` came up."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack files")
    parser.add_argument("--count", type=int, default=100_000, help="mutants")
    parser.add_argument("--seed", type=int, default=0, help="of the first one")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    faulthandler.enable()
    logging.disable(logging.WARNING)
    total, began = Outcome(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        done = 0
        while done < options.count:
            step = min(50, options.count - done)
            part = attack(options.seed + done, step, Path(folder))
            done += step
            total.refused += part.refused
            total.used += part.used
            total.slowest = max(total.slowest, part.slowest)
            total.failures += part.failures
            for line in part.failures:
                print(line, flush=True)
            print(
                f"{done} files in {time.monotonic() - began:.0f} s: {total.refused} refused, "
                f"{total.used} used, {len(total.failures)} failures, slowest {total.slowest:.2f} s",
                flush=True,
            )
        left = [path.name for path in Path(folder).iterdir() if path.name != "mutant.safetensors"]
    if left:
        print(f"left behind: {left}", file=sys.stderr)
    return int(bool(total.failures or left))
