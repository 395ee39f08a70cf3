"""What the package promises as a package: no host, honest `__all__`, one error tree."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import kontext_core
from kontext_core import errors

ROOT = Path(kontext_core.__file__).parent
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages([str(ROOT)], "kontext_core.")
    if not module.name.endswith("__main__")
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
        [sys.executable, "-P", "-c", code], cwd=folder, capture_output=True, text=True, timeout=300
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
    assert set(errors.__all__) <= set(names)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        kontext_core.nothing  # noqa: B018


@pytest.mark.parametrize("name", MODULES)
def test_all_is_sorted_and_true(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} does not say what it is"
    exported = getattr(module, "__all__", [])
    assert exported == sorted(set(exported), key=isort_key)
    missing = [word for word in exported if not hasattr(module, word)]
    assert not missing


def test_all_is_complete() -> None:
    """What one module takes from another has to be in the other's `__all__`."""
    unlisted = []
    for name in [*MODULES, "kontext_core"]:
        module = importlib.import_module(name)
        package = name if hasattr(module, "__path__") else name.rpartition(".")[0]
        for statement in ast.walk(ast.parse(inspect.getsource(module))):
            if not isinstance(statement, ast.ImportFrom) or not statement.level:
                continue
            source = importlib.util.resolve_name(
                "." * statement.level + (statement.module or ""), package
            )
            exported = getattr(importlib.import_module(source), "__all__", None)
            if exported is None:
                # A package: what is taken from it is a module.
                continue
            unlisted += [
                f"{name} takes {source}.{alias.name}"
                for alias in statement.names
                if alias.name not in exported
            ]
    assert unlisted == []


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


def test_one_error_tree() -> None:
    kinds = [getattr(errors, name) for name in errors.__all__]
    assert all(issubclass(kind, errors.KontextError) for kind in kinds)
    assert issubclass(errors.InputError, ValueError)
    assert issubclass(errors.ShapeError, errors.InputError)
    assert issubclass(errors.ModelNotFoundError, FileNotFoundError)
    defined = [
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and value.__module__ == kontext_core.__name__
    ]
    assert sorted(defined) == errors.__all__
    assert str(errors.ModelNotFoundError("there is no model 'x'")) == "there is no model 'x'"
    assert str(errors.ModelNotFoundError()) == ""
