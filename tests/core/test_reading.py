"""Picture files of every mode, depth and profile, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, TiffImagePlugin

from kontext_core import InputError, load_image, load_mask, save_image
from kontext_core.reading import read_frames, read_picture, srgb_profile

RAMP = np.linspace(0, 1, 24 * 32).reshape(24, 32)
COLOURS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def stored(path: Path, values: np.ndarray, **tags: int) -> Path:
    """A grey TIFF of these numbers; mode and tags as NumPy's type asks for."""
    picture = Image.fromarray(values)
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        info[int(tag[1:])] = value
    picture.save(path, tiffinfo=info)
    return path


def grey(path: Path) -> np.ndarray:
    frames = read_picture(path)
    assert frames.alpha is None and frames.colours.dtype == torch.float32
    red, green, blue = frames.colours[0].unbind(-1)
    assert red.equal(green) and green.equal(blue)
    return red.numpy()


# Depth


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("16.png", (RAMP * 65535).round().astype(np.uint16)),
        ("16.tiff", (RAMP * 65535).round().astype(np.uint16)),
        ("big.tiff", (RAMP * 65535).round().astype(">u2")),
        ("32.tiff", (RAMP * (2**31 - 1)).round().astype(np.int32)),
        ("float.tiff", RAMP.astype(np.float32)),
        ("8.png", (RAMP * 255).round().astype(np.uint8)),
    ],
)
def test_numbers_are_scaled_by_their_type(name: str, values: np.ndarray, tmp_path: Path) -> None:
    found = grey(stored(tmp_path / name, values))
    full = 1.0 if values.dtype.kind == "f" else np.iinfo(values.dtype).max
    # Measured: 3e-8, float32's own.
    assert np.abs(found - values.astype(np.float64) / full).max() < 1e-6


def raw_tiff(path: Path, values: np.ndarray, order: str, photometric: int, sample: int) -> Path:
    """A grey TIFF by hand: kinds that Pillow reads and does not write."""
    data = values.tobytes()
    kind = "<" if order == "II" else ">"
    bits = values.dtype.itemsize * 8
    entries = [
        (256, 4, values.shape[1]), (257, 4, values.shape[0]), (258, 3, bits), (259, 3, 1),
        (262, 3, photometric), (273, 4, 8), (277, 3, 1), (278, 4, values.shape[0]),
        (279, 4, len(data)), (339, 3, sample),
    ]  # fmt: skip
    body = np.array([len(entries)], kind + "u2").tobytes()
    for tag, form, value in entries:
        body += np.array([tag, form], kind + "u2").tobytes()
        body += np.array([1], kind + "u4").tobytes()
        pair = [value, 0] if form == 3 else [value]
        body += np.array(pair, kind + ("u2" if form == 3 else "u4")).tobytes()
    start = order.encode() + np.array([42], kind + "u2").tobytes()
    start += np.array([8 + len(data)], kind + "u4").tobytes()
    path.write_bytes(start + data + body + bytes(4))
    return path


