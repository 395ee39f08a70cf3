"""Templates that name published files run from load to saved picture, with files of those names and forms.

The networks are small and random; on ComfyUI tests/support/small_host lets its own loaders take them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_client import Client, Run
from hosts import PACK_NAME, ROOT, Host, Server, all_hosts, running
from native_host import native_hosts
from published_files import FILES, OLDER, write_published
from templates import NAMES, api_format, editor_format, needs_comfyui, needs_files

PACKS = ({PACK_NAME: ROOT, "small_host": ROOT / "tests/support/small_host"},)
WITH_FILES = [name for name in NAMES if needs_files(name)]
PAINTING = [name for name in WITH_FILES if name != "quantize"]


def hosts() -> list[Any]:
    [alone] = [host for host in all_hosts() if isinstance(host, Host) and not host.is_comfyui]
    return [pytest.param(alone, id=alone.name), *native_hosts()]


@pytest.fixture(scope="module", params=hosts())
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A host of its own: others of these tests count on these files not being there."""
    host: Host = request.param
    with running(host, tmp_path_factory.mktemp(f"published-{host.name}"), packs=PACKS) as started:
        yield started


@pytest.fixture
def models(server: Server, client: Client) -> Iterator[Path]:
    """An empty folder of models, and a host that remembers none."""
    folder = server.base / "models"
    forget(client)
    yield folder
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink()


def forget(client: Client) -> None:
    """Empties the host's caches. It does so between two runs, so one must come before the next
    that matters."""
    assert client.post("/free", {"unload_models": True, "free_memory": True})[0] == 200
    load = {"class_type": "LoadImage", "inputs": {"image": "kontext_star.png"}}
    show = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    assert client.run({"1": load, "2": show}).ok


def folders_of(name: str) -> dict[str, str]:
    """{file: folder below models/}, from what a template tells the editor."""
    return {
        entry["name"]: entry["directory"]
        for node in editor_format(name)["nodes"]
        for key in ("models", "downloads")
        for entry in node["properties"].get(key, [])
    }


def quick(prompt: dict[str, Any], steps: int = 2) -> dict[str, Any]:
    """The same with few steps and small pictures: widgets that a user may set."""
    changed = copy.deepcopy(prompt)
    small = {"steps": steps, "fit": "keep", "width": 192, "height": 192, "tile_size": 128}
    for node in changed.values():
        node["inputs"] |= {key: value for key, value in small.items() if key in node["inputs"]}
    return changed


def picture(client: Client, run: Run) -> np.ndarray:
    """The one saved picture."""
    assert run.ok, run.error
    [entry] = run.files()
    assert entry["type"] == "output"
    return np.asarray(client.view(entry).convert("RGB"), dtype=np.float32)


def skip_where_nodes_lack(name: str, server: Server) -> None:
    if needs_comfyui(name) and not server.host.is_comfyui:
        pytest.skip("the embedded host lacks some of its nodes")


def test_every_file_of_a_template_is_written_here() -> None:
    named = {file for name in WITH_FILES for file in folders_of(name)}
    assert named == set(FILES)
    # What a download puts elsewhere is moved by ComfyUI's two names for a folder only.
    assert {"diffusion_models", "text_encoders"} == set(OLDER)


@pytest.mark.parametrize("name", PAINTING)
def test_it_runs_from_load_to_saved_picture(
    server: Server, client: Client, models: Path, name: str
) -> None:
    """And again with every file in the older of ComfyUI's two folders for its kind."""
    skip_where_nodes_lack(name, server)
    prompt = quick(api_format(name))
    paths = write_published(models, folders_of(name))
    made = picture(client, client.run(prompt))
    side = 192 if name == "large_picture" else 256
    assert made.shape == (side, side, 3)
    # Random networks paint noise: a flat picture would be a run that lost itself.
    assert made.std() > 10

    for path in paths:
        older = models / OLDER.get(path.parent.name, path.parent.name) / path.name
        older.parent.mkdir(exist_ok=True)
        path.rename(older)
    forget(client)
    again = client.run(prompt)
    # Loaded once more, not remembered. (`forget` loads a picture itself.)
    kinds = {key: node["class_type"] for key, node in prompt.items()}
    loaders = {key for key, kind in kinds.items() if "Load" in kind and kind != "LoadImage"}
    assert loaders <= {str(data["node"]) for data in again.data("executing")}
    assert np.array_equal(picture(client, again), made)


