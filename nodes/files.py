"""The user's model files: what the loaders list, and how a name in a workflow becomes a path.

A name is the path below one of the host's folders, with "/" on every system. Files of the loader's
own folder stand under that name alone; those of a folder that several loaders share have its label
before it ("checkpoints: flux/all-in-one.safetensors"), so names stay what they are when files come
and go. The host's own lists are not asked: they leave out .gguf files and folders of files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..kontext_core.errors import ModelNotFoundError
from ..kontext_core.model_files import LORAS, model_names
from .host import get_host

# Shown before the user's files; the part after the colon is the core's name of it.
EMBEDDED = ("embedded: tiny",)
EMBEDDED_LORAS = tuple(f"embedded: {name}" for name in LORAS)


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder of the host's, and what stands before the names of its files."""

    kind: str
    label: str = ""


_SHARED = (FolderKind("checkpoints", "checkpoints: "), FolderKind("diffusers", "diffusers: "))
FOLDERS: dict[str, tuple[FolderKind, ...]] = {
    "model": (FolderKind("diffusion_models"), *_SHARED),
    "vae": (FolderKind("vae"), *_SHARED),
    "t5": (FolderKind("text_encoders"), *_SHARED),
    "clip_l": (FolderKind("text_encoders"), *_SHARED),
    "lora": (FolderKind("loras"),),
}


def choices(role: str) -> list[str]:
    """Names of all files for a role ("model", "vae", "t5", "clip_l", "lora"), without embedded
    ones: the loader's own folder first, each sorted without regard to case."""
    found: list[str] = []
    for folder in FOLDERS[role]:
        names: dict[str, None] = {}
        for root in get_host().model_folders(folder.kind):
            found_there = model_names(root)
            if folder.kind == "diffusers":
                found_there = [(name, whole) for name, whole in found_there if whole]
            names.update(dict.fromkeys(name for name, _ in found_there))
        ordered = sorted(names, key=lambda name: (name.lower(), name))
        found += [folder.label + name for name in ordered]
    return found


def find(role: str, name: str) -> Path:
    """The file or folder behind a name.

    Raises:
        ModelNotFoundError: nothing there, or a name that leads out of the host's folders; the
            message says where to put such a file.
    """
    if role == "lora" and name in EMBEDDED_LORAS:
        return LORAS[name.partition(": ")[2]]
    folder = next(
        (p for p in FOLDERS[role] if p.label and name.startswith(p.label)), FOLDERS[role][0]
    )
    # Workflows saved on Windows carry its separators.
    below = PurePosixPath(name.removeprefix(folder.label).replace("\\", "/"))
    plain = below.parts and not below.is_absolute() and ".." not in below.parts
    if plain and "\0" not in name and ":" not in below.parts[0]:
        for root in get_host().model_folders(folder.kind):
            path = root / below
            if path.exists():
                return path
    folders = [str(root) for root in get_host().model_folders(folder.kind)]
    where = (
        f"put it into {' or '.join(folders)} and refresh the page, or choose another"
        if folders
        else "no model folder is known here: run inside ComfyUI, or take an embedded model"
    )
    raise ModelNotFoundError(
        f"there is no {folder.kind} file {name.removeprefix(folder.label)!r}; {where}"
    )


def source_of(role: str, name: str) -> str:
    """The name or path that the core's loaders take.

    Raises:
        ModelNotFoundError: neither embedded nor one of the user's files.
    """
    if name in EMBEDDED:
        return name.partition(": ")[2]
    if role != "lora" and (not name or name.startswith("embedded:")):
        raise ModelNotFoundError(
            f"there is no model {name!r}; embedded in this version: {', '.join(EMBEDDED)}"
        )
    return str(find(role, name))


def complaint(role: str, name: str | None) -> str | None:
    """What is wrong with a name before a run; None when nothing is, or when it comes by link."""
    if name is None:
        return None
    try:
        source_of(role, name)
    except ModelNotFoundError as error:
        return str(error)
    return None


def stamp(role: str, name: str | None) -> str:
    """Changes when the file behind a name does, or one in the folder behind it, so that hosts load
    it again."""
    if name is None or name in EMBEDDED:
        return ""
    try:
        path = find(role, name)
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        states = [file.stat() for file in files]
    except (ModelNotFoundError, OSError):
        return "missing"
    return f"{max(s.st_mtime_ns for s in states)} {sum(s.st_size for s in states)}"


def own_folder(role: str) -> Path:
    """Where new files of a role go: of the host's folders the one named as ComfyUI names it today.

    Raises:
        ModelNotFoundError: the host has none.
    """
    kind = FOLDERS[role][0].kind
    roots = get_host().model_folders(kind)
    if not roots:
        raise ModelNotFoundError(f"there is no {kind} folder here to write to: run inside ComfyUI")
    return next((root for root in roots if root.name == kind), roots[0])
