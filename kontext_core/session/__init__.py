"""Sessions: pictures edited turn by turn, kept in one file from which any turn can go on.

session = Session.create("star.kontext")
first = add_start(session, pipeline, "star.png")
blue = add_turn(session, pipeline, "make the star blue", parent=first.number, seed=3)
"""

from __future__ import annotations

from .database import FORMAT
from .store import SUFFIX, Session, Turn
from .turns import add_start, add_turn, replay

__all__ = ["FORMAT", "SUFFIX", "Session", "Turn", "add_start", "add_turn", "replay"]
