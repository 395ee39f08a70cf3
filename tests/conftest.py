"""What many test modules share: small random networks, made once. Treat them as read-only."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from fake_ray import FakeRay

    from kontext_core import AutoEncoder, Flux, Pipeline, TextEncoder


@pytest.fixture(scope="session")
def small_flux() -> Flux:
    """Random transformer, 24 pooled and 40 text channels, guidance embedding."""
    from small_models import make_flux

    return make_flux()


@pytest.fixture(scope="session")
def small_autoencoder() -> AutoEncoder:
    """Random autoencoder, 8 pixels per cell."""
    from small_models import make_autoencoder

    return make_autoencoder()


@pytest.fixture(scope="session")
def small_text_encoder() -> TextEncoder:
    """Random text encoder, pads to 12 and cuts at 48 tokens."""
    from small_models import make_text_encoder

    return make_text_encoder()


@pytest.fixture(scope="session")
def small_pipeline(
    small_flux: Flux, small_autoencoder: AutoEncoder, small_text_encoder: TextEncoder
) -> Pipeline:
    """The three of them, trained at 64x64, 48x80 and 80x48 pixels."""
    from kontext_core import Pipeline

    return Pipeline(small_flux, small_autoencoder, small_text_encoder)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same networks in a model folder on disk."""
    from small_models import write_model_folder

    return write_model_folder(tmp_path_factory.mktemp("model") / "small")


@pytest.fixture
def fake_ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    """A stand-in for Ray, which `import ray` gives."""
    from fake_ray import FakeRay

    from kontext_core.cluster import PATIENCE

    made = FakeRay()
    # Set by a cluster that starts here, and put back afterwards.
    monkeypatch.setenv(PATIENCE, "")
    monkeypatch.delenv(PATIENCE)
    monkeypatch.setitem(sys.modules, "ray", made)
    return made
