"""Which files the loaders list, and how a name in a workflow finds its file again."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


@pytest.fixture
def models(host: Any, tmp_path: Path) -> Path:
    """The host's folders of models, one of each kind, all empty."""
    for kind in ("diffusion_models", "text_encoders", "vae", "loras", "checkpoints", "diffusers"):
        (tmp_path / kind).mkdir()
    host.models = tmp_path
    return tmp_path


@pytest.fixture
def files(pack: Any) -> Any:
    return pack.module("nodes.files")


def test_gguf_and_safetensors_are_listed_and_pickles_are_not(models: Path, files: Any) -> None:
    touch(models / "diffusion_models", "b.gguf", "sub/A.safetensors", "c.SFT", "d.ckpt", "e.pt")
    touch(models / "diffusion_models", ".cache/huggingface/f.safetensors", "readme.md")
    assert files.choices("model") == ["b.gguf", "c.SFT", "sub/A.safetensors"]
    assert files.find("model", "sub/A.safetensors").is_file()


def test_only_regular_files_are_listed(models: Path, files: Any) -> None:
    folder = models / "diffusion_models"
    touch(folder, "a.safetensors")
    os.mkfifo(folder / "pipe.safetensors")
    (folder / "gone.safetensors").symlink_to(folder / "nothing")
    (folder / "linked.gguf").symlink_to(folder / "a.safetensors")
    assert stat.S_ISFIFO((folder / "pipe.safetensors").stat().st_mode)
    assert files.choices("model") == ["a.safetensors", "linked.gguf"]


def test_shared_folders_have_their_label_before_the_name(models: Path, files: Any) -> None:
    touch(models / "checkpoints", "flux/all.safetensors")
    touch(models / "vae", "ae.safetensors")
    assert files.choices("vae") == ["ae.safetensors", "checkpoints: flux/all.safetensors"]
    assert files.choices("lora") == []
    found = files.find("vae", "checkpoints: flux/all.safetensors")
    assert found == models / "checkpoints/flux/all.safetensors"


def test_a_whole_diffusers_folder_is_one_name_for_every_loader(models: Path, files: Any) -> None:
    whole = "kontext/model_index.json"
    parts = [f"kontext/{part}/config.json" for part in ("transformer", "vae", "text_encoder")]
    touch(models / "diffusers", whole, *parts, "kontext/flux1-kontext-dev.safetensors")
    shard = "kontext/transformer/diffusion_pytorch_model-00001-of-00003.safetensors"
    touch(models / "diffusers", shard, "kontext/vae/diffusion_pytorch_model.safetensors")
    for role in ("model", "vae", "t5", "clip_l"):
        assert files.choices(role) == ["diffusers: kontext"]
        assert files.find(role, "diffusers: kontext") == models / "diffusers/kontext"


def test_folders_of_weights_stand_beside_files(models: Path, files: Any) -> None:
    folder = models / "diffusion_models"
    touch(folder, "part/config.json", "part/diffusion_pytorch_model-00001-of-00002.safetensors")
    touch(folder, "part/diffusion_pytorch_model-00002-of-00002.safetensors", "part/other.gguf")
    touch(
        folder, "whole/model_index.json", "whole/transformer/x.safetensors", "whole/y.safetensors"
    )
    assert files.choices("model") == ["part", "part/other.gguf", "whole", "whole/y.safetensors"]
    assert files.find("model", "part") == folder / "part"
    assert files.find("model", "whole") == folder / "whole"
    # A workflow that named a file inside before the folder was offered still finds it.
    assert files.find("model", "whole/transformer/x.safetensors").is_file()


def test_a_config_in_the_folder_of_all_models_does_not_make_it_a_model(
    models: Path, files: Any
) -> None:
    touch(models / "vae", "config.json", "model_index.json", "model.safetensors", "sub/a.sft")
    assert files.choices("vae") == ["model.safetensors", "sub/a.sft"]


def test_new_files_appear_without_a_restart(models: Path, files: Any) -> None:
    touch(models / "loras", "sub/a.safetensors")
    assert files.choices("lora") == ["sub/a.safetensors"]
    touch(models / "loras", "sub/b.safetensors")
    assert files.choices("lora") == ["sub/a.safetensors", "sub/b.safetensors"]
    (models / "loras/sub/a.safetensors").unlink()
    assert files.choices("lora") == ["sub/b.safetensors"]


