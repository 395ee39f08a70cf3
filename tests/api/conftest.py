"""Every API test runs on standalone and on each ComfyUI checkout that is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from host_client import Client
from hosts import Host, Missing, Server, all_hosts, running


def _params() -> list[object]:
    params: list[object] = []
    for host in all_hosts():
        marks = [pytest.mark.comfyui] if isinstance(host, Missing) or host.is_comfyui else []
        if isinstance(host, Missing):
            marks.append(pytest.mark.skip(reason=host.reason))
        params.append(pytest.param(host, id=host.name, marks=marks))
    return params


@pytest.fixture(scope="session", params=_params())
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A running host with empty folders of its own and the pictures of workflows/input."""
    host: Host = request.param
    base: Path = tmp_path_factory.mktemp(host.name)
    with running(host, base) as started:
        yield started


@pytest.fixture
def client(server: Server) -> Client:
    return Client(server.url)
