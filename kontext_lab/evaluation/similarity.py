"""Similarity by networks that know pictures: CLIP (arXiv 2103.00020) and DINO (arXiv 2104.14294, 2304.07193).

By transformers (Apache-2.0), from a model folder that the user gives: openai/clip-vit-base-patch32 (MIT) or
facebook/dinov2-base (Apache-2.0), say. Nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kontext_core.errors import InputError
from kontext_core.images import to_pil

from .answer import Answer, Scorer


def _loaded(folder: str, *names: str) -> list[Any]:
    place = Path(folder)
    if not place.is_dir():
        raise InputError(
            f"there is no model folder {place}; see docs/evaluation.md for where to get one"
        )
    try:
        import transformers
    except ImportError as error:
        raise InputError("this scorer needs transformers: pip install transformers") from error
    try:
        return [
            getattr(transformers, name).from_pretrained(place, local_files_only=True)
            for name in names
        ]
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"{place} is no model folder for this scorer ({error})") from error


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b).mean())


def clip_scorer(folder: str) -> Scorer:
    """Cosines `text` (instruction and answer) and `image` (image 1 and answer), -1..1."""
    model, images, tokenizer = _loaded(folder, "CLIPModel", "AutoImageProcessor", "AutoTokenizer")
    model.eval()
    longest = model.config.text_config.max_position_embeddings

    @torch.no_grad()
    def score(answer: Answer) -> dict[str, float]:
        shown = images([to_pil(answer.images[0]), to_pil(answer.result)], return_tensors="pt")
        seen = model.visual_projection(model.vision_model(**shown).pooler_output)
        words = tokenizer(
            [answer.case.instruction], return_tensors="pt", truncation=True, max_length=longest
        )
        read = model.text_projection(model.text_model(**words).pooler_output)
        return {"text": _cosine(read, seen[1:]), "image": _cosine(seen[:1], seen[1:])}

    return score


def dino_scorer(folder: str) -> Scorer:
    """Cosine `image` of image 1 and the answer, -1..1, of the network's first (class) token."""
    model, images = _loaded(folder, "AutoModel", "AutoImageProcessor")
    model.eval()

    @torch.no_grad()
    def score(answer: Answer) -> dict[str, float]:
        shown = images([to_pil(answer.images[0]), to_pil(answer.result)], return_tensors="pt")
        seen = model(**shown).last_hidden_state[:, 0]
        return {"image": _cosine(seen[:1], seen[1:])}

    return score
