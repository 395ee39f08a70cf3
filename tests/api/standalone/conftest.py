"""The embedded host behind HTTP, with small nodes and a small pack."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from embedded_host import Bench, live
from host_client import Client
from PIL import Image


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    samples = tmp_path / "samples"
    samples.mkdir()
    Image.new("RGB", (8, 6), (200, 10, 10)).save(samples / "shipped.png")
    return Bench(tmp_path / "base", samples)


@pytest.fixture
def pack(tmp_path: Path) -> Any:
    root = tmp_path / "My-Pack.v1"
    for name in ("web/js", "web/docs", "workflows/api", "locales/fr", "locales/en"):
        (root / name).mkdir(parents=True)
    (root / "web/js/a.js").write_text("export {}")
    (root / "web/docs/Number.md").write_text("# Number")
    (root / "workflows/one.json").write_text("{}")
    (root / "workflows/one.jpg").write_bytes(b"jpg")
    (root / "workflows/api/one.json").write_text("{}")
    (root / "locales/fr/nodeDefs.json").write_text('{"Number": {"display_name": "Nombre"}}')
    (root / "locales/fr/main.json").write_text('{"hello": "bonjour"}')
    (root / "locales/en/main.json").write_text("this is no JSON")
    return SimpleNamespace(name=root.name, root=root, web=root / "web", nodes={})


@pytest.fixture
def server(bench: Bench, pack: Any) -> Iterator[SimpleNamespace]:
    with live(bench, [pack]) as running:
        yield running


@pytest.fixture
def client(server: SimpleNamespace) -> Client:
    return Client(server.url)
