"""Work stays in proportion to the file: no claims without end, no pipes, no devices."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sparse import sparse_safetensors

from kontext_core.config import read_config
from kontext_core.errors import CheckpointError, ModelNotFoundError
from kontext_core.weights.detect import detect
from kontext_core.weights.shards import parse_index
from kontext_core.weights.source import open_weights


def test_a_file_that_claims_many_networks(tmp_path: Path) -> None:
    names = [f"p{i}.embeddings.token_embedding.weight" for i in range(500)]
    names += [f"p{i}.encoder.layers.0.mlp.fc1.weight" for i in range(500)]
    path = tmp_path / "many.safetensors"
    file = open_weights(sparse_safetensors(path, {name: ("BF16", (4, 4)) for name in names}))
    with pytest.raises(CheckpointError, match="names 500 networks; expected at most 16"):
        detect(file)


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices among files")
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_only_regular_files_are_read(kind: str, tmp_path: Path) -> None:
    config, index = tmp_path / "config.json", tmp_path / "model.safetensors.index.json"
    for path in (config, index):
        if kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to("/dev/zero")
    for read, path in ((read_config, config), (parse_index, index), (open_weights, index)):
        with pytest.raises(CheckpointError, match="not a regular file") as error:
            read(path)
        assert str(path) in str(error.value)


def test_headers_up_to_the_librarys_own_limit(tmp_path: Path) -> None:
    """Training logs make them large; what there is to parse is bounded apart."""
    path = tmp_path / "log.safetensors"
    sparse_safetensors(path, {"a": ("BF16", (4, 4))}, {"log": "[1,2] " * 7_000_000})
    assert list(open_weights(path).entries) == ["a"]


def test_names_of_files_are_printed_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="'.*/Größe 大.safetensors'"):
        open_weights(tmp_path / "Größe 大.safetensors")
    with pytest.raises(ModelNotFoundError, match=r"\\x1b"):
        open_weights(tmp_path / "red\x1b[31m.safetensors")
