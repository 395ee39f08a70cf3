"""Every error this package raises on purpose, as one tree.

KontextError
├── InputError           an image, prompt or setting out of its range (also a ValueError)
│   └── ShapeError       a tensor of the wrong shape or dtype
├── ModelNotFoundError   a model name or path that leads nowhere (also a FileNotFoundError)
├── CheckpointError      a weights file that can't be used
├── SessionError         a session file that can't be used
├── RefusedError         a check that somebody set up refused a picture or an instruction
├── UnscoredError        a picture that a scorer or judge could not score
└── Cancelled            the caller's `should_stop` said so

A message says what was wrong, the value, what was expected, and what to do next.
"""

from __future__ import annotations

from typing import Any

# In a ComfyUI the pack's modules bear its installation path in their names, and the editor shows an
# error's module before its sentence: errors of core and nodes name themselves by this instead.
PUBLIC_NAME = "kontext_core"
PACK = __name__.removesuffix(f"{PUBLIC_NAME}.errors")


class KontextError(Exception):
    """Base of all errors raised on purpose by the core, the nodes and the embedded host."""

    __module__ = PUBLIC_NAME

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.__module__.startswith(PACK or PUBLIC_NAME):
            cls.__module__ = PUBLIC_NAME


class InputError(KontextError, ValueError):
    """An argument (image, prompt, number, option) is outside what can be worked with."""


class ShapeError(InputError):
    """A tensor has the wrong rank, size or dtype."""


class ModelNotFoundError(KontextError, FileNotFoundError):
    """A model name or file path does not lead to a model."""

    def __str__(self) -> str:
        # FileNotFoundError would print the errno form; a plain message is wanted.
        return str(self.args[0]) if self.args else ""


class CheckpointError(KontextError):
    """A weights file is damaged, incomplete, or not of the expected architecture."""


class SessionError(KontextError):
    """A session file is damaged, missing, busy, or not a session."""


class RefusedError(KontextError):
    """A check that the caller set up refused a picture or an instruction; the message says which, and why."""


class UnscoredError(KontextError):
    """A scorer or judge gave no usable score; the message says why. Never counted as 0."""


class Cancelled(KontextError):
    """The run was stopped on request; nothing was produced.

    `state` is the `SamplerState` that the sampler had reached, to go on from; None where something
    else was stopped.
    """

    def __init__(self, message: str = "", state: Any = None) -> None:
        super().__init__(message)
        self.state = state
