"""README's install steps on a fresh host: copy, requirements, start, open a template, Run."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import embedded_host  # noqa: F401  makes `standalone` importable
import numpy as np
import pytest
from host_client import Client
from hosts import PACK_NAME, ROOT, Host, Server, all_hosts, running
from templates import RUNNABLE, TITLES, WORKFLOWS, needs_comfyui

from standalone.convert import info_of, to_prompt
from standalone.loader import load_pack
from standalone.plain import PLAIN_NODES

SAMPLES = sorted(path.name for path in (WORKFLOWS / "input").iterdir() if path.is_file())
# The template that README names.
FIRST = TITLES["one_node_edit"]


def hosts() -> list[Any]:
    return [
        pytest.param(host, id=host.name, marks=[pytest.mark.comfyui] if host.is_comfyui else [])
        for host in all_hosts()
        if isinstance(host, Host)
    ]


def copy_of_the_tree(folder: Path) -> Path:
    """What `git clone` brings once everything is committed."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout: what belongs to the pack cannot be told")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module", params=hosts())
def fresh(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A host with empty folders, and the pack installed by README; its input folder is one of the
    user's own, which holds a picture with the name of one of ours."""
    host: Host = request.param
    base: Path = tmp_path_factory.mktemp(f"fresh-{host.name}")
    pack = copy_of_the_tree(base / "clone" / PACK_NAME)
    # Nothing may come over the network: what is asked for must be there already.
    install = ["-m", "pip", "install", "--no-index", "-q", "-r", str(pack / "requirements.txt")]
    subprocess.run([str(host.python), *install], check=True, capture_output=True)
    pictures = base / "pictures of mine"
    pictures.mkdir()
    flags = ("--input-directory", str(pictures)) if host.is_comfyui else ()
    (pictures / SAMPLES[0]).write_bytes(b"mine")
    with running(host, base, packs=({PACK_NAME: pack},), flags=flags) as started:
        yield started


def test_the_first_run_works(fresh: Server) -> None:
    client = Client(fresh.url)
    [pack] = [name for name, found in client.get("/workflow_templates").items() if FIRST in found]
    workflow = client.get(f"/api/workflow_templates/{pack}/{FIRST}.json")
    prompt = to_prompt(workflow, info_of({**PLAIN_NODES, **load_pack(ROOT).nodes}))
    run = client.run(prompt, workflow=workflow)
    assert run.ok, run.error
    [saved] = [entry for entry in run.files() if entry["type"] == "output"]
    # A painted picture, not one of a single colour.
    assert np.asarray(client.view(saved).convert("RGB"), dtype=float).std() > 5


@pytest.mark.parametrize("name", RUNNABLE)
def test_every_template_finds_its_pictures(fresh: Server, name: str) -> None:
    """The host takes it for what it is told to run: no picture is missing in the choices."""
    if needs_comfyui(name) and not fresh.host.is_comfyui:
        pytest.skip("the embedded host lacks some of its nodes")
    client = Client(fresh.url)
    choices = client.get("/object_info/LoadImage")["LoadImage"]["input"]["required"]["image"]
    listed = choices[0] if isinstance(choices[0], list) else choices[1]["options"]
    workflow = client.get(f"/api/workflow_templates/{PACK_NAME}/{TITLES[name]}.json")
    loaders = [node for node in workflow["nodes"] if node["type"].startswith("LoadImage")]
    wanted = {node["widgets_values"][0] for node in loaders}
    assert wanted <= set(listed)


def test_a_picture_of_the_users_stays_as_it_is(fresh: Server) -> None:
    if not fresh.host.is_comfyui:
        pytest.skip("the embedded host finds the pack's pictures where they lie")
    mine = fresh.base / "pictures of mine"
    assert (mine / SAMPLES[0]).read_bytes() == b"mine"
    # ComfyUI makes a folder of its own there.
    assert sorted(path.name for path in mine.iterdir() if path.is_file()) == SAMPLES
    assert not list((fresh.base / "input").iterdir())
    for name in SAMPLES[1:]:
        assert (mine / name).read_bytes() == (WORKFLOWS / "input" / name).read_bytes()
