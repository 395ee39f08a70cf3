"""Finding and reading weights files: safetensors in, checked state dicts out."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..errors import CheckpointError, ModelNotFoundError

__all__ = ["EMBEDDED", "fill", "find", "read_safetensors", "strip_prefix"]

ASSETS = Path(__file__).resolve().parent.parent / "assets"
EMBEDDED = tuple(
    sorted(path.name for path in ASSETS.iterdir() if (path / "config.json").is_file())
    if ASSETS.is_dir()
    else ()
)
# Where all-in-one files and trainers put the transformer.
PREFIXES = ("model.diffusion_model.", "diffusion_model.", "model.", "net.")


def find(name: str | Path) -> Path:
    """Path of an embedded model's folder, or of a file or folder of the user's.

    Raises:
        ModelNotFoundError: nothing there; says which names exist.
    """
    if str(name) in EMBEDDED:
        return ASSETS / str(name)
    path = Path(name).expanduser()
    if not str(name) or not path.exists():
        raise ModelNotFoundError(
            f"there is no model {str(name)!r}; expected an embedded one "
            f"({', '.join(EMBEDDED) or 'none installed'}) or the path of a .safetensors file or "
            "model folder"
        )
    return path


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file.

    Raises:
        CheckpointError: not a readable safetensors file.
    """
    if path.suffix not in (".safetensors", ".sft"):
        raise CheckpointError(
            f"{path}: files ending in {path.suffix or 'nothing'!r} are not read; expected "
            ".safetensors. Pickles (.ckpt, .pt, .bin) can run code and are never opened: convert "
            "them first"
        )
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: not a readable safetensors file ({error}); download it again"
        ) from error


def strip_prefix(tensors: dict[str, Tensor], marker: str) -> dict[str, Tensor]:
    """Drop the prefix under which `marker`, a key of the bare network, stands; else unchanged."""
    for prefix in PREFIXES:
        if prefix + marker in tensors:
            return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
    return tensors


def fill(network: nn.Module, tensors: dict[str, Tensor], source: Path, dtype: torch.dtype) -> None:
    """Put `tensors` into a network built on the meta device, cast to `dtype`.

    Raises:
        CheckpointError: missing, surplus or misshapen tensors; the first few are named.
    """
    wanted = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    missing = sorted(set(wanted) - set(tensors))
    surplus = sorted(set(tensors) - set(wanted))
    wrong = [
        f"{key} is {tuple(tensors[key].shape)}, expected {shape}"
        for key, shape in wanted.items()
        if key in tensors and tuple(tensors[key].shape) != shape
    ]
    problems = [
        f"{len(items)} {what} ({', '.join(items[:3])}{', ...' if len(items) > 3 else ''})"
        for what, items in (("missing", missing), ("surplus", surplus), ("misshapen", wrong))
        if items
    ]
    if problems:
        raise CheckpointError(
            f"{source}: does not fit {type(network).__name__}: {'; '.join(problems)}. Expected a "
            "file with the published FLUX.1 key names"
        )
    network.load_state_dict({k: tensors[k].to(dtype) for k in wanted}, assign=True)
    network.requires_grad_(False).eval()