def test_folders_that_rest_are_not_walked_again(
    pack: Any, models: Path, files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = models / "loras"
    touch(root, "sub/a.safetensors")
    for folder in (root, root / "sub"):
        os.utime(folder, (1e9, 1e9))
    assert files.choices("lora") == ["sub/a.safetensors"]
    walks = []
    walker = pack.module("kontext_core.model_files")
    walk = walker._walk
    monkeypatch.setattr(walker, "_walk", lambda *a: (walks.append(a[0]), walk(*a)))
    files.choices("lora")
    assert walks == []
    touch(root, "sub/b.safetensors")
    assert files.choices("lora") == ["sub/a.safetensors", "sub/b.safetensors"]
    assert walks


def test_links_that_lead_in_circles_end(models: Path, files: Any) -> None:
    touch(models / "loras", "sub/a.safetensors")
    (models / "loras/sub/up").symlink_to(models / "loras", target_is_directory=True)
    assert files.choices("lora") == ["sub/a.safetensors"]


def test_what_is_listed_through_links_is_found(
    models: Path, files: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Models on another disk, as people link them."""
    elsewhere = tmp_path_factory.mktemp("disk")
    touch(elsewhere, "big.safetensors", "more/style.gguf")
    (models / "loras/linked.safetensors").symlink_to(elsewhere / "big.safetensors")
    (models / "loras/folder").symlink_to(elsewhere / "more", target_is_directory=True)
    assert files.choices("lora") == ["folder/style.gguf", "linked.safetensors"]
    for name in files.choices("lora"):
        assert files.find("lora", name).read_bytes() == b"x"


def test_names_of_windows_workflows_find_their_file(models: Path, files: Any) -> None:
    touch(models / "loras", "sub/a.safetensors")
    assert files.find("lora", "sub\\a.safetensors") == models / "loras/sub/a.safetensors"


@pytest.mark.parametrize(
    "name",
    ["../vae/secret.safetensors", "/etc/passwd", "..", "", "C:/x.sft", "a\0b", "checkpoints: "],
)
def test_names_that_lead_out_of_the_folder_find_nothing(
    pack: Any, models: Path, files: Any, name: str
) -> None:
    touch(models / "vae", "secret.safetensors")
    with pytest.raises(pack.error("ModelNotFoundError")):
        files.find("model", name)


def test_a_missing_file_names_the_folder_to_put_it_in(pack: Any, models: Path, files: Any) -> None:
    folder = str(models / "diffusion_models")
    with pytest.raises(pack.error("ModelNotFoundError"), match="put it into") as caught:
        files.find("model", "flux.gguf")
    assert folder in str(caught.value)
    assert files.complaint("model", "flux.gguf") == str(caught.value)
    assert str(models / "checkpoints") in str(
        files.complaint("model", "checkpoints: x.safetensors")
    )
    # Not known before the run: comes by link.
    assert files.complaint("model", None) is None
    assert files.complaint("model", files.EMBEDDED[0]) is None


def test_embedded_loras_stand_behind_the_users(models: Path, files: Any) -> None:
    """They are not the user's files, so no name of those can hide or change them."""
    name = "embedded: tiny-turbo-2-steps"
    assert name in files.EMBEDDED_LORAS
    assert files.find("lora", name).is_file() and files.complaint("lora", name) is None
    assert files.choices("lora") == [] and files.stamp("lora", name) != "missing"
    assert "put it into" in str(files.complaint("lora", "embedded: tiny-turbo-9-steps"))


def test_the_stamp_changes_with_the_file(models: Path, files: Any) -> None:
    touch(models / "loras", "a.safetensors")
    before = files.stamp("lora", "a.safetensors")
    assert files.stamp("lora", "a.safetensors") == before
    (models / "loras/a.safetensors").write_bytes(b"other")
    assert files.stamp("lora", "a.safetensors") != before
    assert files.stamp("lora", "b.safetensors") == "missing"
    touch(models / "diffusers", "a/model_index.json", "a/transformer/x.safetensors")
    before = files.stamp("model", "diffusers: a")
    (models / "diffusers/a/transformer/x.safetensors").write_bytes(b"other")
    assert files.stamp("model", "diffusers: a") != before
    assert files.stamp("model", files.EMBEDDED[0]) == files.stamp("model", None) == ""


def test_new_files_go_where_comfyui_puts_them_today(
    pack: Any, files: Any, models: Path, monkeypatch: pytest.MonkeyPatch, host: Any
) -> None:
    both = [models / "unet", models / "diffusion_models"]
    monkeypatch.setattr(host, "model_folders", lambda kind: both)
    assert files.own_folder("model") == models / "diffusion_models"
    monkeypatch.setattr(host, "model_folders", lambda kind: both[:1])
    assert files.own_folder("model") == models / "unet"
    monkeypatch.setattr(host, "model_folders", lambda kind: [])
    with pytest.raises(pack.error("ModelNotFoundError")):
        files.own_folder("model")
