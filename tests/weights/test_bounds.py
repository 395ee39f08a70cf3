"""Work stays in proportion to the file: no claims without end, no pipes, no devices."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sparse import sparse_safetensors

from kontext_core.config import read_config
from kontext_core.errors import CheckpointError
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
        with pytest.raises(CheckpointError, match="no regular file") as error:
            read(path)
        assert str(path) in str(error.value)
