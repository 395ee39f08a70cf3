"""Attention in parts when memory is full, on a stand-in for ComfyUI's memory management."""

from __future__ import annotations

import logging
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from small_models import draw
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


class Full(RuntimeError):
    """The host's error, which it knows by its type."""


@pytest.fixture
def oom(pack: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, with nothing said yet, and the stand-in as its `management`."""
    freed: list[int] = []
    management = ModuleType("comfy.model_management")
    management.OOM_EXCEPTION = Full  # type: ignore[attr-defined]
    management.soft_empty_cache = lambda: freed.append(1)  # type: ignore[attr-defined]
    comfy = ModuleType("comfy")
    comfy.model_management = management  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "comfy", comfy)
    monkeypatch.setitem(sys.modules, "comfy.model_management", management)
    module = pack.module("nodes.native.oom")
    monkeypatch.setattr(module, "_said", False)
    return SimpleNamespace(parts=module.attention_in_parts, management=management, freed=freed)


class Attention:
    """Of two heads over 300 keys, with room for so many queries."""

    def __init__(self, room: int, error: type[Exception] = Full) -> None:
        self.room, self.error = room, error
        self.k, self.v = draw(1, 1, 2, 300, 8), draw(2, 1, 2, 300, 8)
        self.tried: list[int] = []

    def __call__(self, q: Tensor, mask: Tensor | None) -> Tensor:
        self.tried.append(q.shape[2])
        assert len(self.tried) < 20, "it goes on for ever"
        if q.shape[2] > self.room:
            raise self.error("full")
        out = scaled_dot_product_attention(q, self.k, self.v, attn_mask=mask)
        return out.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("rows", [None, 1, 300])
def test_parts_are_halved_until_they_fit(
    oom: Any, caplog: pytest.LogCaptureFixture, rows: int | None
) -> None:
    q = draw(3, 1, 2, 300, 8)
    mask = None if rows is None else draw(4, 1, 1, rows, 300)
    wanted = Attention(300)(q, mask)
    attention = Attention(80)
    with caplog.at_level(logging.WARNING):
        found = oom.parts(attention, q, mask)
        oom.parts(Attention(80), q, mask)
    # Rows of a product are independent; measured 1.2e-7 on numbers of order one.
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    assert attention.tried == [300, 150, 75, 75, 75, 75]
    assert len(oom.freed) == 4
    [said] = [r.getMessage() for r in caplog.records if "out of memory in attention" in r.message]
    assert "150 queries" in said


def test_enough_memory_is_one_call(oom: Any) -> None:
    attention = Attention(300)
    oom.parts(attention, draw(3, 1, 2, 300, 8), None)
    assert attention.tried == [300] and oom.freed == []


def test_what_does_not_fit_at_all_is_the_hosts_error(oom: Any) -> None:
    attention = Attention(10)
    with pytest.raises(Full):
        oom.parts(attention, draw(3, 1, 2, 300, 8), None)
    # Fewer queries would not help: it is the keys.
    assert attention.tried == [300, 150, 75, 64]


def test_other_errors_are_no_lack_of_memory(oom: Any) -> None:
    attention = Attention(10, RuntimeError)
    with pytest.raises(RuntimeError, match="full"):
        oom.parts(attention, draw(3, 1, 2, 300, 8), None)
    assert attention.tried == [300]


def test_a_later_host_is_asked_itself(oom: Any) -> None:
    oom.management.is_oom = lambda error: "full" in str(error)
    attention = Attention(150, RuntimeError)
    oom.parts(attention, draw(3, 1, 2, 300, 8), None)
    assert attention.tried == [300, 150, 150]
