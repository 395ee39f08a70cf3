"""From what the user names to the files that hold the weights: one file, shards, or a folder."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ..errors import CheckpointError
from ..small_files import read_small_text
from .entry import shown, shown_list
from .files import is_model_folder, part_of
from .hub import missing_links, snapshot_of

INDEX = ".safetensors.index.json"
MAX_INDEX = 32 << 20
SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.[a-z]+)")
SUFFIXES = (".safetensors", ".sft", ".gguf")
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
# Where a diffusers pipeline folder keeps each network of FLUX.1.
PARTS = {
    "transformer": "transformer",
    "autoencoder": "vae",
    "t5": "text_encoder_2",
    "clip_l": "text_encoder",
}
# In a folder of this package's own form.
OWN_PARTS = {
    "transformer": "transformer",
    "autoencoder": "autoencoder",
    "t5": "text_encoder",
    "clip_l": "text_encoder",
}
# Names that diffusers and transformers give to whole networks, best first.
USUAL = ("diffusion_pytorch_model", "model")


def files_of(path: Path, role: str | None = None) -> tuple[Path, ...]:
    """The weights files behind a folder, an index or one shard of several.

    Args:
        path: an existing folder or file.
        role: which part of a diffusers pipeline folder is meant; the transformer by default.

    Raises:
        CheckpointError: shards are missing, or a folder holds no weights or several sets.
    """
    if path.is_dir():
        return _of_folder(path, role)
    if path.name.endswith(".index.json"):
        return parse_index(path)
    if match := SHARD.fullmatch(path.name):
        index = path.with_name(match["stem"] + match["suffix"] + ".index.json")
        return parse_index(index) if index.is_file() else _siblings(path, match)
    return (path,)


def parse_index(index: Path) -> tuple[Path, ...]:
    """The shards that a `*.safetensors.index.json` names, all of them present.

    Raises:
        CheckpointError: not an index, or a shard is missing.
    """
    try:
        data = json.loads(read_small_text(index, MAX_INDEX))
    except (OSError, ValueError, RecursionError) as error:
        reason = shown(error, 160)[1:-1]
        raise CheckpointError(
            f"{index}: can't be read as an index of shards ({reason}); download it again"
        ) from None
    names = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(names, dict) or not names:
        raise CheckpointError(f"{index}: has no weight_map; expected tensor names and shard files")
    shards = sorted({str(name) for name in names.values()})
    for name in shards:
        if Path(name).name != name or "\\" in name or "\0" in name:
            raise CheckpointError(
                f"{index}: shard {shown(name)} does not lie beside it; expected a plain file name"
            )
        if name.endswith(PICKLES):
            raise CheckpointError(
                f"{index}: lists pickles ({shown(name)}), which can run code and are never opened; "
                "download the .safetensors shards instead"
            )
    return _present([index.parent / name for name in shards], index)


def _siblings(path: Path, match: re.Match[str]) -> tuple[Path, ...]:
    count = int(match["count"])
    if not 0 < count <= 1000:
        return (path,)
    stem, suffix = match["stem"], match["suffix"]
    names = [f"{stem}-{n:05d}-of-{match['count']}{suffix}" for n in range(1, count + 1)]
    return _present([path.with_name(name) for name in names], path)


def _present(files: list[Path], source: Path) -> tuple[Path, ...]:
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise CheckpointError(
            f"{source}: {len(missing)} of {len(files)} shards are missing ({shown_list(missing)}); "
            "download them into the same folder"
        )
    return tuple(files)


def _of_folder(folder: Path, role: str | None) -> tuple[Path, ...]:
    folder = snapshot_of(folder)
    if is_model_folder(folder):
        network = OWN_PARTS.get(role or "transformer", "transformer")
        if (own := part_of(folder, network)) is None:
            raise CheckpointError(
                f"{folder / network}.safetensors: missing, so this model folder has no {network}; "
                "add the file or name another model"
            )
        return files_of(own)
    inner = folder / PARTS.get(role or "transformer", "transformer")
    whole = (folder / "model_index.json").is_file()
    if inner.is_dir() and (whole or not (folder / "config.json").is_file()):
        return _of_folder(inner, role)
    if whole:
        raise CheckpointError(
            f"{folder}: a diffusers pipeline without {inner.name}/; download that folder too"
            + _single_files(folder)
        )
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    except OSError as error:
        raise CheckpointError(f"{folder}: can't be listed ({error.strerror})") from error
    for stem in USUAL:
        for name in (f"{stem}{INDEX}", f"{stem}.safetensors"):
            if name in names:
                return files_of(folder / name)
    sets: dict[str, Path] = {}
    for name in names:
        if name.endswith(INDEX):
            sets[name.removesuffix(INDEX)] = folder / name
        elif name.endswith(SUFFIXES):
            match = SHARD.fullmatch(name)
            sets.setdefault(match["stem"] if match else Path(name).stem, folder / name)
    if len(sets) == 1:
        return files_of(next(iter(sets.values())))
    if not sets:
        pickles = [name for name in names if name.endswith(PICKLES)]
        if pickles:
            raise CheckpointError(
                f"{folder}: holds only pickles ({shown_list(pickles)}), which can run code and are "
                "never opened; download the .safetensors files instead"
            )
        if lost := missing_links(folder):
            raise CheckpointError(
                f"{folder}: {shown_list(lost)} lead to files that are not there: a download that was "
                "stopped, or a cache that was copied without its blobs/. Download it again"
            )
        if "config.json" in names:
            raise CheckpointError(
                f"{folder}: half a folder: its configuration (config.json) is there, its weights are "
                "not. Download diffusion_pytorch_model.safetensors or model.safetensors, or all of "
                "their shards, to the same place"
            )
        raise CheckpointError(
            f"{folder}: no weights in this folder; expected a .safetensors or .gguf file, or a "
            "diffusers folder with diffusion_pytorch_model.safetensors or its shards"
        )
    raise CheckpointError(
        f"{folder}: several weights files ({shown_list(sorted(sets), 5)}); name the one to use"
    )


def _single_files(folder: Path) -> str:
    """Half a sentence about the weights that lie in a pipeline's folder beside its parts."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(SUFFIXES))
    return f", or name one of the files in it ({shown_list(names)})" if names else ""
