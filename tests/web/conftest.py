"""Browser tests run on each host with the newest frontend and on standalone with older ones too."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from editor import FLAGS, Editor
from hosts import Host, Missing, Server, all_hosts, frontends, running
from playwright.sync_api import Browser, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def _params() -> list[object]:
    versions = frontends() or {"none": None}
    params: list[object] = []
    for host in all_hosts():
        marks: list[pytest.MarkDecorator] = [pytest.mark.browser]
        if isinstance(host, Missing):
            marks += [pytest.mark.comfyui, pytest.mark.skip(reason=host.reason)]
            params.append(pytest.param((host, None), id=host.name, marks=marks))
            continue
        if host.is_comfyui:
            marks.append(pytest.mark.comfyui)
        for version, folder in versions.items():
            own = list(marks)
            if folder is None:
                reason = "no frontend: pip install comfyui-frontend-package"
                own.append(pytest.mark.skip(reason=reason))
            params.append(pytest.param((host, folder), id=f"{host.name}-{version}", marks=own))
    return params


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's headless Chromium; playwright's own browsers are not downloaded."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the PATH")
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=found, headless=True, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session", params=_params())
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A running host with one frontend."""
    host: Host
    frontend: Path | None
    host, frontend = request.param
    with running(host, tmp_path_factory.mktemp(host.name), frontend) as started:
        yield started


@pytest.fixture
def editor(browser: Browser, server: Server, tmp_path: Path) -> Iterator[Editor]:
    """The graph editor in a fresh browser profile, booted."""
    opened = Editor.open(browser, server.url, tmp_path)
    yield opened
    opened.close()