@pytest.mark.parametrize(
    ("values", "order", "photometric", "sample", "expected"),
    [
        ((RAMP * 65535).round().astype(">u2"), "MM", 1, 1, RAMP),
        ((RAMP * 65535).round().astype("<u2"), "II", 0, 1, 1 - RAMP),
        ((RAMP * 32767).round().astype("<i2"), "II", 1, 2, RAMP),
        ((RAMP * (2**32 - 1)).round().astype("<u4"), "II", 1, 1, RAMP),
        (RAMP.astype(">f4"), "MM", 1, 3, RAMP),
        (RAMP.astype("<f4"), "II", 0, 3, 1 - RAMP),
    ],
    ids=[
        "big-endian",
        "white is zero",
        "signed 16",
        "unsigned 32",
        "float",
        "float, white is zero",
    ],
)
def test_tiffs_by_hand(
    values: np.ndarray, order: str, photometric: int, sample: int, expected: np.ndarray,
    tmp_path: Path,
) -> None:  # fmt: skip
    found = grey(raw_tiff(tmp_path / "a.tiff", values, order, photometric, sample))
    # Measured: 1.5e-5, half a step of 16 bits with a sign.
    assert np.abs(found - expected).max() < 2e-5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((RAMP * 300 - 20).astype(np.int32), "holds numbers from -20 to 280"),
        ((RAMP * 65535).astype(np.int32), "up to 65535, use no more than 16"),
        ((RAMP * 255).astype(np.float32), "holds numbers from 0.0 to 255.0; expected 0 to 1"),
        (RAMP.astype(np.float32) * np.nan, "holds numbers from nan"),
    ],
)
def test_numbers_that_mean_nothing_certain_are_refused(
    values: np.ndarray, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        load_image(stored(tmp_path / "a.tiff", values))


# Modes


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_opaque_modes_are_what_pillow_makes_of_them(mode: str) -> None:
    picture = Image.fromarray(COLOURS).convert(mode)
    found = read_frames(picture)
    assert found.alpha is None
    expected = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255
    assert np.array_equal(found.colours[0].numpy(), expected)


@pytest.mark.parametrize("mode", ["LA", "PA", "RGBA", "RGBa", "La"])
def test_transparency_stands_beside_the_colours(mode: str) -> None:
    alpha = (RAMP * 255).round().astype(np.uint8)
    layer = Image.fromarray(np.dstack([COLOURS, alpha]))
    if mode in ("LA", "La"):
        layer = layer.convert("LA")
    picture = layer if layer.mode == mode else layer.convert(mode)
    found = read_frames(picture)
    assert found.alpha is not None
    # Measured: 0.
    assert np.abs(found.alpha[0].numpy() * 255 - alpha).max() < 1e-4
    visible = alpha > 250
    expected = np.asarray(layer.convert("RGB"), dtype=np.float32)
    if mode == "PA":
        expected = np.asarray(picture.convert("RGB"), dtype=np.float32)
    # Colours that were multiplied by their alpha come back but for rounding; measured: 1.
    assert np.abs(found.colours[0].numpy() * 255 - expected)[visible].max() < 1.5


def test_lab_is_converted() -> None:
    muted = 96 + COLOURS // 4
    picture = Image.fromarray(muted)
    spaces = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(picture, *spaces, outputMode="LAB")
    assert lab is not None and lab.mode == "LAB"
    # Measured: 2 of 255, the steps of 8-bit Lab.
    assert np.abs(read_frames(lab).colours[0].numpy() * 255 - muted).max() < 4


def test_hidden_colours_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The one rule that ComfyUI's own Load Image follows too."""
    layer = np.dstack([COLOURS, np.full((24, 32), 255, np.uint8)])
    layer[:12, :, 3] = 0
    Image.fromarray(layer).save(tmp_path / "a.png")
    image = load_image(tmp_path / "a.png")
    assert (image[0] * 255).round().to(torch.uint8).numpy().tolist() == COLOURS.tolist()
    assert "a.png is transparent in places" in caplog.text


# Profiles


def profile(primaries: str) -> bytes:
    """A display profile with other primaries: sRGB's with two of them exchanged, byte by byte."""
    made = bytearray(srgb_profile())
    if primaries == "swapped":
        count = int.from_bytes(made[128:132], "big")
        tags = {bytes(made[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(count)}
        red, green = tags[b"rXYZ"], tags[b"gXYZ"]
        made[red + 4 : red + 12], made[green + 4 : green + 12] = (
            made[green + 4 : green + 12],
            made[red + 4 : red + 12],
        )
    return bytes(made)


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".tiff"])
def test_a_profile_is_heeded(ending: str, tmp_path: Path) -> None:
    """In a space whose red and green primaries change places, (r, g, b) is sRGB's (g, r, b)."""
    flat = np.zeros((24, 32, 3), np.uint8)
    flat[:] = (200, 60, 30)
    path = tmp_path / f"a{ending}"
    more = {"quality": 100} if ending in (".jpg", ".webp") else {}
    Image.fromarray(flat).save(path, icc_profile=profile("swapped"), **more)
    found = load_image(path)[0, 12, 16] * 255
    # Measured: 0 for PNG and TIFF, 1.2 for JPEG.
    assert (found - torch.tensor([60.0, 200.0, 30.0])).abs().max() < 3


def test_srgb_profiles_change_no_bit(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(COLOURS).save(path, icc_profile=profile("same"))
    assert (load_image(path)[0] * 255).round().to(torch.uint8).numpy().tolist() == COLOURS.tolist()


def test_grey_with_a_profile_of_colour(tmp_path: Path) -> None:
    values = (RAMP * 65535).round().astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png", icc_profile=profile("same"))
    # Measured: 3e-8.
    assert np.abs(grey(tmp_path / "a.png") - RAMP).max() < 1e-4


@pytest.mark.parametrize(
    ("mode", "data", "message"),
    [
        ("RGB", b"no profile at all", "damaged ICC profile"),
        ("CMYK", srgb_profile(), "ICC profile for RGB colours, but its own are CMYK"),
    ],
)
def test_unusable_profiles_are_refused(
    mode: str, data: bytes, message: str, tmp_path: Path
) -> None:
    Image.fromarray(COLOURS).convert(mode).save(tmp_path / "a.tiff", icc_profile=data)
    with pytest.raises(InputError, match=message):
        load_image(tmp_path / "a.tiff")


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".tiff"])
def test_what_is_written_says_that_it_is_srgb(ending: str, tmp_path: Path) -> None:
    path = save_image(torch.from_numpy(COLOURS).float() / 255, tmp_path / f"a{ending}")
    with Image.open(path) as written:
        written_profile = ImageCms.ImageCmsProfile(io.BytesIO(written.info["icc_profile"]))
    assert "sRGB" in ImageCms.getProfileDescription(written_profile)
    first = path.read_bytes()
    assert save_image(torch.from_numpy(COLOURS).float() / 255, path).read_bytes() == first


# Frames


@pytest.mark.parametrize("ending", [".gif", ".webp", ".png", ".tiff"])
def test_animated_files_are_batches(ending: str, tmp_path: Path) -> None:
    colours = [(250, 10, 10), (10, 250, 10), (10, 10, 250)]
    frames = [Image.new("RGB", (32, 24), colour) for colour in colours]
    path = tmp_path / f"a{ending}"
    more = {"lossless": True} if ending == ".webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], **more)
    image = load_image(path)
    assert image.shape == (3, 24, 32, 3)
    assert image[:, 5, 5].argmax(-1).tolist() == [0, 1, 2]


def test_pages_of_another_size_are_left_out(tmp_path: Path) -> None:
    pages = [Image.new("RGB", (32, 24)), Image.new("RGB", (16, 16)), Image.new("RGB", (32, 24))]
    pages[0].save(tmp_path / "a.tiff", save_all=True, append_images=pages[1:])
    assert load_image(tmp_path / "a.tiff").shape == (2, 24, 32, 3)


# Masks


def test_masks(tmp_path: Path) -> None:
    half = np.zeros((24, 32, 3), np.uint8)
    half[:, 16:] = 255
    Image.fromarray(half).save(tmp_path / "a.png")
    mask = load_mask(tmp_path / "a.png")
    assert mask.shape == (24, 32)
    assert mask[:, :16].max() == 0 and mask[:, 16:].min() > 0.999
