"""Recognises files that are not weights, or weights in a form that is not opened, by first bytes."""

from __future__ import annotations

from pathlib import Path

from ..errors import CheckpointError

PICKLE = (
    "a pickle ({}); it can run code when it is opened and never is. Download the .safetensors "
    "version, or convert it where you trust it"
)
ARCHIVE = "an archive ({}); unpack it and use the .safetensors or .gguf file in it"
DOWNLOAD = (
    "{}, so the download went wrong. Download the file itself, while logged in if the page asks "
    "for its licence to be accepted"
)
PICTURE = "a picture; expected a .safetensors or .gguf file"

# First bytes and what they tell. Order matters only where one is the start of another.
SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", DOWNLOAD.format("a git-lfs pointer of a few lines")),
    (b"PK\x03\x04", PICKLE.format("a zip, as torch.save writes it")),
    (b"PK\x05\x06", ARCHIVE.format("an empty zip")),
    (b"\x1f\x8b", ARCHIVE.format("gzip")),
    (b"7z\xbc\xaf\x27\x1c", ARCHIVE.format("7z")),
    (b"Rar!", ARCHIVE.format("rar")),
    (b"\xfd7zXZ", ARCHIVE.format("xz")),
    (b"\x28\xb5\x2f\xfd", ARCHIVE.format("zstd")),
    (b"\x89HDF", "an HDF5 file; use the .safetensors or .gguf version"),
    (b"\x89PNG", PICTURE),
    (b"\xff\xd8\xff", PICTURE),
    (b"RIFF", "a media file; expected a .safetensors or .gguf file"),
    (b"%PDF", "a PDF; expected a .safetensors or .gguf file"),
    (b"\x7fELF", "a program; expected a .safetensors or .gguf file"),
    (b"MZ", "a program; expected a .safetensors or .gguf file"),
    (b"ggjt", "a GGML file from before GGUF; download a GGUF version"),
    (b"tjgg", "a GGML file from before GGUF; download a GGUF version"),
    (b"lmgg", "a GGML file from before GGUF; download a GGUF version"),
    (b"fmgg", "a GGML file from before GGUF; download a GGUF version"),
    (b"FUGG", "a big-endian GGUF file; download the usual little-endian one"),
)


def refuse_foreign(path: Path, start: bytes, size: int) -> None:
    """Refuse a file by its first bytes (up to 512 of them), if they tell what it is.

    Raises:
        CheckpointError: says what the file is and what to use instead.
    """
    what = _recognise(start, size)
    if what:
        raise CheckpointError(f"{path}: is {what}")


def _recognise(start: bytes, size: int) -> str | None:
    if size == 0:
        return "empty; its download did not start or failed: download it again"
    if not any(start):
        return (
            "all zeros at its start: space was kept for it but it is not downloaded yet. Wait, or "
            "download it again"
        )
    # A pickle starts with its protocol (2 to 5); a safetensors file could start with these two
    # bytes as well, as part of its length, and then has a brace after eight.
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        if start[8:9] != b"{":
            return PICKLE.format("as torch.save or pickle write it")
    safetensors = start[8:9] == b"{" and start[4:8] == b"\0\0\0\0"
    if not safetensors:
        for signature, what in SIGNATURES:
            if start.startswith(signature):
                return what
        if start[257:262] == b"ustar":
            return ARCHIVE.format("tar")
        text = start.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
        if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")):
            return DOWNLOAD.format("a web page saved in place of the file")
        if text.startswith((b"{", b"[")) and size < 64 << 20:
            return DOWNLOAD.format("JSON text, maybe an error message or an index")
        if 8 < size < 4096 and _is_text(start):
            return DOWNLOAD.format(f"a short text ({ascii(start[:40].decode())})")
    return None


def _is_text(start: bytes) -> bool:
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return all(char.isprintable() or char in "\r\n\t" for char in text)
