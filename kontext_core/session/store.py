"""Session: a tree of turns in one file. Starts have no parent; every other turn continues one.

A turn is never changed once it is there, but for its note, and never removed.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from ..checks import check_whole
from ..errors import InputError, SessionError, ShapeError
from ..framing import Framing
from ..images import check_image, to_pil
from ..pages import Page
from ..reading import open_picture, read_frames
from ..writing import check_folder, save_image
from .database import make_database, opened

SUFFIX = ".kontext"
THUMBNAIL_SIDE = 112
_COLUMNS = "number, parent, prompt, seed, settings, framing, created, note"


@dataclass(frozen=True)
class Turn:
    """What was asked; `Session` has the pictures.

    Attributes:
        number: its own, from 0.
        parent: the turn that it continues; None for a start.
        prompt: the instruction; empty for a start.
        seed: None for a start.
        settings: of the sampler and of what was kept, as JSON holds them.
        framing: how its pictures stand on the latent.
        created: UTC, ISO 8601.
        note: the user's own words.
    """

    number: int
    parent: int | None
    prompt: str
    seed: int | None
    settings: Mapping[str, Any]
    framing: Framing
    created: str
    note: str = ""


class Session:
    """One file of turns. Holds no open file; several processes may add to it in turns.

    Args:
        path: of a session that is there.

    Raises:
        SessionError: it isn't, or is no session that can be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with opened(self.path) as base:
            base.execute(f"SELECT {_COLUMNS} FROM turn LIMIT 1").fetchone()

    @classmethod
    def create(cls, path: str | Path) -> Session:
        """A new one, without turns. Folders that are missing are made.

        Raises:
            SessionError: something has the name already, or it can't be written.
        """
        make_database(Path(path))
        return cls(path)

    def add(
        self,
        picture: Tensor,
        latent: Tensor,
        framing: Framing,
        *,
        parent: int | None = None,
        prompt: str = "",
        seed: int | None = None,
        settings: Mapping[str, Any] | None = None,
        mask: Tensor | None = None,
        references: Sequence[Tensor] = (),
        note: str = "",
        key: str | None = None,
    ) -> Turn:
        """Write one turn, wholly or not at all.

        Args:
            picture: [1, h, w, 3] in 0..1; kept with 8 bits a channel.
            latent: [1, c, h, w] RAW, kept as it is.
            framing: how the picture stands on the latent.
            parent: the turn that it continues, None for a start.
            settings: what JSON can hold.
            mask: [h, w] in 0..1, where the turn was allowed to change the picture.
            references: further pictures [1, h, w, 3] that it looked at.
            key: if a turn with this key is there, that one is given back and nothing is written.

        Raises:
            InputError, ShapeError: a picture or latent of another form, or no such parent.
            SessionError: the file can't be written.
        """
        check_image(picture, "the turn's picture")
        if len(picture) != 1 or latent.ndim != 4 or len(latent) != 1:
            raise ShapeError(
                f"a turn has one picture and one latent, not {tuple(picture.shape)} and "
                f"{tuple(latent.shape)}; add the pictures of a batch one by one"
            )
        drawn = to_pil(picture)
        values = (
            parent,
            key,
            prompt,
            None if seed is None else str(check_whole(seed, "seed", 0, 2**64 - 1)),
            json.dumps(dict(settings or {}), sort_keys=True),
            json.dumps(asdict(framing)),
            datetime.now(timezone.utc).isoformat(timespec="seconds"),
            note,
            save_safetensors({"latent": latent.detach().cpu().contiguous()}),
            _png(drawn),
            _jpeg(drawn),
            None if mask is None else _png(to_pil(mask[..., None])),
        )
        pictures = [_png(to_pil(one)) for one in references]
        with opened(self.path) as base:
            # Two writers must not take the same number.
            base.execute("BEGIN IMMEDIATE")
            found = self._by_key(base, key)
            if found is not None:
                return found
            if parent is not None:
                self._row(base, "number", parent)
            (number,) = base.execute("SELECT coalesce(max(number) + 1, 0) FROM turn").fetchone()
            base.execute(f"INSERT INTO turn VALUES (?{', ?' * len(values)})", (number, *values))
            base.executemany(
                "INSERT INTO reference VALUES (?, ?, ?)",
                [(number, place, data) for place, data in enumerate(pictures, 1)],
            )
            return self._turn(self._row(base, _COLUMNS, number))

    def turns(self) -> list[Turn]:
        """All of them, by number, which is the order in which they were made."""
        with opened(self.path) as base:
            rows = base.execute(f"SELECT {_COLUMNS} FROM turn ORDER BY number").fetchall()
        return [self._turn(row) for row in rows]

    def turn(self, number: int) -> Turn:
        """One of them.

        Raises:
            InputError: there is none of this number.
        """
        with opened(self.path) as base:
            return self._turn(self._row(base, _COLUMNS, number))

    def find(self, key: str) -> Turn | None:
        """The turn that was added with this key, if any."""
        with opened(self.path) as base:
            return self._by_key(base, key)

    def path_to(self, number: int) -> list[Turn]:
        """From the start to this turn, both included.

        Raises:
            InputError: there is none of this number.
        """
        known = {turn.number: turn for turn in self.turns()}
        found = [known.get(number) or self.turn(number)]
        # A parent is older than its child, so this ends.
        while (parent := found[-1].parent) is not None:
            if parent >= found[-1].number or parent not in known:
                raise self._damaged(f"turn {found[-1].number} continues turn {parent}")
            found.append(known[parent])
        return found[::-1]

    def picture(self, number: int) -> Tensor:
        """[1, h, w, 3] float32 in 0..1: the bytes that were written, by 255."""
        return self._picture(self._value("picture", number))

    def latent(self, number: int) -> Tensor:
        """RAW [1, c, h, w], to the bit as it was added."""
        data = self._value("latent", number)
        try:
            latent = load_safetensors(data)["latent"]
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise self._damaged(
                f"turn {number} has a latent that can't be read: {error}"
            ) from error
        if latent.ndim != 4 or len(latent) != 1 or not bool(torch.isfinite(latent).all()):
            raise self._damaged(
                f"turn {number} has a latent of {tuple(latent.shape)}, or not finite"
            )
        return latent

    def mask(self, number: int) -> Tensor | None:
        """[h, w] float32 in 0..1, None where the turn had none."""
        data = self._value("mask", number)
        return None if data is None else self._picture(data)[0, ..., 0]

    def references(self, number: int) -> list[Tensor]:
        """The further pictures that a turn looked at, [1, h, w, 3] each."""
        with opened(self.path) as base:
            self._row(base, "number", number)
            rows = base.execute(
                "SELECT picture FROM reference WHERE turn = ? ORDER BY place", (number,)
            ).fetchall()
        return [self._picture(data) for (data,) in rows]

    def thumbnail(self, number: int) -> bytes:
        """A JPEG of at most 112 pixels a side."""
        return bytes(self._value("thumbnail", number))

    def set_note(self, number: int, note: str) -> None:
        """Put other words beside a turn.

        Raises:
            InputError: there is none of this number.
        """
        with opened(self.path) as base:
            self._row(base, "number", number)
            base.execute("UPDATE turn SET note = ? WHERE number = ?", (note, number))

    def export(self, folder: str | Path, numbers: Sequence[int] | None = None) -> list[Path]:
        """Write pictures as `turn_0003.png`, with the turn's words and numbers as text chunks.

        Args:
            numbers: of the turns; None is all.

        Raises:
            InputError: no such turn, or a folder that can't be written to.
        """
        chosen = self.turns() if numbers is None else [self.turn(number) for number in numbers]
        folder = Path(folder)
        check_folder(folder)
        made = []
        for turn in chosen:
            text = {
                "turn": str(turn.number),
                "parent": "" if turn.parent is None else str(turn.parent),
                "prompt": turn.prompt,
                "seed": "" if turn.seed is None else str(turn.seed),
                "settings": json.dumps(dict(turn.settings)),
                "note": turn.note,
            }
            path = folder / f"turn_{turn.number:04d}.png"
            made.append(save_image(self.picture(turn.number), path, text))
        return made

    def _row(self, base: Any, columns: str, number: int) -> tuple[Any, ...]:
        row = base.execute(f"SELECT {columns} FROM turn WHERE number = ?", (number,)).fetchone()
        if row is None:
            (count,) = base.execute("SELECT count(*) FROM turn").fetchone()
            there = f"0 to {count - 1} are there" if count else "it has none yet"
            raise InputError(f"{self.path.name} has no turn {number}; {there}")
        return row

    def _by_key(self, base: Any, key: str | None) -> Turn | None:
        row = base.execute(f"SELECT {_COLUMNS} FROM turn WHERE key = ?", (key,)).fetchone()
        return None if row is None else self._turn(row)

    def _value(self, column: str, number: int) -> Any:
        with opened(self.path) as base:
            return self._row(base, column, number)[0]

    def _turn(self, row: tuple[Any, ...]) -> Turn:
        number, parent, prompt, seed, settings, framing, created, note = row
        try:
            sizes = json.loads(framing)
            page = sizes.pop("page", None)
            return Turn(
                number,
                parent,
                prompt,
                None if seed is None else int(seed),
                dict(json.loads(settings)),
                Framing(**_tuples(sizes), page=None if page is None else Page(**_tuples(page))),
                created,
                note,
            )
        except (ValueError, TypeError, AttributeError) as error:
            raise self._damaged(f"turn {number} can't be read: {error}") from error

    def _picture(self, data: Any) -> Tensor:
        name = f"a picture of {self.path}"
        try:
            with open_picture(io.BytesIO(data), name) as opened_picture:
                return read_frames(opened_picture, name).colours
        except (InputError, TypeError) as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, what: str) -> SessionError:
        return SessionError(f"{self.path} is damaged: {what}; take a copy of it from a backup")


def _png(picture: Image.Image) -> bytes:
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()


def _jpeg(picture: Image.Image) -> bytes:
    small = picture.copy()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    data = io.BytesIO()
    small.convert("RGB").save(data, "JPEG", quality=80)
    return data.getvalue()


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has lists only."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
