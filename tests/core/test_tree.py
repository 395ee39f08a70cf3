"""The house's plan, drawn from its imports: one-way arrows between packages, no circles inside."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Who may import whom, as docs/architecture.md draws it.
ARROWS = {
    "kontext_core": set(),
    "nodes": {"kontext_core"},
    "standalone": {"kontext_core"},
    "kontext_lab": {"kontext_core"},
}
# The embedded host loads the pack as ComfyUI does, by its file; it imports nothing of it.
# Commands that moved are started by name for one release (`kontext_core/__main__.py`).


def modules(package: str) -> dict[str, Path]:
    """Dotted name to file."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = {name: path for package in ARROWS for name, path in modules(package).items()}


def is_typing(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def statements(node: ast.AST, everything: bool) -> list[ast.Import | ast.ImportFrom]:
    """Import statements below a node; only those that run on import, unless `everything`."""
    found: list[ast.Import | ast.ImportFrom] = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            found.append(child)
        elif everything or not (
            isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) or is_typing(child)
        ):
            found += statements(child, everything)
    return found


def targets(name: str, path: Path, everything: bool = False) -> set[str]:
    """The modules of this project that a module imports."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for statement in statements(ast.parse(path.read_text(encoding="utf-8")), everything):
        if isinstance(statement, ast.Import):
            words = [alias.name for alias in statement.names]
        else:
            up = package.split(".")
            up = up[: len(up) - statement.level + 1] if statement.level else []
            base = ".".join([*up, *([statement.module] if statement.module else [])])
            words = [
                full if (full := f"{base}.{alias.name}") in MODULES else base
                for alias in statement.names
            ]
        found |= {word for word in words if word in MODULES}
    return found - {name}


@pytest.mark.parametrize("package", ARROWS)
def test_arrows_go_one_way(package: str) -> None:
    """Imports in functions and for types included."""
    crossing = [
        f"{name} imports {target}"
        for name, path in modules(package).items()
        for target in sorted(targets(name, path, everything=True))
        if target.partition(".")[0] not in ARROWS[package] | {package}
    ]
    assert crossing == []


@pytest.mark.parametrize("everything", [False, True], ids=["on import", "in all"])
def test_no_circles(everything: bool) -> None:
    """Imports in functions and for types count as well the second time."""
    graph = {name: targets(name, path, everything) for name, path in MODULES.items()}
    assert sum(map(len, graph.values())) > 300
    assert circles(graph) == []


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other (Tarjan's strongly connected components)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for target in sorted(graph[name]):
            if target not in order:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], order[target])
        if low[name] == order[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in graph:
        if name not in order:
            visit(name)
    return found


def test_a_circle_is_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}
    assert circles(graph) == [["b", "c"]]
