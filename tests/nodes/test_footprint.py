"""The watcher sees what a pack could change in its host; the comparison itself is in tests/api."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from footprint import changes, take

NAME = "a_host_of_test_footprint"
SOURCE = """
import os
LIMITS = {"steps": 100}
NAMES = ["euler"]
def sample(x, steps=3):
    return x
class Patcher:
    registry = []
    def load(self):
        return 1
    @classmethod
    def make(cls):
        return cls()
    @property
    def size(self):
        return 1
    class Inner:
        def deep(self):
            return 1
"""


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    module = ModuleType(NAME)
    code = compile(SOURCE, NAME, "exec")
    vars(module)["__name__"] = NAME
    # The test's own text above, not input.
    exec(code, vars(module))  # noqa: S102
    monkeypatch.setitem(sys.modules, NAME, module)
    yield module


def _defaults(host: Any) -> None:
    host.sample.__defaults__ = (4,)


def _code(host: Any) -> None:
    host.Patcher.load.__code__ = (lambda self: 2).__code__


PATCHES: dict[str, tuple[Callable[[Any], object], str, str, bool]] = {
    "function": (lambda h: setattr(h, "sample", print), "sample", "replaced", True),
    "defaults": (_defaults, "sample", "content", True),
    "code": (_code, "Patcher.load", "content", True),
    "method": (lambda h: setattr(h.Patcher, "load", print), "Patcher.load", "replaced", True),
    "class method": (
        lambda h: setattr(h.Patcher, "make", classmethod(print)),
        "Patcher.make",
        "replaced",
        True,
    ),
    "property": (
        lambda h: setattr(h.Patcher, "size", property(len)),
        "Patcher.size",
        "replaced",
        True,
    ),
    "inner class": (
        lambda h: setattr(h.Patcher.Inner, "deep", print),
        "Patcher.Inner.deep",
        "replaced",
        True,
    ),
    "new method": (lambda h: setattr(h.Patcher, "more", print), "Patcher.more", "added", True),
    "removed": (lambda h: delattr(h.Patcher, "load"), "Patcher.load", "removed", True),
    "new name": (lambda h: setattr(h, "MORE", 1), "MORE", "added", False),
    "dict": (lambda h: h.LIMITS.update(steps=7), "LIMITS", "content", False),
    "list": (lambda h: h.NAMES.append("heun"), "NAMES", "content", False),
    "class's list": (lambda h: h.Patcher.registry.append(1), "Patcher.registry", "content", False),
}


def test_an_untouched_host_has_no_changes(host: Any) -> None:
    picture = take(roots=(NAME,))
    assert len(picture.values) > 8
    # An import inside the host is none either.
    host.json = sys.modules["json"]
    assert changes(picture) == []


@pytest.mark.parametrize("kind", PATCHES)
def test_each_kind_of_patch_is_seen(host: Any, kind: str) -> None:
    patch, name, what, code = PATCHES[kind]
    picture = take(roots=(NAME,))
    patch(host)
    [change] = changes(picture)
    assert (change.name, change.what, change.code) == (f"{NAME}.{name}", what, code)


def test_objects_are_watched_too(host: Any) -> None:
    thing = host.Patcher()
    picture = take({"server": thing}, roots=())
    thing.load = print
    assert [change.name for change in changes(picture)] == ["server.load"]
