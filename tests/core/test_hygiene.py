"""What the package promises as a package: no host, one home a name, one error tree."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import kontext_core
from kontext_core import errors

ROOT = Path(kontext_core.__file__).parent
# Modules that another package has to be there for; who imports them asks first.
NEEDING = {"kontext_core.quant.decode_triton": "triton"}
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages([str(ROOT)], "kontext_core.")
    if not module.name.endswith("__main__")
    and (module.name not in NEEDING or importlib.util.find_spec(NEEDING[module.name]))
)
# A class of one of these is called as another project calls it.
NAMED_BY_OTHERS = ("standalone/comfy_api/",)
STRANGERS = ("comfy", "comfy_api", "folder_paths", "server", "nodes", "aiohttp", "diffusers")


def isort_key(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions, each by name."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def run(code: str, folder: Path) -> str:
    """Run code in a fresh interpreter that finds nothing but what is installed."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_imports_without_a_host(tmp_path: Path) -> None:
    assert "kontext_core.stitcher" in MODULES and "kontext_core.weights.load" in MODULES
    code = f"""
import importlib, sys
for name in {[*MODULES, "kontext_core.__main__"]!r}:
    importlib.import_module(name)
print([name for name in {STRANGERS!r} if name in sys.modules])
"""
    assert run(code, tmp_path) == "[]\n"


def test_importing_the_package_is_cheap(tmp_path: Path) -> None:
    """Nothing heavy is loaded before it is used, and then it is."""
    code = """
import sys, kontext_core
print([name for name in ("torch", "numpy", "PIL", "safetensors") if name in sys.modules])
kontext_core.stitch
print("torch" in sys.modules)
"""
    assert run(code, tmp_path) == "[]\nTrue\n"


def test_the_face_of_the_package() -> None:
    names = kontext_core.__all__
    assert names == sorted(set(names), key=isort_key)
    assert set(names) == set(kontext_core._HOME)
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    typed = {
        alias.name
        for block in tree.body
        if isinstance(block, ast.If)
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert typed == set(names)
    for name in names:
        assert getattr(kontext_core, name).__name__ == name
    assert set(names) <= set(dir(kontext_core))
    assert set(_kinds_of_error()) <= set(names)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        kontext_core.nothing  # noqa: B018


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is(name: str) -> None:
    assert importlib.import_module(name).__doc__


def _sources() -> dict[str, ast.Module]:
    """Every module of the project, by its path from the root."""
    return {
        path.relative_to(ROOT.parent).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for folder in ("kontext_core", "kontext_lab", "nodes", "standalone")
        for path in sorted((ROOT.parent / folder).rglob("*.py"))
    }


def _made_here(tree: ast.Module) -> set[str]:
    """Names that a module makes itself, rather than takes from another."""
    made: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            made.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            made.add(node.id)
    return made


def test_a_list_of_names_stands_where_a_package_shows_its_face() -> None:
    """Elsewhere an underscore says what is a module's own, and the list would only repeat the rest."""
    listed = [
        where
        for where, tree in _sources().items()
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id == "__all__"
    ]
    inner = [where for where in listed if not where.endswith("__init__.py")]
    # These three together are what `comfy_api.latest.io` is for the pack.
    assert inner == [f"standalone/comfy_api/{name}.py" for name in ("nodes", "sockets", "widgets")]


def test_a_name_is_taken_from_where_it_is_made() -> None:
    """And what begins with an underscore stays in its module."""
    sources = _sources()
    made = {where: _made_here(tree) for where, tree in sources.items()}
    wrong: list[str] = []
    looked_at = 0
    for where, tree in sources.items():
        parts = where.removesuffix(".py").split("/")
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom):
                continue
            around = parts[: len(parts) - node.level] if node.level else []
            home = "/".join([*around, *(node.module or "").split(".")])
            if f"{home}.py" not in sources:
                # A package: what is taken from it is a module, or part of its face.
                continue
            looked_at += 1
            wrong += [
                f"{where} takes {alias.name} from {home}"
                for alias in node.names
                if alias.name.startswith("_") or alias.name not in made[f"{home}.py"]
            ]
    assert wrong == []
    assert looked_at > 1000


def _names_types(statement: ast.stmt) -> str:
    """The class or type alias that a statement of a module makes, or nothing."""
    if isinstance(statement, ast.ClassDef):
        return statement.name
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        name = statement.targets[0]
    elif isinstance(statement, ast.AnnAssign):
        name = statement.target
    else:
        return ""
    alias = isinstance(name, ast.Name) and name.id[:1].isupper() and not name.id.isupper()
    return name.id if alias else ""


def test_a_public_class_name_has_one_meaning() -> None:
    """Else `Job` or `Place` says nothing without the module it comes from."""
    homes: dict[str, list[str]] = {}
    for folder in ("kontext_core", "kontext_lab", "nodes", "standalone"):
        for path in sorted((ROOT.parent / folder).rglob("*.py")):
            where = path.relative_to(ROOT.parent).as_posix()
            if where.startswith(NAMED_BY_OTHERS):
                continue
            for statement in ast.parse(path.read_text(encoding="utf-8")).body:
                name = _names_types(statement)
                if name and not name.startswith("_"):
                    homes.setdefault(name, []).append(where)
    assert {"Flux", "Reference", "Image"} <= set(homes)
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}


def _kinds_of_error() -> list[str]:
    return sorted(
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and value.__module__ == kontext_core.__name__
    )


def test_one_error_tree() -> None:
    kinds = [getattr(errors, name) for name in _kinds_of_error()]
    assert len(kinds) > 5
    assert all(issubclass(kind, errors.KontextError) for kind in kinds)
    assert issubclass(errors.InputError, ValueError)
    assert issubclass(errors.ShapeError, errors.InputError)
    assert issubclass(errors.ModelNotFoundError, FileNotFoundError)
    assert str(errors.ModelNotFoundError("there is no model 'x'")) == "there is no model 'x'"
    assert str(errors.ModelNotFoundError()) == ""
