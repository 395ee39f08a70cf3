"""Pictures in and out of the embedded host: uploads, views, masks, and nothing outside its folders."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from embedded_host import Bench, fetch
from forms import form, png
from host_client import Client
from PIL import Image


def test_upload_list_view(client: Client) -> None:
    name = client.upload("mine.png", png())
    assert name == "mine.png"
    assert client.upload("mine.png", png()) == "mine.png"
    assert client.upload("mine.png", png(color=(9, 9, 9))) == "mine (1).png"
    info = client.get("/object_info/LoadImage")["LoadImage"]["input"]["required"]["image"]
    assert info[0] == "COMBO" and info[1]["image_upload"] is True
    assert info[1]["options"] == ["mine (1).png", "mine.png", "shipped.png"]
    for found in ("mine.png", "shipped.png"):
        assert client.view({"filename": found, "subfolder": "", "type": "input"}).format == "PNG"
    small = fetch(f"{client.url}/view?filename=mine.png&type=input&preview=webp;50")
    assert small.headers["Content-Type"] == "image/webp"
    alpha = fetch(f"{client.url}/view?filename=mine.png&type=input&channel=a")
    assert Image.open(io.BytesIO(alpha.body)).mode == "RGBA"


@pytest.mark.parametrize(
    "query",
    [
        "filename=../user/secret.txt&type=input",
        "filename=secret.txt&subfolder=../user&type=input",
        "filename=/etc/hostname&type=input",
        "filename=..%2Fuser%2Fsecret.txt&type=output",
        "filename=secret.txt&type=user",
        "filename=../user/secret.txt%20[output]",
        "filename=a%00b&type=input",
    ],
)
def test_view_never_leaves_its_folders(bench: Bench, client: Client, query: str) -> None:
    bench.folders.user.mkdir(parents=True)
    (bench.folders.user / "secret.txt").write_text("secret")
    answer = fetch(f"{client.url}/view?{query}")
    assert answer.status in (400, 403, 404) and b"secret" != answer.body


def test_view_follows_no_link_out(bench: Bench, client: Client, tmp_path: Path) -> None:
    (tmp_path / "outside.png").write_bytes(png())
    (bench.folders.input / "link.png").symlink_to(tmp_path / "outside.png")
    assert fetch(f"{client.url}/view?filename=link.png&type=input").status == 403


def test_what_is_no_picture_is_not_shown_in_the_page(bench: Bench, client: Client) -> None:
    (bench.folders.input / "page.html").write_text("<script>alert(1)</script>")
    answer = fetch(f"{client.url}/view?filename=page.html&type=input")
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"].startswith("attachment")


@pytest.mark.parametrize(
    ("fields", "filename"),
    [
        ({"subfolder": "../../x"}, "a.png"),
        ({}, "../a.png"),
        ({"type": "user"}, "a.png"),
        ({}, "a.html"),
    ],
)
def test_bad_uploads_are_refused_and_leave_nothing(bench, client, fields, filename) -> None:
    base = bench.folders.input.parent
    before = sorted(base.rglob("*"))
    body, kind = form(fields, filename, png())
    assert client.call("/upload/image", body, kind)[0] == 400
    assert sorted(base.rglob("*")) == before


def test_a_mask_is_painted_onto_a_copy(bench: Bench, client: Client) -> None:
    client.upload("mine.png", png((4, 4), (10, 20, 30)))
    mask = png((4, 4), (0, 0, 0, 77), "RGBA")
    reference = json.dumps({"filename": "mine.png", "subfolder": "", "type": "input"})
    body, kind = form({"original_ref": reference, "subfolder": "clipspace"}, "masked.png", mask)
    status, answer = client.call("/upload/mask", body, kind)
    assert status == 200
    assert json.loads(answer) == {"name": "masked.png", "subfolder": "clipspace", "type": "input"}
    with Image.open(bench.folders.input / "clipspace/masked.png") as masked:
        assert masked.getpixel((0, 0)) == (10, 20, 30, 77)
    body, kind = form({"original_ref": '{"filename": "none.png"}'}, "m.png", mask)
    assert client.call("/upload/mask", body, kind)[0] == 400
