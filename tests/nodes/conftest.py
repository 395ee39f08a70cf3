"""The pack, loaded as a host does: from a folder of any name, its nodes run on a recording host."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import embedded_host  # noqa: F401  makes `standalone` importable
import pytest
import torch
from torch import Tensor

from standalone.loader import load_pack

ROOT = Path(__file__).resolve().parents[2]
EMBEDDED = "embedded: tiny"


class Interrupted(Exception):
    """Stands for the host's own exception."""


@dataclass
class RecordingHost:
    """A host on the CPU that writes down what the nodes tell it, and can interrupt."""

    models: Path | None = None
    inputs: Path | None = None
    outputs: Path | None = None
    steps: list[tuple[int, int]] = field(default_factory=list)
    previews: list[Any] = field(default_factory=list)
    told: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    interrupt_after: int | None = None

    def device(self) -> torch.device:
        return torch.device("cpu")

    def model_folders(self, kind: str) -> list[Path]:
        return [] if self.models is None else [self.models / kind]

    def input_folders(self) -> list[Path]:
        return [] if self.inputs is None else [self.inputs]

    def output_folder(self) -> Path | None:
        return self.outputs

    def progress(self, total: int) -> Any:
        host = self

        class Bar:
            def update(self, step: int, preview: Any = None) -> None:
                host.steps.append((step, total))
                host.previews.append(preview)

        return Bar()

    def is_interrupted(self) -> bool:
        return self.interrupt_after is not None and len(self.steps) >= self.interrupt_after

    def check_interrupt(self) -> None:
        if self.is_interrupted():
            raise Interrupted

    def tell(self, event: str, data: dict[str, Any]) -> None:
        self.told.append((event, data))


@dataclass(frozen=True)
class LoadedPack:
    """The pack's node classes, and its modules by their path inside the pack."""

    key: str
    nodes: dict[str, Any]

    def module(self, path: str) -> ModuleType:
        """For example module("kontext_core.errors"): the pack's own copy of it."""
        return importlib.import_module(f"{self.key}.{path}")

    def error(self, name: str) -> type[Exception]:
        return getattr(self.module("kontext_core.errors"), name)

    def run(self, node_id: str, **inputs: Any) -> Any:
        """One node with its widgets' defaults: what it returns."""
        types = self.nodes[node_id].INPUT_TYPES()
        widgets = {
            name: spec[1]["default"]
            for kind in ("required", "optional")
            for name, spec in types.get(kind, {}).items()
            if len(spec) > 1 and "default" in spec[1]
        }
        return self.nodes[node_id].execute(**{**widgets, **inputs})


@pytest.fixture(scope="session")
def pack(tmp_path_factory: pytest.TempPathFactory) -> LoadedPack:
    """The pack in a folder whose name is no Python name."""
    folder = tmp_path_factory.mktemp("custom_nodes") / "Kontext-Studio.v1"
    folder.symlink_to(ROOT, target_is_directory=True)
    loaded = load_pack(folder)
    return LoadedPack(loaded.module.__name__, loaded.nodes)


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder called `tiny` with small random networks and a preview."""
    from small_models import write_model_folder

    folder = write_model_folder(tmp_path_factory.mktemp("assets") / "tiny")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    generator = torch.Generator().manual_seed(5)
    config["latent_format"]["rgb_factors"] = torch.randn(16, 3, generator=generator).tolist()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def host(
    pack: LoadedPack, small_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RecordingHost]:
    """Every test gets a fresh host, and the small networks as the embedded model."""
    files = pack.module("kontext_core.weights.files")
    monkeypatch.setattr(files, "EMBEDDED", ("tiny",))
    monkeypatch.setattr(files, "ASSETS", small_folder.parent)
    made = RecordingHost()
    pack.module("nodes.host").set_host(made)
    yield made
    pack.module("nodes.host").set_host(None)


@pytest.fixture
def interrupted() -> type[Exception]:
    """What the host raises when it interrupts."""
    return Interrupted


@pytest.fixture
def model(pack: LoadedPack) -> Any:
    return pack.run("KontextLoadModel")[0]


@pytest.fixture
def clip(pack: LoadedPack) -> Any:
    return pack.run("KontextLoadTextEncoders")[0]


@pytest.fixture
def vae(pack: LoadedPack) -> Any:
    return pack.run("KontextLoadVAE")[0]


@pytest.fixture
def encode(clip: Any) -> Callable[[str], Any]:
    """CLIP Text Encode, as both hosts have it."""
    return lambda text: clip.encode_from_tokens_scheduled(clip.tokenize(text))


def picture(seed: int, height: int = 64, width: int = 64, batch: int = 1) -> Tensor:
    """Smooth random colours, [batch, height, width, 3] in 0..1."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, 4, 4, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return fine.movedim(1, -1).contiguous()


@pytest.fixture
def image() -> Callable[..., Tensor]:
    return picture
