"""Reading, checking, resizing and writing pictures, good and bad."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import draw

from kontext_core import InputError, ShapeError, load_image, save_image
from kontext_core.images import check_image, resize, to_model, to_picture
from kontext_core.writing import read_metadata

COLOURS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def picture(height: int = 20, width: int = 30) -> torch.Tensor:
    return draw(1, 1, height, width, 3).abs().clamp(0, 1)


def huge_png(path: Path, width: int, height: int) -> None:
    """A PNG whose header promises this size and whose body holds nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


# Reading


def test_reads_what_was_written(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    image = load_image(tmp_path / "a.png")
    assert image.shape == (1, 20, 30, 3) and image.dtype == torch.float32
    assert (image[0] * 255).round().to(torch.uint8).numpy().tolist() == COLOURS.tolist()


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK", "RGBA", "I;16"])
def test_reads_every_mode(mode: str, tmp_path: Path) -> None:
    if mode == "I;16":
        source = Image.fromarray(COLOURS[..., 0].astype(np.uint16) * 257)
    else:
        source = Image.fromarray(COLOURS).convert(mode)
    path = tmp_path / ("a.tiff" if mode == "CMYK" else "a.png")
    source.save(path)
    image = load_image(path)
    assert image.shape == (1, 20, 30, 3)
    assert image.std() > 0.1
    if mode in ("L", "LA", "I;16"):
        assert image[..., 0].equal(image[..., 2])
    if mode == "I;16":
        # Measured: 1.6e-5.
        assert (image[0, ..., 0] * 255 - torch.from_numpy(COLOURS[..., 0])).abs().max() <= 1e-3


def test_turned_as_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(COLOURS).save(tmp_path / "a.png", exif=exif)
    image = load_image(tmp_path / "a.png")
    assert image.shape == (1, 30, 20, 3)
    expected = torch.from_numpy(np.rot90(COLOURS, -1).copy()).float() / 255
    assert image[0].equal(expected)


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    Image.fromarray(COLOURS).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:400])
    with pytest.raises(InputError, match="no picture at .*missing.png"):
        load_image(tmp_path / "missing.png")
    for name in ("text.png", "empty.png", "cut.png", "."):
        with pytest.raises(InputError, match="can't be read as a picture"):
            load_image(tmp_path / name)


@pytest.mark.parametrize(("width", "height"), [(20000, 20000), (16400, 16), (16384, 16384)])
def test_too_large_a_file_is_refused_from_its_header(
    width: int, height: int, tmp_path: Path
) -> None:
    huge_png(tmp_path / "huge.png", width, height)
    with pytest.raises(InputError, match="large|at most 16384 a side"):
        load_image(tmp_path / "huge.png")


def test_too_small_a_file(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    with pytest.raises(InputError, match="1x1 px; both sides need at least 16"):
        load_image(tmp_path / "dot.png")


# Checking


def test_check_passes_a_picture_on() -> None:
    image = picture()
    assert check_image(image) is image


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(1, 1, 1, 3), "image 2 is 1x1 px; both sides need at least 16"),
        (torch.zeros(1, 15, 64, 3), "64x15 px"),
        (torch.zeros(1).expand(1, 20000, 20000, 3), "20000x20000 px; at most 16384"),
        (torch.zeros(1).expand(1, 16, 16385, 3), "16385x16 px"),
        (torch.full((1, 16, 16, 3), float("nan")), "NaN or infinite"),
        (torch.full((1, 16, 16, 3), float("inf")), "NaN or infinite"),
        (torch.zeros(16, 16, 3), r"shape \(16, 16, 3\)"),
        (torch.zeros(1, 16, 16, 4), "Remove an alpha channel"),
        (torch.zeros(0, 16, 16, 3), "shape"),
        (torch.zeros(1, 16, 16, 1), "one channel, grey; make three of it"),
        (torch.zeros(1, 3, 16, 16), r"channels stand second; put them last: image.movedim\(1, -1"),
        (torch.zeros(3, 16, 16), "channels stand first"),
        (torch.zeros(16, 16, 3), r"Add the batch dimension first: image\[None"),
        (torch.linspace(0, 255, 768).view(1, 16, 16, 3), "from 0 to 255; expected 0..1: divide by"),
        (torch.linspace(-1, 1, 768).view(1, 16, 16, 3), "from -1 to 1; expected 0..1: make it"),
        ("a.png", "image 2 is a str; expected a tensor"),
        (torch.zeros(1, 16, 16, 3, dtype=torch.uint8), "expected floats in 0..1"),
    ],
)
def test_unusable_pictures(image: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_image(image, "image 2")


# Converting


def test_resize_is_lanczos() -> None:
    image = torch.from_numpy(COLOURS)[None].float() / 255
    assert resize(image, 30, 20) is image
    small = resize(image, 16, 24)
    expected = Image.fromarray(COLOURS).resize((16, 24), Image.Resampling.LANCZOS)
    assert small.shape == (1, 24, 16, 3)
    assert (small[0] * 255).round().to(torch.uint8).numpy().tolist() == np.asarray(
        expected
    ).tolist()


def test_model_range_and_back() -> None:
    image = picture()
    assert to_model(image).shape == (1, 3, 20, 30)
    assert to_model(torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3)).flatten().tolist() == [-1, 0, 1]
    # Measured: 1.5e-8.
    assert (to_picture(to_model(image)) - image).abs().max() < 1e-6
    assert to_picture(torch.tensor([-3.0, 0.0, 3.0]).view(1, 3, 1, 1)).flatten().tolist() == [
        0, 0.5, 1,
    ]  # fmt: skip


