"""Where pictures, models and settings lie, and how a name in a workflow becomes a safe path."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path, PurePath

from kontext_core.errors import InputError, ModelNotFoundError
from kontext_core.model_files import MODEL_SUFFIXES, model_names
from kontext_core.partial import clear_below

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
# Bytes of a file's name; file systems take 255.
MAX_NAME = 255
# ComfyUI's folders per kind; the second name of each pair is the older one.
MODEL_FOLDERS = {
    "diffusion_models": ("diffusion_models", "unet"),
    "text_encoders": ("text_encoders", "clip"),
    "vae": ("vae",),
    "loras": ("loras",),
}
_ANNOTATION = re.compile(r"^(?P<name>.*?)\s*\[(?P<kind>input|output|temp)\]$")


def inside(folder: Path, name: str) -> Path:
    """The path of `name` below `folder`.

    Raises:
        InputError: the name leads out of the folder, by `..`, an absolute path or a link, or no
            file system could hold it.
    """
    base = folder.resolve()
    path = _checked(base, name).resolve()
    if not path.is_relative_to(base):
        raise InputError(f"the path {name!r} leads out of its folder; use a name below it")
    return path


def _checked(base: Path, name: str) -> Path:
    try:
        if any(len(os.fsencode(part)) > MAX_NAME for part in name.split("/")):
            raise ValueError("a part of it is too long")
        if any(ord(letter) < 32 for letter in name):
            raise ValueError("it has control characters")
        path = base / name
        path.resolve().is_file()
    # Also NUL, halves of surrogate pairs, paths as a whole too long, links in a circle.
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"the name {name[:80]!r} can't be a file's ({error}); use a shorter, plain one"
        ) from error
    return path


def _below(folder: Path, name: str) -> Path:
    """As `inside`, told from the name alone: links may lead anywhere.

    Raises:
        InputError: as `inside`, for `..` and absolute paths.
    """
    parts = PurePath(name.replace("\\", "/"))
    if parts.is_absolute() or parts.anchor or ".." in parts.parts:
        raise InputError(f"the path {name!r} leads out of its folder; use a name below it")
    return _checked(folder, name)


@dataclass(frozen=True)
class Folders:
    """The host's folders. `samples` holds the pictures that ship with the pack, read-only."""

    input: Path
    output: Path
    temp: Path
    user: Path
    models: Path
    samples: Path | None = None

    @classmethod
    def below(cls, base: Path, samples: Path | None = None) -> Folders:
        """All folders as ComfyUI lays them out below one base."""
        names = ("input", "output", "temp", "user", "models")
        return cls(*(base / name for name in names), samples=samples)

    def by_kind(self, kind: str) -> Path:
        """The folder named 'input', 'output' or 'temp' in requests and file entries.

        Raises:
            InputError: another name.
        """
        if kind not in ("input", "output", "temp"):
            raise InputError(f"unknown folder {kind!r}; expected input, output or temp")
        return getattr(self, kind)

    def clear_unfinished(self) -> None:
        """Remove what killed writers left half-written in any of the folders."""
        for folder in (self.input, self.output, self.temp, self.user, self.models):
            clear_below(folder)

    def find(self, name: str, kind: str = "input", subfolder: str = "") -> Path | None:
        """The file behind a name as 'a.png', 'sub/a.png' or 'a.png [output]'; None if not there.

        In the input folder, pictures that ship with the pack are found as well, after the user's.

        Raises:
            InputError: the name leads out of the folder.
        """
        annotated = _ANNOTATION.match(name)
        if annotated:
            name, kind = annotated["name"], annotated["kind"]
        places = [self.by_kind(kind)]
        if kind == "input" and self.samples is not None:
            places.append(self.samples)
        for place in places:
            path = inside(inside(place, subfolder), name)
            if path.is_file():
                return path
        return None

    def pictures(self) -> list[str]:
        """Names of all input pictures, the user's and the shipped ones, sorted: those that `find`
        opens, so no links that lead out of their folder or nowhere."""
        names: set[str] = set()
        for place in (self.input, self.samples):
            if place is None or not place.is_dir():
                continue
            base = place.resolve()
            names.update(
                path.name
                for path in place.iterdir()
                if path.suffix.lower() in PICTURE_SUFFIXES
                and path.is_file()
                and (not path.is_symlink() or path.resolve().is_relative_to(base))
            )
        return sorted(names)

    def model_folders(self, kind: str) -> list[Path]:
        """Folders of models of a kind, by ComfyUI's names; they may be missing."""
        return [self.models / folder for folder in MODEL_FOLDERS.get(kind, (kind,))]

    def model_files(self, kind: str) -> list[str]:
        """Model files of a kind ('diffusion_models', 'text_encoders', 'vae', 'loras'), sorted."""
        return sorted(
            {
                name
                for base in self.model_folders(kind)
                for name, is_folder in model_names(base)
                if not is_folder
            }
        )

    def model_path(self, kind: str, name: str) -> Path:
        """The path of a model file. A link that lies in the folder counts as the file it leads to:
        people keep their models elsewhere, and no request can make one.

        Raises:
            InputError: the name leads out of the kind's folders.
            ModelNotFoundError: no such kind, or no regular file of the name.
        """
        if kind not in MODEL_FOLDERS:
            raise ModelNotFoundError(
                f"there is no kind of model {kind!r}; expected one of {', '.join(MODEL_FOLDERS)}"
            )
        bases = self.model_folders(kind)
        for base in bases:
            path = _below(base, name)
            if path.is_file() and path.suffix.lower() in MODEL_SUFFIXES:
                return path
        raise ModelNotFoundError(
            f"no model {name!r} in {' or '.join(str(base) for base in bases)}; "
            "put the file there or choose another"
        )

    def next_save(self, prefix: str, kind: str, width: int, height: int) -> tuple[Path, str, int]:
        """Where the next picture of a prefix goes: folder (made), file name's start, counter.

        The prefix may hold a subfolder and %width%, %height%, %year%, %month%, %day%, %hour%,
        %minute%, %second%. Files are numbered `<start>_00001_.png` as in ComfyUI.

        Raises:
            InputError: the prefix leads out of the folder, or its folder can't be made.
        """
        target = self.place_of(prefix, kind, width, height)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"can't make the folder {target.parent} ({error}); save elsewhere"
            ) from error
        numbered = re.compile(re.escape(target.name) + r"_(\d+)_?\b.*", re.IGNORECASE)
        used = [int(m[1]) for path in target.parent.iterdir() if (m := numbered.match(path.name))]
        return target.parent, target.name, max(used, default=0) + 1

    def place_of(self, prefix: str, kind: str, width: int = 0, height: int = 0) -> Path:
        """Folder and start of the names that pictures of a prefix get; nothing is made.

        Raises:
            InputError: the prefix leads out of the folder.
        """
        now = time.localtime()
        values = {
            "width": str(width),
            "height": str(height),
            "year": str(now.tm_year),
            "month": f"{now.tm_mon:02}",
            "day": f"{now.tm_mday:02}",
            "hour": f"{now.tm_hour:02}",
            "minute": f"{now.tm_min:02}",
            "second": f"{now.tm_sec:02}",
        }
        for key, value in values.items():
            prefix = prefix.replace(f"%{key}%", value)
        return inside(self.by_kind(kind), prefix or "_")
