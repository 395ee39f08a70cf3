"""Recipe, part 3: the text encoder learns what the sentences of the world mean.

    python -m kontext_lab train text --run runs/text

Text only, no pictures: for every sentence the slots of its meaning have to be read off the token
features and the pooled vector (`kontext_lab/training/understanding.py`). A sentence costs a
fiftieth of a picture, so the wordings are learned here, and the transformer (part 4) starts
with an encoder that tells "the star of image 1" from "the star of image 2".
"""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from kontext_core.config import TextEncoderParams
from kontext_core.finetune.run_log import RunLog
from kontext_core.models.text import FIRST_WORD, PAD, TextEncoder
from kontext_core.pipeline import Pipeline, load_pipeline

from ..training.batch import token_ids
from ..training.checkpoint import load_state, save_state
from ..training.ema import EMA
from ..training.understanding import SlotReadout, answers
from ..world.tasks import make_sample
from ..world.wording import SLOT_VALUES, vocabulary

HELD_SEED = 424_242


def build_text(words: list[str], width: int = 128, depth: int = 3) -> TextEncoder:
    """The text encoder with its starting weights."""
    params = TextEncoderParams(
        vocab_size=FIRST_WORD + len(words), width=width, depth=depth, num_heads=4,
        out_dim=width, vec_dim=width, min_length=16, max_length=128,
    )  # fmt: skip
    text = TextEncoder(params, words)
    torch.nn.init.normal_(text.embed.weight, std=0.5)
    return text


def own_text(pipeline: Pipeline, source: Path) -> TextEncoder:
    """The embedded text encoder of a model folder, in float32."""
    text = pipeline.text_encoder
    if not isinstance(text, TextEncoder):
        raise SystemExit(f"{source} has {type(text).__name__}; expected the embedded text encoder")
    return text.float()


Batch = list[tuple[Tensor, Tensor]]
PARTS = 4  # of a batch, by length: short sentences are not padded to the longest


class Sentences(torch.utils.data.Dataset[Batch]):
    """Item n is the batch of step n, in parts: ids [b, l] and right answers [b, slots]."""

    def __init__(self, text: TextEncoder, seed: int, count: int, held_out: bool = False) -> None:
        self.tokenizer, self.min_length = text.tokenizer, text.params.min_length
        self.seed, self.count, self.held_out = seed, count, held_out

    def __getitem__(self, step: int) -> Batch:
        rng = random.Random(f"{self.seed}/{step}")
        weights = (0.2, 0.55, 0.25)
        samples = [
            make_sample(rng, references=rng.choices((0, 1, 2), weights)[0], held_out=self.held_out)
            for _ in range(self.count)
        ]
        noise = None if self.held_out else rng
        samples.sort(key=lambda sample: len(sample.prompt))
        size = -(-self.count // PARTS)
        batch = []
        for start in range(0, self.count, size):
            part = samples[start : start + size]
            texts = [sample.prompt for sample in part]
            ids = token_ids(self.tokenizer, texts, self.min_length, noise, share=0.2)
            batch.append((ids, answers([sample.meaning for sample in part], SLOT_VALUES)))
        return batch


@torch.no_grad()
def accuracy(text: TextEncoder, readout: SlotReadout, batch: Batch) -> dict[str, float]:
    """Share of slots and of whole sentences read right; the five worst slots by name."""
    wrong = torch.zeros(len(SLOT_VALUES))
    whole = {"tokens": 0.0, "pooled": 0.0}
    count = sum(len(ids) for ids, _ in batch)
    for rows, answer in batch:
        txt, vec = text(rows)
        for name, logits in zip(whole, readout(txt, vec, rows != PAD), strict=True):
            missed = logits.argmax(-1) != answer
            whole[name] += float((~missed.any(-1)).sum()) / count
            if name == "tokens":
                wrong += missed.float().sum(0)
    worst = sorted(zip((wrong / count).tolist(), SLOT_VALUES, strict=True), reverse=True)[:5]
    out = {f"whole_{name}": round(value, 4) for name, value in whole.items()}
    return out | {f"wrong/{slot}": round(share, 4) for share, slot in worst}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/text"))
    parser.add_argument("--begin", type=Path, help="a model folder whose encoder goes on learning")
    parser.add_argument(
        "--alone",
        type=int,
        default=300,
        help="first steps that only the readout of an encoder from --begin learns",
    )
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--save-every", type=int, default=250)
    parser.add_argument("--stop-at", type=int, default=None, help="leave after this step")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    checkpoint = args.run / "last.pt"
    state = load_state(checkpoint) if checkpoint.exists() else None
    # A run keeps the words that it began with; others are spelled.
    if state is not None:
        text = build_text(state["words"])
    elif args.begin is not None:
        text = own_text(load_pipeline(args.begin), args.begin)
    else:
        text = build_text(vocabulary())
    words = text.tokenizer.words
    readout = SlotReadout(SLOT_VALUES, text.params.out_dim, text.params.vec_dim)
    parameters = [*text.parameters(), *readout.parameters()]
    adam = torch.optim.AdamW(parameters, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.02)
    ema = EMA({"text": text, "readout": readout}, decay=0.995)
    first = 0
    if state is not None:
        for name, part in (("text", text), ("readout", readout), ("adam", adam), ("ema", ema)):
            part.load_state_dict(state[name])
        first = state["step"]
        print(f"going on at step {first}")
    last = args.stop_at or args.steps
    loader = torch.utils.data.DataLoader(
        Sentences(text, args.seed, args.batch), batch_size=None, sampler=range(first, last),
        num_workers=args.workers, prefetch_factor=6 if args.workers else None,
    )  # fmt: skip
    held = Sentences(text, HELD_SEED, 768, held_out=True)[0]
    log = RunLog(args.run / "log.jsonl", first)
    began = time.time()
    for step, batch in zip(range(first, last), loader, strict=True):
        # An encoder that knows something must not be pulled about by a readout that knows nothing.
        waiting = args.begin is not None and step < args.alone
        text.requires_grad_(not waiting)
        learnt = max(0, step - args.alone) if args.begin is not None else step
        share = min(1.0, (learnt + 1) / 100, 2 * (args.steps - step) / args.steps)
        adam.param_groups[0]["lr"] = args.lr * (1.0 if waiting else share)
        losses = []
        for ids, right in batch:
            txt, vec = text(ids)
            by_token, by_vec = readout.loss(txt, vec, ids != PAD, right)
            ((by_token + 0.5 * by_vec) * (len(ids) / args.batch)).backward()
            losses.append((by_token.item(), by_vec.item()))
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        adam.step()
        adam.zero_grad()
        ema.update()
        done = step + 1
        if done % 100 == 0 or done == last:
            row = {"step": done, "tokens": round(sum(a for a, _ in losses) / len(losses), 4),
                   "pooled": round(sum(b for _, b in losses) / len(losses), 4), "seconds": round(time.time() - began)}  # fmt: skip
            if done % 250 == 0 or done == last or done == 100:
                with ema.applied():
                    row |= accuracy(text, readout, held)
            print(log.write(row), flush=True)
        if done % args.save_every == 0 or done == last:
            save_state(checkpoint, {
                "step": done, "words": words, "text": text.state_dict(),
                "readout": readout.state_dict(), "adam": adam.state_dict(),
                "ema": ema.state_dict(), "text_params": asdict(text.params),
            })  # fmt: skip


if __name__ == "__main__":
    main()
