"""A hook before and after an edit: functions that look at pictures and words and may refuse them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..errors import RefusedError

log = logging.getLogger(__name__)

# A picture [1, h, w, 3] in 0..1, or None for the words alone, and the instruction; why it is refused, or None.
Check = Callable[[Tensor | None, str], str | None]


@dataclass(frozen=True)
class Checks:
    """What looks at an edit; nothing where both are empty, as they are by default.

    Attributes:
        before: asked about the instruction alone and about every picture that is given, before anything runs.
        after: asked about every result.
    """

    before: Sequence[Check] = ()
    after: Sequence[Check] = ()

    def ask_before(self, prompts: Sequence[str], images: Sequence[Tensor]) -> None:
        """Raises RefusedError where a check refuses; says which picture, and why."""
        for check in self.before:
            for prompt in prompts:
                _ask(check, None, prompt, "the instruction")
                for number, image in enumerate(images, 1):
                    _ask(check, image, prompt, f"image {number}")

    def ask_after(self, prompts: Sequence[str], results: Tensor) -> None:
        """Raises RefusedError where a check refuses one of [n, h, w, 3]; says which, and why. None is kept."""
        for check in self.after:
            for number, result in enumerate(results.split(1), 1):
                prompt = prompts[(number - 1) % len(prompts)]
                _ask(
                    check, result, prompt, f"result {number}" if len(results) > 1 else "the result"
                )


def _ask(check: Check, picture: Tensor | None, prompt: str, what: str) -> None:
    reason = check(picture, prompt)
    if reason is not None:
        log.warning("%s was refused: %s", what, reason)
        raise RefusedError(f"{what} was refused by a check: {reason}")
