"""Folders of the hub's cache and half-downloaded folders: used where whole, else told what is missing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from files import flux_to_diffusers, published_flux, write_diffusers
from raw_files import refused
from small_encoders import make_clip, make_t5

from kontext_core import ModelNotFoundError, load_model
from kontext_core.text.load import load_flux_text_encoders
from kontext_core.weights.source import open_weights

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the cache holds no links on Windows")
REVISION = "0123abcd"


def cache(base: Path) -> Path:
    """A pipeline in the cache's form: files in blobs/, links to them in a snapshot."""
    folder = base / "models--owner--small-kontext"
    snapshot, blobs = folder / "snapshots" / REVISION, folder / "blobs"
    plain = base / "plain"
    write_diffusers(
        plain / "transformer", flux_to_diffusers(published_flux().state_dict()), shards=2
    )
    write_diffusers(plain / "text_encoder", make_clip().state_dict(), stem="model")
    write_diffusers(plain / "text_encoder_2", make_t5().state_dict(), shards=2, stem="model")
    (plain / "model_index.json").write_text("{}", encoding="utf-8")
    blobs.mkdir(parents=True)
    for number, file in enumerate(sorted(path for path in plain.rglob("*") if path.is_file())):
        link = snapshot / file.relative_to(plain)
        link.parent.mkdir(parents=True, exist_ok=True)
        file.rename(blobs / f"{number:04x}")
        link.symlink_to(os.path.relpath(blobs / f"{number:04x}", link.parent))
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(REVISION, encoding="utf-8")
    return folder


def test_a_whole_cache_is_used(tmp_path: Path) -> None:
    folder = cache(tmp_path)
    for path in (folder, folder / "snapshots", folder / "snapshots" / REVISION):
        assert load_model(path).params.depth == published_flux().params.depth
        assert load_flux_text_encoders(path).clip_l.params.width == 128
    # Another version beside it: the reference decides, and without one the user does.
    (folder / "snapshots" / "ffff").mkdir()
    assert open_weights(folder).entries
    (folder / "refs" / "main").unlink()
    assert "in 2 versions ('0123abcd', 'ffff')" in refused(folder)
    (folder / "snapshots" / "ffff").rmdir()
    assert open_weights(folder).entries


def test_what_a_cache_lacks_is_told(tmp_path: Path) -> None:
    folder = cache(tmp_path)
    snapshot = folder / "snapshots" / REVISION
    shard = next(snapshot.glob("transformer/*-00002-of-00002.safetensors"))
    shard.resolve().unlink()
    assert f"1 of 2 shards are missing ('{shard.name}')" in refused(folder)
    with pytest.raises(ModelNotFoundError, match=r"is a link to \.\./.*which is not there"):
        load_model(shard)
    with pytest.raises(ModelNotFoundError, match=r"is a link to \.\./.*which is not there"):
        open_weights(shard)
    for path in (snapshot / "text_encoder").iterdir():
        path.resolve().unlink()
    assert "'model.safetensors' lead to files that are not there" in refused(
        snapshot / "text_encoder"
    )
    for path in (snapshot / "transformer").iterdir():
        path.unlink()
    (snapshot / "transformer").rmdir()
    assert "a diffusers pipeline without transformer/; download that folder too" in refused(folder)
    (snapshot / "flux1.safetensors").write_bytes(b"")
    assert "or name one of the files in it ('flux1.safetensors')" in refused(folder)


def test_a_cache_without_a_snapshot(tmp_path: Path) -> None:
    folder = tmp_path / "models--black-forest-labs--FLUX.1-Kontext-dev"
    (folder / "blobs").mkdir(parents=True)
    (folder / "blobs" / "00ff.incomplete").write_bytes(b"x")
    message = refused(folder)
    assert "cache of black-forest-labs/FLUX.1-Kontext-dev, and nothing of it is complete" in message
    assert "1 downloads were not finished" in message


def test_half_a_folder(tmp_path: Path) -> None:
    """Parts without the pipeline's index are taken; a configuration without weights is told."""
    state = flux_to_diffusers(published_flux().state_dict())
    write_diffusers(tmp_path / "pipe" / "transformer", state)
    assert load_model(tmp_path / "pipe").params.depth == published_flux().params.depth
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "config.json").write_text("{}", encoding="utf-8")
    message = refused(tmp_path / "part")
    assert "half a folder: its configuration (config.json) is there, its weights are not" in message
