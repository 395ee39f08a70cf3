"""The archive that the Comfy registry gets: checked by its own tool, whole, and nothing too many."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hosts import ROOT
from PIL import Image

COMFY = Path(sys.executable).with_name("comfy")
NODE_IDS = set(json.loads((ROOT / "tests/nodes/contract.json").read_text(encoding="utf-8")))
# What a ComfyUI or a person reads; the command line `python -m kontext_core` comes along.
FOLDERS = {"kontext_core", "nodes", "web", "workflows", "locales", "subgraphs"}
FILES = {
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "__init__.py",
    "pyproject.toml",
    "requirements.txt",
}


def tracked_and_new(root: Path) -> list[str]:
    """What the next commit could hold: no ignored files, no build output."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout: what belongs to the pack cannot be told")
    return sorted(name for name in listed.stdout.split("\0") if name and (root / name).is_file())


def comfy(folder: Path, home: Path, *arguments: str) -> str:
    """What comfy-cli says; it must succeed."""
    if not COMFY.is_file():
        pytest.skip(f"no comfy-cli beside {sys.executable}")
    env = os.environ | {"HOME": str(home), "DO_NOT_TRACK": "1", "NO_COLOR": "1"}
    done = subprocess.run(
        [str(COMFY), "--skip-prompt", "--no-enable-telemetry", *arguments],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository of the working tree's files, in which the tool may write its archive."""
    folder = tmp_path_factory.mktemp("repository")
    for name in tracked_and_new(ROOT):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    for command in (["git", "init", "-q"], ["git", "add", "-A"]):
        subprocess.run(command, cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def archive(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    comfy(repository, tmp_path_factory.mktemp("home"), "node", "pack")
    return zipfile.ZipFile(repository / "node.zip")


@pytest.fixture(scope="module")
def installed(archive: zipfile.ZipFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive unpacked, as the registry installs it."""
    folder = tmp_path_factory.mktemp("custom_nodes") / "kontext-studio"
    archive.extractall(folder)
    return folder


def test_the_registrys_checks_pass(repository: Path, tmp_path: Path) -> None:
    said = comfy(repository, tmp_path, "node", "validate")
    assert "All validation checks passed" in said
    # It goes on after a warning, with the field left empty.
    assert "Warning" not in said
    assert "Error" not in said


def test_metadata_is_what_the_registry_asks_for() -> None:
    # Not the standard library's: Python 3.10 lacks it, and comfy-cli brings this one.
    tomlkit = pytest.importorskip("tomlkit")
    settings = tomlkit.parse((ROOT / "pyproject.toml").read_text(encoding="utf-8")).unwrap()
    project: dict[str, Any] = settings["project"]
    tool: dict[str, Any] = settings["tool"]["comfy"]
    assert "comfyui" not in project["name"].lower()
    assert [part.isdecimal() for part in project["version"].split(".")] == [True] * 3
    assert project["urls"]["Repository"].startswith("https://")
    assert {"PublisherId", "DisplayName", "Icon", "Banner", "requires-comfyui"} <= set(tool)
    assert tool["requires-comfyui"] == ">=0.3.64"
    # The icon's address is the repository's; the file must be there to be served.
    assert (ROOT / tool["Icon"].partition("/main/")[2]).is_file()
    with Image.open(ROOT / tool["Banner"].partition("/main/")[2]) as banner:
        assert banner.width * 9 == banner.height * 21 and banner.width >= 1260
    # With the folder named here as well as in __init__.py, ComfyUI loads every script twice.
    assert "web" not in tool
    asked = [line for line in project["dependencies"] if "==" in line or "<" in line]
    assert not asked
    listed = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in listed if line and not line.startswith("#")] == project["dependencies"]


def test_only_what_users_need_is_in_it(archive: zipfile.ZipFile) -> None:
    names = [PurePosixPath(info.filename) for info in archive.infolist()]
    too_many = [
        str(name)
        for name in names
        if (name.parts[0] not in FOLDERS if len(name.parts) > 1 else str(name) not in FILES)
    ]
    assert not too_many
    assert {name.parts[0] for name in names} >= FILES | {
        "kontext_core",
        "nodes",
        "web",
        "workflows",
    }


def test_nothing_that_users_need_is_missing(archive: zipfile.ZipFile) -> None:
    """Every file of those folders that git knows, and every help page and template."""
    packed = {info.filename for info in archive.infolist()}
    expected = {
        name
        for name in tracked_and_new(ROOT)
        if name in FILES or ("/" in name and name.partition("/")[0] in FOLDERS)
    }
    assert expected - packed == set()
    assert {f"web/docs/{node}.md" for node in NODE_IDS} <= packed


def test_sizes(archive: zipfile.ZipFile) -> None:
    # Measured: 10.4 MB packed, largest file 5.6 MB (the embedded model's autoencoder).
    assert sum(info.compress_size for info in archive.infolist()) < 20_000_000
    large = {i.filename: i.file_size for i in archive.infolist() if i.file_size > 300_000}
    allowed = ("kontext_core/assets/", "workflows/")
    assert [name for name in large if not name.startswith(allowed)] == []
    assert max(large.values()) < 8_000_000


def test_the_unpacked_archive_is_a_pack(installed: Path) -> None:
    """All its modules can be imported from there, and the host finds every node."""
    script = (
        "import importlib, pkgutil, sys\n"
        "from pathlib import Path\n"
        "from standalone.loader import load_pack\n"
        f"pack = load_pack(Path({str(installed)!r}))\n"
        "core = importlib.import_module(pack.module.__name__ + '.kontext_core')\n"
        "assert core.__file__.startswith(sys.argv[1]), core.__file__\n"
        "for found in pkgutil.walk_packages(core.__path__, core.__name__ + '.'):\n"
        # It needs Triton, and whoever imports it asks first.
        "    if not found.name.endswith(('__main__', 'decode_triton')):\n"
        "        importlib.import_module(found.name)\n"
        "print(*sorted(pack.nodes))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(installed)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == NODE_IDS


def test_the_registrys_standards(installed: Path) -> None:
    """No eval or exec, no pip at run time, no prebuilt code; docs.comfy.org/registry/standards."""
    for path in installed.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        called = {
            node.func.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not called & {"eval", "exec", "__import__"}, path
        words = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
        assert not words & {"pip", "-mpip"}, path
    prebuilt = (".so", ".pyd", ".dll", ".dylib", ".exe", ".pyc", ".whl", ".pt", ".ckpt", ".pkl")
    assert [path for path in installed.rglob("*") if path.suffix in prebuilt] == []


# What the registry's scan looks for, in Python, scripts, JSON and prose alike; a single hit of any
# severity keeps a version from the users: network access, the environment, other processes.
FLAGGED = re.compile(
    r"urllib\.request|http\.client|aiohttp\.ClientSession|\bsocket\.\w|\.connect ?\(|\.bind ?\("
    r"|\.send(?:all)? ?\(|\.recv ?\(|os\.environ|os\.getenv|\bsubprocess\b|\bimport pickle\b|\bpickle\.load"
)


def test_the_registrys_scan_finds_nothing(installed: Path) -> None:
    hits = []
    for path in sorted(installed.rglob("*")):
        if path.suffix in (".py", ".js", ".json", ".md", ".toml", ".txt", ".html", ".css"):
            lines = path.read_text(encoding="utf-8").splitlines()
            hits += [
                f"{path.relative_to(installed)}:{number}: {found.group()}"
                for number, line in enumerate(lines, 1)
                if (found := FLAGGED.search(line))
            ]
    assert hits == []


def test_the_scans_patterns_match_what_they_are_for() -> None:
    for text in (
        "import urllib.request", "http.client.HTTPSConnection()", "import subprocess",
        "os.environ['X']", "s = socket.socket()", "s.connect(a)", "x.bind (y)", "x.send(y)",
    ):  # fmt: skip
        assert FLAGGED.search(text), text
    for text in ("from urllib.parse import quote", "web.Response", "websocket", "environment"):
        assert not FLAGGED.search(text), text
