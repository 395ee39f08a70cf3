"""Attacks from other sites: names that are pointed here, origins, forms; and clients that sleep."""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from embedded_host import Bench, fetch, live, node, wait_for
from forms import form, png
from host_client import Client

SUM = {"1": node("Number", number=5), "2": node("Show", value=["1", 0])}


def ask(port: int, path: str, method: str = "POST", body: bytes = b"", **headers: str) -> Any:
    """A request with exactly these headers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for key, value in headers.items():
        connection.putheader(key.replace("_", "-"), value)
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    answer = connection.getresponse()
    result = SimpleNamespace(status=answer.status, body=answer.read(), headers=answer.headers)
    connection.close()
    return result


def upgrade(port: int, **headers: str) -> Any:
    """The answer to an attempt at a websocket."""
    key = base64.b64encode(os.urandom(16)).decode()
    wanted = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec_WebSocket_Key": key}
    text = "GET /ws HTTP/1.1\r\n" + "".join(
        f"{k.replace('_', '-')}: {v}\r\n"
        for k, v in (headers | wanted | {"Sec_WebSocket_Version": "13"}).items()
    )
    with socket.create_connection(("127.0.0.1", port), timeout=60) as channel:
        channel.sendall(text.encode() + b"\r\n")
        return int(channel.recv(4096).split()[1])


@pytest.mark.parametrize(
    ("host", "origin", "allowed"),
    [
        ("127.0.0.1:{port}", None, True),
        ("127.0.0.1:{port}", "http://127.0.0.1:{port}", True),
        ("localhost:{port}", "http://localhost:{port}", True),
        ("LOCALHOST:{port}", "http://localhost:{port}", True),
        ("localhost.:{port}", "http://localhost.:{port}", True),
        ("[::1]:{port}", "http://[::1]:{port}", True),
        # A tunnel: another port here than there.
        ("localhost:9000", "http://localhost:9000", True),
        ("localhost", "http://localhost", True),
        ("localhost", "http://localhost:80", True),
        # Rebinding: the page's own name is pointed here.
        ("evil.example:{port}", None, False),
        ("evil.example:{port}", "http://evil.example:{port}", False),
        ("evil.example.:{port}", "http://evil.example.:{port}", False),
        ("localhost.evil.example", None, False),
        ("evil-localhost", None, False),
        ("192.168.1.5:{port}", None, False),
        ("0.0.0.0:{port}", "http://0.0.0.0:{port}", False),
        ("2130706433:{port}", None, False),
        ("127.1:{port}", None, False),
        # Origins.
        ("localhost:{port}", "http://evil.example", False),
        ("localhost.:{port}", "http://evil.example", False),
        ("localhost.:{port}", "http://localhost.", False),
        ("localhost:{port}", "http://localhost", False),
        ("localhost:{port}", "http://localhost:1", False),
        ("localhost:{port}", "https://localhost:{port}", False),
        ("localhost:{port}", "http://127.0.0.1:{port}", False),
        ("localhost", "https://localhost", False),
        ("localhost:{port}", "null", False),
        ("localhost:{port}", "", False),
        ("localhost:{port}", "http://evil@localhost:{port}", False),
        ("localhost:{port}", "http://[", False),
        # No names at all.
        ("[", None, False),
        ("", None, False),
        ("a b", None, False),
        ("localhost:{port}@evil.example", None, False),
        ("localhost:999999", None, False),
    ],
)
def test_names_and_origins(server: Any, host: str, origin: str | None, allowed: bool) -> None:
    headers = {"Host": host.format(port=server.port)}
    if origin is not None:
        headers["Origin"] = origin.format(port=server.port)
    answer = ask(server.port, "/queue", body=b"{}", Content_Type="application/json", **headers)
    # What is not a header at all aiohttp refuses itself, with 400.
    assert (answer.status == 200) == allowed and answer.status in (200, 400, 403)
    assert (upgrade(server.port, **headers) == 101) == allowed


def test_two_hosts_are_none(server: Any) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as channel:
        channel.sendall(b"GET /queue HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
        assert channel.recv(4096).split()[1] in (b"400", b"403")


@pytest.fixture
def open_server(bench: Bench) -> Iterator[Any]:
    from standalone.server.origin import Gate

    allowed = ["studio.lan", "https://studio.example", "http://proxied.example:9000"]
    with live(bench, gate=Gate("0.0.0.0", allowed)) as running:
        yield running


@pytest.mark.parametrize(
    ("host", "origin", "allowed"),
    [
        ("studio.lan:{port}", "http://studio.lan:{port}", True),
        ("studio.example", "https://studio.example", True),
        ("proxied.example", "http://proxied.example:9000", True),
        ("192.168.1.5:{port}", "http://192.168.1.5:{port}", True),
        ("[fe80::1]:{port}", "http://[fe80::1]:{port}", True),
        ("evil.example", None, False),
        ("studio.lan:{port}", "https://studio.example", False),
        ("studio.lan:{port}", "https://studio.lan:{port}", False),
        ("sub.studio.lan", None, False),
    ],
)
def test_names_that_the_user_adds(
    open_server: Any, host: str, origin: str | None, allowed: bool
) -> None:
    test_names_and_origins(open_server, host, origin, allowed)


@pytest.mark.parametrize("entry", ["", "a b", "http://", "user@host", "[", "host/path"])
def test_an_entry_that_is_no_name_is_refused(entry: str) -> None:
    from kontext_core.errors import InputError
    from standalone.server.origin import Gate

    with pytest.raises(InputError, match="--allow-host"):
        Gate("127.0.0.1", [entry])


@pytest.mark.parametrize(
    "path", ["/prompt", "/queue", "/history", "/settings", "/free", "/settings/a"]
)
@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=a", "x"])
def test_json_needs_its_content_type(client: Client, path: str, kind: str) -> None:
    status, answer = client.call(path, json.dumps({"prompt": SUM}).encode(), kind)
    assert status == 415 and "application/json" in json.loads(answer)["error"]["message"]
    assert client.get("/history") == {}


@pytest.mark.parametrize("kind", [{}, {"Content_Type": "application/x-www-form-urlencoded"}])
def test_a_program_may_leave_the_type_to_its_library(server: Any, kind: dict[str, str]) -> None:
    """`urllib.request` and `curl -d` call every body a form; a browser says who asks, and may not."""
    host = {"Host": f"127.0.0.1:{server.port}", **kind}
    assert ask(server.port, "/settings/c", body=b"5", **host).status == 200
    browser = {"Origin": f"http://127.0.0.1:{server.port}"}, {"Sec_Fetch_Site": "none"}
    for headers in browser:
        assert ask(server.port, "/settings/c", body=b"5", **headers, **host).status == 415


def test_the_editors_own_settings_come_as_text(server: Any) -> None:
    """It sends no JSON type, but a header that a page of another site may not set."""
    headers = {"Content_Type": "text/plain;charset=UTF-8", "Comfy_User": "default"}
    url = server.url + "/settings/a"
    assert fetch(url, "POST", b"5", **headers).status == 200


def test_every_answer_says_who_may_hold_it(client: Client, server: Any) -> None:
    client.upload("a.png", png())
    body, kind = form({}, "a.html", png())
    client.call("/upload/image", body, kind)
    for path in (
        "/", "/index.html", "/extensions/core/own.js", "/queue", "/none", "/history?max_items=x",
        "/view?filename=a.png&type=input", "/view?filename=none.png", "/userdata/none",
        "/api/workflow_templates/My-Pack.v1/one.json",
    ):  # fmt: skip
        headers = fetch(server.url + path).headers
        policy = headers["Content-Security-Policy"]
        assert "frame-ancestors 'self'" in policy and "object-src 'none'" in policy, path
        assert headers["X-Content-Type-Options"] == "nosniff", path
    refused = fetch(server.url + "/", Origin="http://evil.example")
    assert refused.status == 403 and "frame-ancestors" in refused.headers["Content-Security-Policy"]


def test_the_address_of_all_addresses_is_not_printed() -> None:
    from standalone.server.app import _addresses

    assert _addresses("127.0.0.1", 8188) == ("http://127.0.0.1:8188", None)
    own, outside = _addresses("0.0.0.0", 8188)
    assert own == "http://127.0.0.1:8188"
    assert outside is None or "0.0.0.0" not in outside
    assert _addresses("::", 8188)[0] == "http://[::1]:8188"


# Clients that sleep


def test_a_client_that_does_not_read_silences_nobody(
    server: Any, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as asleep:
        asleep.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        asleep.settimeout(60)
        asleep.connect(("127.0.0.1", server.port))
        key = base64.b64encode(os.urandom(16)).decode()
        asleep.sendall(
            f"GET /ws?clientId=asleep HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
            f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        assert asleep.recv(12) == b"HTTP/1.1 101"
        # Each run tells the sleeper two megabytes; sixteen may wait for it.
        for number in range(20):
            words = node("Words", text="x" * 2_000_000, seed=number, mood="calm", strength=0.5)
            prompt = {"1": words, "2": node("Show", value=["1", 0])}
            assert client.post("/prompt", {"prompt": prompt, "client_id": "asleep"})[0] == 200
            if number % 5 == 0:
                assert client.run(SUM).ok
        wait_for(lambda: client.get("/prompt")["exec_info"]["queue_remaining"] == 0)
        assert client.run(SUM).ok
        assert caplog.text.count("a client that does not read its messages is let go") == 1
