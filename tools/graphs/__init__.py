"""The graphs of the templates and of the help pages' pictures, as short as they can be said."""

from __future__ import annotations

from .embedded import WITH_EMBEDDED
from .files import FILES
from .pages import PAGES
from .parts import Column, Graph, Node
from .published import WITH_FILES

__all__ = ["FILES", "PAGES", "TEMPLATES", "Column", "Graph", "Node"]

TEMPLATES: dict[str, Graph] = {**WITH_EMBEDDED, **WITH_FILES}
