"""A picture classifier from a user's ONNX file as a check, by onnxruntime (MIT), imported when it is needed.

For Falconsai/nsfw_image_detection (Apache-2.0), exported to ONNX: OnnxCheck("nsfw.onnx", refuse={"nsfw": 0.85}),
the limit of the reference repository (black-forest-labs/flux, src/flux/content_filters.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import InputError
from ..images import resize


def onnx_session(path: str | Path) -> Any:
    """An onnxruntime session of a file, on the CPU.

    Raises:
        InputError: no such file, no onnxruntime, or a file that it can't load.
    """
    if not Path(path).is_file():
        raise InputError(f"there is no file {path}; docs/evaluation.md says where to get one")
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError("this needs onnxruntime: pip install onnxruntime") from error
    try:
        return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    # onnxruntime's errors have no common base but Exception.
    except Exception as error:  # noqa: BLE001
        raise InputError(f"onnxruntime can't load {path} ({error}); fetch it again") from error


class OnnxCheck:
    """Refuses pictures of certain classes; a `Check`.

    Args:
        path: the file; takes [1, 3, size, size], gives [1, classes] logits.
        labels: of the classes, in their order.
        refuse: by label, the probability in 0..1 from which a picture is refused.
        size: side in pixels that pictures are scaled to, squashed, as ViT's processor does.
        mean, std: that pixels in 0..1 are brought to.

    Raises:
        InputError: see `onnx_session`; a label that is not among the labels.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        labels: Sequence[str] = ("normal", "nsfw"),
        refuse: Mapping[str, float],
        size: int = 224,
        mean: float = 0.5,
        std: float = 0.5,
    ) -> None:
        strange = [label for label in refuse if label not in labels]
        if strange:
            raise InputError(
                f"there is no class {strange[0]!r}; expected one of {', '.join(labels)}"
            )
        self._session = onnx_session(path)
        self._input = self._session.get_inputs()[0].name
        self._labels, self._refuse = tuple(labels), dict(refuse)
        self._size, self._mean, self._std = size, mean, std

    def probabilities(self, picture: Tensor) -> dict[str, float]:
        """By label, of a picture [1, h, w, 3] in 0..1.

        Raises:
            InputError: the file gives another number of classes.
        """
        small = resize(picture, self._size, self._size)[0].float().cpu().numpy()
        put = ((small - self._mean) / self._std).transpose(2, 0, 1)[None].astype(np.float32)
        logits = np.asarray(
            self._session.run(None, {self._input: put})[0], dtype=np.float64
        ).reshape(-1)
        if len(logits) != len(self._labels):
            raise InputError(
                f"the classifier gives {len(logits)} classes, {len(self._labels)} labels were named; name them all"
            )
        found = np.exp(logits - logits.max())
        return dict(zip(self._labels, (found / found.sum()).tolist(), strict=True))

    def __call__(self, picture: Tensor | None, prompt: str) -> str | None:
        """Why a picture is refused, or None; words alone are not looked at."""
        if picture is None:
            return None
        found = self.probabilities(picture)
        for label, limit in self._refuse.items():
            if found[label] >= limit:
                return f"{label} {found[label]:.2f}, the limit is {limit:g}"
        return None