def test_edit_with_the_hosts_own_model_clip_and_vae(
    server: Server, client: Client, models: Path
) -> None:
    """Kontext: Edit is the long-hand graph of the same loaders."""
    if not server.host.is_comfyui:
        pytest.skip("the embedded host has no such loaders")
    template = api_format("stitch_with_native_flux")
    write_published(models, folders_of("stitch_with_native_flux"))

    def node(class_type: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": class_type, "inputs": inputs}

    model, clip, vae = (
        [next(key for key, node in template.items() if node["class_type"] == kind), 0]
        for kind in ("UNETLoader", "DualCLIPLoader", "VAELoader")
    )
    words = "put the star of image 1 on a red sea"
    settings = {"seed": 5, "steps": 1, "guidance": 3.0}
    more = {"cfg": 1.0, "solver": "euler", "schedule": "kontext", "denoise": 1.0}
    placed = {"strength": 1.0, "start": 0.0, "end": 1.0, "fit": "trained size"}
    placed |= {"placement": "auto", "t": 1.0, "dh": 0.0, "dw": 0.0}
    prompt = {
        **{source[0]: template[source[0]] for source in (model, clip, vae)},
        "10": node("LoadImage", image="kontext_star.png"),
        "20": node(
            "KontextEdit", model=model, clip=clip, vae=vae, image1=["10", 0], prompt=words,
            width=64, height=64, **settings,
        ),
        "21": node("SaveImage", images=["20", 0], filename_prefix="edit"),
        # With a size asked for, Edit has the picture on the grid of the result.
        "30": node("KontextReference", image=["10", 0], vae=vae, target=["32", 0], **placed),
        "31": node("CLIPTextEncode", clip=clip, text=words),
        "32": node("EmptySD3LatentImage", width=64, height=64, batch_size=1),
        "33": node(
            "KontextStitch", conditioning=["31", 0], references=["30", 0], latent=["32", 0],
            method="offset",
        ),
        "34": node(
            "KontextSampler", model=model, positive=["33", 0], latent_image=["33", 1],
            **settings, **more,
        ),
        "35": node("VAEDecode", samples=["34", 0], vae=vae),
        "36": node("SaveImage", images=["35", 0], filename_prefix="long"),
    }  # fmt: skip
    run = client.run(prompt)
    assert run.ok, run.error
    edit, long = sorted(run.files(), key=lambda entry: entry["filename"])
    pixels = np.asarray(client.view(edit).convert("RGB"), dtype=np.float32)
    assert pixels.shape == (64, 64, 3) and pixels.std() > 10
    assert np.array_equal(pixels, np.asarray(client.view(long).convert("RGB")))


def test_quantize_makes_the_file_that_the_next_template_loads(
    server: Server, client: Client, models: Path
) -> None:
    write_published(models, folders_of("quantize"))
    run = client.run(api_format("quantize"))
    assert run.ok, run.error
    made = models / "diffusion_models/flux1-kontext-dev-Q4_K_M.gguf"
    assert made.is_file()
    # Never over a file that is there already, such as a downloaded one.
    forget(client)
    again = client.run(api_format("quantize"))
    assert "flux1-kontext-dev-Q4_K_M.gguf" in again.error and "overwrite" in again.error
    write_published(models, folders_of("gguf_edit"))
    assert picture(client, client.run(quick(api_format("gguf_edit")))).std() > 10