# Writing


def test_png_is_exact_and_carries_text(tmp_path: Path) -> None:
    image = torch.from_numpy(COLOURS)[None].float() / 255
    path = save_image(image, tmp_path / "new" / "a.png", {"prompt": "ein Stern ★"})
    assert path == tmp_path / "new" / "a.png"
    assert load_image(path).equal(image)
    with Image.open(path) as written:
        assert written.text == {"prompt": "ein Stern ★"}


def test_eight_bits_are_rounded(tmp_path: Path) -> None:
    image = torch.tensor([10.4, 10.6, 300.0]).div(255).expand(16, 16, 3)
    written = load_image(save_image(image, tmp_path / "a.png"))
    assert (written[0, 0, 0] * 255).round().tolist() == [10, 11, 255]


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp"])
def test_metadata_comes_back(ending: str, tmp_path: Path) -> None:
    words = {"prompt": "ein Stern ★\nzwei", "seed": "7"}
    path = save_image(picture(), tmp_path / f"a{ending}", words)
    assert read_metadata(path) == words
    assert read_metadata(save_image(picture(), path)) == {}


def test_quality(tmp_path: Path) -> None:
    sizes = [
        save_image(picture(64, 64), tmp_path / f"{q}.jpg", quality=q).stat().st_size
        for q in (20, 70, 100)
    ]
    assert sizes == sorted(set(sizes))
    for name, quality, message in (
        ("a.png", 90, "quality is 90, but PNG has none"),
        ("a.jpg", 101, "quality is 101; expected a whole number from 1 to 100"),
        ("a.webp", "high", "quality is 'high'"),
    ):
        with pytest.raises(InputError, match=message):
            save_image(picture(), tmp_path / name, quality=quality)
    assert not (tmp_path / "a.png").exists() and not (tmp_path / "a.jpg").exists()


@pytest.mark.parametrize("ending", [".jpg", ".webp", ".PNG"])
def test_other_formats(ending: str, tmp_path: Path) -> None:
    path = save_image(picture(), tmp_path / f"a{ending}")
    assert load_image(path).shape == (1, 20, 30, 3)


def test_nothing_is_left_of_a_failed_write(tmp_path: Path, monkeypatch) -> None:
    kept = tmp_path / "a.png"
    kept.write_bytes(b"the old picture")

    def full_disk(self: Image.Image, file, **settings: object) -> None:
        file.write(b"half a pic")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(InputError, match="No space left"):
        save_image(picture(), kept)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert kept.read_bytes() == b"the old picture"


def test_unusable_targets(tmp_path: Path) -> None:
    for name in ("a", "a.xyz", "a.py"):
        with pytest.raises(InputError, match=r"use \.png"):
            save_image(picture(), tmp_path / name)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't write into"):
        save_image(picture(), tmp_path / "file" / "a.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match="can't write"):
        save_image(picture(), tmp_path / "folder.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.png"]


def test_shape_errors_are_their_own_kind() -> None:
    with pytest.raises(ShapeError):
        check_image(torch.zeros(16, 16, 3))
