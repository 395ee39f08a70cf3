"""Finding models by name: embedded ones, the user's files and folders."""

from __future__ import annotations

from pathlib import Path

from ..errors import ModelNotFoundError
from .hub import no_file

ASSETS = Path(__file__).resolve().parent.parent / "assets"
EMBEDDED = tuple(
    sorted(path.name for path in ASSETS.iterdir() if (path / "config.json").is_file())
    if ASSETS.is_dir()
    else ()
)
# What a folder of this package's own form holds beside `config.json`.
PARTS = ("transformer", "autoencoder", "text_encoder")
# In any form that is read; the first that is there is taken.
FORMS = (".safetensors", ".safetensors.index.json", ".sft", ".gguf")


def find(name: str | Path) -> Path:
    """Path of an embedded model's folder, or of a file or folder of the user's.

    Raises:
        ModelNotFoundError: nothing there; says which names exist.
    """
    if str(name) in EMBEDDED:
        return ASSETS / str(name)
    path = Path(name).expanduser()
    if path.is_symlink() and not path.exists():
        raise ModelNotFoundError(no_file(path))
    if not str(name) or not path.exists():
        raise ModelNotFoundError(
            f"there is no model {str(name)!r}; expected an embedded one "
            f"({', '.join(EMBEDDED) or 'none installed'}) or the path of a .safetensors or .gguf "
            "file, a diffusers folder or a model folder"
        )
    return path


def is_model_folder(path: Path) -> bool:
    """Whether this is a folder as embedded models are, one file a network, not diffusers'."""
    return (
        path.is_dir()
        and not (path / "model_index.json").is_file()
        and any(part_of(path, name) for name in PARTS)
    )


def part_of(folder: Path, network: str) -> Path | None:
    """The file of a network ("transformer", "autoencoder", "text_encoder") in a model folder."""
    files = (folder / f"{network}{form}" for form in FORMS)
    return next((file for file in files if file.is_file()), None)
