"""Session files behind nodes: where they lie, which turn a run stands for, what the browser is told.

A host answers a node from its cache until something before it changes. When a node does run again, after
a restart say, its turn is found by its key, so the same graph never adds the same turn twice.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ..kontext_core.errors import InputError
from .host import get_host

if TYPE_CHECKING:
    from torch import Tensor

    from ..kontext_core.framing import Framing
    from ..kontext_core.session import Session, Turn

FOLDER = "kontext_sessions"
MAX_NAME = 200
# Sessions that nodes of this process have used, and how often each was found to be gone since.
_used: set[Path] = set()
_gone: dict[Path, int] = {}


@dataclass(frozen=True)
class TurnPoint:
    """What travels on a wire: a turn of a session."""

    path: str
    number: int

    def session(self) -> Session:
        """The file, opened.

        Raises:
            SessionError: it is gone, or can't be read.
        """
        from ..kontext_core.session import Session

        return Session(self.path)


def session_path(name: str) -> Path:
    """The file of a session, in the host's output folder.

    Raises:
        InputError: a name that leads out of the folder or can't be a file's, or a host without one.
    """
    from ..kontext_core.session import SUFFIX

    plain = name.strip().replace("\\", "/").removesuffix(SUFFIX)
    below = PurePosixPath(plain)
    bad = not below.parts or below.is_absolute() or ".." in below.parts or below.name == ""
    letters = any(ord(letter) < 32 or letter in ':*?"<>|' for letter in plain)
    if bad or letters or len(plain.encode("utf-8", "replace")) > MAX_NAME:
        raise InputError(
            f"name is {name[:80]!r}; expected a plain one, such as portrait or clients/portrait"
        )
    output = get_host().output_folder()
    if output is None:
        raise InputError(
            "there is no output folder here to keep a session in: run inside ComfyUI or make serve"
        )
    folder = output / FOLDER
    path = folder / f"{plain}{SUFFIX}"
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"name is {name[:80]!r}, a link out of {folder}; choose another")
    return path


def use(path: Path) -> None:
    """A node's result now depends on this file."""
    _used.add(path)


def stamp(name: str | None) -> str:
    """Changes when a file that a node has used was taken away, so that hosts run it again; not when
    turns are added."""
    try:
        path = session_path(name or "")
    except InputError:
        # Linked, or bad: told when it runs.
        return ""
    if path in _used and not path.exists():
        _used.discard(path)
        _gone[path] = _gone.get(path, 0) + 1
    return str(_gone.get(path, 0))


def digest(parts: Iterable[Any]) -> str:
    """A key of texts, numbers, tensors and what JSON can hold."""
    import torch

    made = hashlib.sha256()
    for part in parts:
        if isinstance(part, torch.Tensor):
            held = part.detach().float().cpu().contiguous()
            made.update(repr(tuple(held.shape)).encode())
            made.update(held.numpy().tobytes())
        else:
            made.update(json.dumps(part, sort_keys=True, default=str).encode())
        made.update(b"\0")
    return made.hexdigest()


def origin(prompt: Any, node_id: Any, leave_out: Iterable[str]) -> str | None:
    """What a node's inputs are made from, as one text: classes and constants of all nodes before it,
    whatever their ids are.

    Args:
        prompt: the running prompt, as hosts give it to a node that asks; None without one.
        leave_out: inputs of the node itself that don't count.

    Returns:
        None where the prompt does not have the node: then nothing is known.
    """
    if not isinstance(prompt, Mapping) or str(node_id) not in prompt:
        return None
    known: dict[str, str] = {}

    def of(name: str, without: frozenset[str] = frozenset()) -> str:
        if name not in known:
            node = prompt.get(name) or {}
            inputs = {
                key: [of(str(value[0])), value[1]] if _is_link(value) else value
                for key, value in sorted((node.get("inputs") or {}).items())
                if key not in without
            }
            known[name] = digest([node.get("class_type"), inputs])
        return known[name]

    return of(str(node_id), frozenset(leave_out))


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def told(session: Session, number: int, *, whole: bool = True) -> dict[str, list[Any]]:
    """What a node of a session reports, for the timeline.

    Args:
        number: of the turn that the node stands for.
        whole: all turns, or only those on the way to that one.
    """
    turns = session.turns() if whole else session.path_to(number)
    # Which file it is: one made anew under the same name is another.
    file = f"{session.turn(0).created} {session.path.stat().st_ino}"
    return {"kontext_session": _drawn(session, turns, number), "kontext_session_of": [file]}


def _drawn(session: Session, turns: Sequence[Turn], number: int) -> list[dict[str, Any]]:
    return [
        {
            "number": turn.number,
            "parent": turn.parent,
            "prompt": turn.prompt,
            # As text: a browser's numbers end at 2^53.
            "seed": None if turn.seed is None else str(turn.seed),
            "note": turn.note,
            "chosen": turn.number == number,
            "picture": "data:image/jpeg;base64,"
            + base64.b64encode(session.thumbnail(turn.number)).decode(),
        }
        for turn in turns
    ]


def start_key(picture: Tensor, framing: Framing) -> str:
    """The key of a starting picture with 8 bits, for a model of these trained sizes."""
    return digest(["start", (picture * 255).round(), framing.trained])
