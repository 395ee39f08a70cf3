"""The embedded host's gate in a browser whose names all lead here: what rebinding makes of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote

import pytest
from editor import BOOTED, PATIENCE
from hosts import Host, Server, all_hosts, frontends, running
from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
ASK = """async () => {
    const json = { "Content-Type": "application/json" };
    const found = {};
    for (const [name, path, options] of [
        ["read", "/queue", {}],
        ["post", "/interrupt", { method: "POST", headers: json, body: "{}" }],
        ["text", "/interrupt", { method: "POST", body: "{}" }],
        ["settings", "/settings/a", { method: "POST", headers: { "Comfy-User": "x" }, body: "5" }],
    ])
        found[name] = await fetch(BASE + path, options).then((r) => r.status, () => "blocked");
    found.socket = await new Promise((tell) => {
        const socket = new WebSocket(BASE.replace("http", "ws") + "/ws");
        socket.onopen = () => tell("open");
        socket.onerror = () => tell("blocked");
    });
    return found;
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    versions = frontends()
    if not versions:
        pytest.skip("no frontend: pip install comfyui-frontend-package")
    (host,) = [h for h in all_hosts() if isinstance(h, Host) and not h.is_comfyui]
    base = tmp_path_factory.mktemp("gate")
    flags = ("--allow-host", "studio.test")
    with running(host, base, next(iter(versions.values())), flags=flags) as started:
        yield started


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    opened = browser.new_page()
    opened.set_default_timeout(PATIENCE)
    yield opened
    opened.close()


def attack(page: Page, base: str) -> dict[str, object]:
    return page.evaluate(ASK.replace("BASE", repr(base)))


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[str]:
    """Another site: a server of its own that answers one page, with a frame as its query says."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            source = unquote(self.path.partition("?")[2])
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(f"<p>evil<iframe src='{source}'></iframe>".encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        yield f"http://evil.test:{site.server_port}"
        site.shutdown()


def test_a_page_whose_name_was_pointed_here_gets_nothing(page: Page, server: Server) -> None:
    evil = f"http://evil.test:{server.port}"
    answer = page.goto(evil)
    assert answer is not None and answer.status == 403
    # The refusal itself is a page of that origin, and may ask its own server whatever it likes.
    found = attack(page, evil)
    refused = {name: 403 for name in ("read", "post", "text", "settings")}
    assert found == refused | {"socket": "blocked"}


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "localhost.", "studio.test"])
def test_a_page_of_another_site_gets_nothing(
    page: Page, server: Server, elsewhere: str, name: str
) -> None:
    before = server.log_text().count("refused")
    page.goto(elsewhere)
    found = attack(page, f"http://{name}:{server.port}")
    assert found == dict.fromkeys(("read", "post", "text", "settings", "socket"), "blocked")
    assert server.log_text().count("refused") > before


def test_no_other_site_can_hold_the_editor_in_a_frame(
    page: Page, server: Server, elsewhere: str
) -> None:
    page.goto(f"{elsewhere}/?{quote(f'http://studio.test:{server.port}/')}")
    page.wait_for_load_state("networkidle")
    held = page.frames[1]
    assert held.evaluate("() => !document.querySelector('#vue-app, #app')")


def test_the_editor_works_under_a_name_that_was_added(page: Page, server: Server) -> None:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(error.message))
    page.on(
        "console",
        lambda message: (
            errors.append(message.text)
            if message.type == "error"
            and ("Content Security" in message.text or "403" in message.text)
            else None
        ),
    )
    url = f"http://studio.test:{server.port}"
    page.goto(url)
    page.wait_for_function(BOOTED)
    found = attack(page, url)
    # What is no JSON by its type is refused even here, but for the editor's own settings.
    assert found == {"read": 200, "post": 200, "text": 415, "settings": 200, "socket": "open"}
    assert [text for text in errors if "415" not in text] == []
