"""What is installed where: bounds with reasons, a lock that is whole, actions and publishing pinned."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
FILES = ("requirements.txt", "standalone/requirements.txt", "tests/requirements.txt")
LOCK = ROOT / "standalone/lock.txt"
# Needs a cluster; tests/batch runs against a stand-in for it.
NOT_TESTED = {"ray"}


def lines(name: str) -> list[str]:
    return (ROOT / name).read_text(encoding="utf-8").splitlines()


def direct() -> list[Requirement]:
    """Everything that a requirements file or pyproject.toml asks for by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    asked = [*project["dependencies"], *(one for extra in extras for one in extra)]
    asked += [line for name in FILES for line in lines(name) if line and line[0] != "#"]
    return [Requirement(one) for one in asked]


def locked() -> dict[str, str]:
    found = [line.split("==") for line in lines("standalone/lock.txt") if line[0] != "#"]
    return dict(found)


def test_the_lock_names_every_direct_requirement() -> None:
    lock, asked = locked(), direct()
    assert len(asked) > 25
    for one in asked:
        name = canonicalize_name(one.name)
        if name not in NOT_TESTED:
            assert name in lock, f"{name} is not in {LOCK.name}"
            assert one.specifier.contains(lock[name]), f"{one} is locked at {lock[name]}"


def test_the_lock_holds_versions_and_nothing_else() -> None:
    told = [line for line in lines("standalone/lock.txt") if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9.-]+==[0-9][0-9a-z.]*", line) for line in told)
    assert [canonicalize_name(line.split("==")[0]) for line in told] == [
        line.split("==")[0] for line in sorted(told)
    ]
    assert "kontext-studio" not in locked()


@pytest.mark.parametrize("name", ["pytest", "msgspec", "aiohttp", "gguf", "pillow"])
def test_what_is_installed_satisfies_the_bounds(name: str) -> None:
    """As the locked version does, so that no bound is a typing error."""
    try:
        here = version(name)
    except PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    bounds = [one.specifier for one in direct() if canonicalize_name(one.name) == name]
    assert bounds and all(bound.contains(Version(here).base_version) for bound in bounds)


def test_every_bound_says_what_it_is_for() -> None:
    """In the line above it, or in the file of which it is a copy."""
    told: set[str] = set()
    for name in FILES:
        before = ""
        for line in lines(name):
            if re.search(r"[<>=]", line) and not line.startswith("#"):
                assert before.startswith("#") or line in told or "==" in before, f"{name}: {line}"
                told.add(line)
            before = line


def test_nothing_moves_a_users_torch_or_frontend() -> None:
    asked = {
        canonicalize_name(Requirement(x).name) for x in lines("requirements.txt") if x[0] != "#"
    }
    assert not {x for x in asked if x.startswith(("torch", "comfyui", "nvidia", "xformers"))}
    assert not [line for line in lines("requirements.txt") if re.search(r"<|==|~=", line)]


WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def test_actions_are_pinned_by_commit() -> None:
    uses = [
        line.strip() for path in WORKFLOWS for line in path.read_text(encoding="utf-8").splitlines()
        if "uses:" in line
    ]  # fmt: skip
    assert len(uses) > 5
    for line in uses:
        assert re.search(r"uses: [\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


def test_the_job_with_the_token_installs_nothing_unpinned() -> None:
    text = (ROOT / ".github/workflows/publish.yml").read_text(encoding="utf-8")
    installs = re.findall(r"pip install.*", text)
    assert installs == [
        "pip install --quiet --no-deps --only-binary :all: -r .github/publish-requirements.txt"
    ]
    pinned = [line for line in lines(".github/publish-requirements.txt") if line and line[0] != "#"]
    assert len(pinned) > 40 and all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in pinned)
    # And the token is in the last step alone.
    assert text.count("secrets.") == 1 and text.rindex("secrets.") > text.rindex("- name: Publish")
