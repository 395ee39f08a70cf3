"""Examples as latents and text features, computed once, in memory or in a folder of files.

A file's name is made of all that its content depends on: the picture's own bytes and the size it is
brought to, or the words, and what the networks that encode make of a test input. So a folder can serve
several trainings, and files of another autoencoder in it are never taken for this one's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from ..errors import Cancelled, InputError
from ..finite import check_finite
from ..fit import Fit
from ..framing import fit_picture
from ..images import load_image
from ..partial import whole_file
from .codecs import Codecs
from .dataset import Example

Load = Callable[[], Mapping[str, Tensor]]


class Words(NamedTuple):
    """An encoded instruction: txt [1, l, c] and vec [1, v]."""

    txt: Tensor
    vec: Tensor


@dataclass(frozen=True, eq=False)
class Encoded:
    """An example in latents; its tensors are read when a step needs them.

    Attributes:
        name, prompt: of the example.
        key: changes with what its pictures are.
    """

    name: str
    prompt: str
    key: str
    pictures: tuple[Load, ...]
    text: Load

    def load(self) -> tuple[Tensor, tuple[Tensor, ...], Words]:
        """RAW latents [1, c, h, w] of the target and of the references, and the instruction."""
        target, *references = (load()["latent"] for load in self.pictures)
        return target, tuple(references), self.words()

    def words(self) -> Words:
        """The instruction alone."""
        found = self.text()
        return Words(found["txt"], found["vec"])


class EncodedStore:
    """Where encoded pictures and texts are kept.

    Args:
        folder: None keeps them in memory. FLUX.1's take 0.5 MB for a picture of a megapixel and 2 to
            4 MB for a text.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._kept: dict[str, Mapping[str, Tensor]] = {}

    def get(self, key: str, make: Callable[[], Mapping[str, Tensor]]) -> Load:
        """What is under a key, made where it is not there yet."""
        if self.folder is None:
            if key not in self._kept:
                self._kept[key] = make()
            kept = self._kept[key]
            return lambda: kept
        path = self.folder / f"{key}.safetensors"
        if not path.is_file():
            self._write(path, {name: t.contiguous() for name, t in make().items()})
        return lambda: load_file(path)

    def _write(self, path: Path, tensors: dict[str, Tensor]) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as file:
                file.write(save(tensors))
        except OSError as error:
            raise InputError(
                f"can't write {path} ({error}); free some space, or keep latents in memory"
            ) from error


def encode_examples(
    examples: Sequence[Example],
    codecs: Codecs,
    sizes: Sequence[tuple[int, int]],
    *,
    megapixels: float | None = None,
    store: EncodedStore | None = None,
    dtype: torch.dtype = torch.float32,
    progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> tuple[list[Encoded], Words]:
    """All examples, and the empty instruction.

    Pictures are brought onto the grid as references are in inference: resized to the trained size of
    their shape and padded to it, or to another area in their own shape.

    Args:
        sizes: (width, height) that the model was trained at.
        megapixels: None, or the area, see `TrainSettings`.
        store: where to keep them; None is the memory.
        dtype: of the text features that are kept, the one computed in.
        progress: called with (examples done, examples in all).
        should_stop: asked before every example.

    Raises:
        InputError: a picture that can't be read.
        KontextError: a network gave NaN or infinite values.
        Cancelled: `should_stop` said yes; what is encoded stays.
    """
    store = store or EncodedStore()
    fit = Fit() if megapixels is None else Fit("megapixels", megapixels=megapixels)
    empty_txt, empty_vec = codecs.text("")
    test = codecs.encode(torch.linspace(0, 1, 64 * 64 * 3).view(1, 64, 64, 3))
    by_picture, by_text = _digest(test), _digest(empty_txt, empty_vec)

    def picture(path: Path) -> tuple[str, Load]:
        image = load_image(path)
        framing = fit.plan((image.shape[2], image.shape[1]), sizes)

        def make() -> Mapping[str, Tensor]:
            latent = codecs.encode(fit_picture(image, framing)).float()
            check_finite(
                latent, f"the latent of {path}", "try another precision of the autoencoder"
            )
            return {"latent": latent}

        content = hashlib.sha256(path.read_bytes()).hexdigest()
        key = _digest(content, framing.box, framing.size, by_picture)
        return key, store.get(f"latent-{key}", make)

    def text(words: str) -> Load:
        def make() -> Mapping[str, Tensor]:
            txt, vec = codecs.text(words)
            check_finite(txt, f"the text {words[:60]!r}", "encode it in float32")
            return {"txt": txt.to(dtype), "vec": vec.to(dtype)}

        return store.get(f"text-{_digest(words, str(dtype), by_text)}", make)

    made = []
    for number, example in enumerate(examples, 1):
        if should_stop is not None and should_stop():
            raise Cancelled(f"stopped on request at example {number} of {len(examples)}")
        found = [picture(path) for path in (example.target, *example.references)]
        key = " ".join(key for key, _ in found)
        pictures = tuple(load for _, load in found)
        made.append(Encoded(example.name, example.prompt, key, pictures, text(example.prompt)))
        if progress is not None:
            progress(number, len(examples))
    return made, Words(empty_txt.to(dtype), empty_vec.to(dtype))


def _digest(*parts: object) -> str:
    """A short key of numbers, texts and tensors."""
    made = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            # Coarse on purpose: a GPU's sums differ in the last bits from one run to the next.
            part = " ".join(f"{float(p.abs().mean()):.1e}" for p in part.float().flatten().chunk(8))
        made.update(part if isinstance(part, bytes) else str(part).encode())
        made.update(b"\0")
    return made.hexdigest()[:24]
