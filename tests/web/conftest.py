"""Starts each host with its frontends, and the browser that looks at them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from editor import FIRST_WITH_NODES_2, FLAGS, Editor
from hosts import Host, Missing, Server, all_hosts, frontends, own_frontend, running
from playwright.sync_api import Browser, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Where macOS keeps them, for all users or for one.
APPS = ("Chromium", "Google Chrome", "Microsoft Edge")


def find_browser(
    folders: tuple[Path, ...] = (Path("/Applications"), Path.home() / "Applications"),
) -> str | None:
    """A browser of Chromium's kind: on the PATH, or among macOS's applications."""
    apps = (folder / f"{app}.app/Contents/MacOS/{app}" for folder in folders for app in APPS)
    found = (*map(shutil.which, BROWSERS), *(str(path) for path in apps if path.is_file()))
    return next(filter(None, found), None)


def _params() -> list[object]:
    """Standalone with every frontend; a ComfyUI with the newest and with the one it pins itself."""
    versions = frontends()
    params: list[object] = []
    for host in all_hosts():
        marks: list[pytest.MarkDecorator] = [pytest.mark.browser]
        if isinstance(host, Missing):
            marks += [pytest.mark.comfyui, pytest.mark.skip(reason=host.reason)]
            params.append(pytest.param((host, None), id=host.name, marks=marks))
        elif host.is_comfyui:
            marks.append(pytest.mark.comfyui)
            newest = dict(list(versions.items())[:1])
            params += [
                pytest.param((host, folder), id=f"{host.name}-{version}", marks=marks)
                for version, folder in {**newest, f"own-{own_frontend(host)}": None}.items()
            ]
        else:
            if not versions:
                reason = "no frontend: pip install comfyui-frontend-package"
                marks.append(pytest.mark.skip(reason=reason))
            params += [
                pytest.param((host, folder), id=f"{host.name}-{version}", marks=marks)
                for version, folder in (versions or {"none": None}).items()
            ]
    return params


# Not for the session: while playwright's driver lives, no later test could call asyncio.run.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's browser, headless; playwright's own browsers are not downloaded."""
    found = find_browser()
    if found is None:
        pytest.skip(
            f"no browser: none of {', '.join(BROWSERS)} on the PATH, no {' or '.join(APPS)}"
        )
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


@pytest.fixture(scope="module", params=[False, True], ids=["canvas", "vue"])
def page(
    request: pytest.FixtureRequest,
    browser: Browser,
    server: Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Editor]:
    """The editor in one of its two ways to draw; one page for all tests of a module."""
    folder = tmp_path_factory.mktemp("pictures")
    opened = Editor.open(browser, server.url, folder, vue_nodes=request.param)
    try:
        if request.param and opened.version() < FIRST_WITH_NODES_2:
            pytest.skip("this frontend has canvas nodes only")
        opened.close_dialog()
        yield opened
    finally:
        opened.close()
