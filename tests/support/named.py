"""What documents name, held against the tree: paths, links, tests, commands, options, names in code.

Names are what stands in backticks, in a picture's box drawn with characters, or in a fenced example. Read
from the source's text alone; nothing is imported.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("kontext_core", "kontext_lab", "nodes", "standalone", "tests", "tools", "benchmarks")
# Made by running things, and what users have at home; not in a fresh checkout.
ELSEWHERE = (
    ".venv",
    "venv",
    "runs",
    "models",
    "input",
    "output",
    "custom_nodes",
    "~",
    "torchaudio",
)
# Files of examples, of other projects, and the one that must not be there.
EXAMPLES = {
    "cat.txt", "cat.png", "cat_1.png", "cat_2.png", "NEW-1.png", "NEW-2.png", "mask.png",
    "manifest.jsonl", "adapter_config.json", "ae.safetensors", "transformer/", "utils.py",
    # What benchmarks consist of, and runs write.
    "anchor.json", "anchor.png", "rows.jsonl", "tables.md", "metadata.jsonl", "test/metadata.jsonl",
    "basic_edit.json", "singleturn/", "NNN_0.jpg", "NNN_prompt.txt",
}  # fmt: skip
# Names of others: what dotted ones begin with, and whole ones.
OTHERS = {"comfy", "comfy_api", "sys", "torch", "RAY_worker_niceness", "ckpt_name", "lora_name"}
# Names that are not there on purpose: their test would say of every one that it is.
NO_SOURCE = {Path(__file__).resolve(), ROOT / "tests/publishing/test_documents.py"}
SUFFIXES = "py md json jsonl toml yml txt png jpg svg safetensors csv sh js".split()
IS_PATH = re.compile(rf"[\w.~<>*/-]+/|[\w.~<>*/-]*[\w>*]\.({'|'.join(SUFFIXES)})")
IS_FOLDER = re.compile(rf"({'|'.join((*PACKAGES, 'docs', 'web', 'workflows'))})(/[\w.-]+)+")
IS_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@functools.cache
def files() -> tuple[Path, ...]:
    """Every source of the project that is not a document."""
    found = [ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / ".ci/run", ROOT / "__init__.py"]
    found += (ROOT / ".github").rglob("*.yml")
    for package in (*PACKAGES, "web"):
        found += [p for kind in ("*.py", "*.js", "*.sh") for p in (ROOT / package).rglob(kind)]
    return tuple(p for p in found if p.is_file() and p not in NO_SOURCE)


@functools.cache
def source() -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in files())


@functools.cache
def words() -> frozenset[str]:
    return frozenset(re.findall(r"[A-Za-z_]\w*", source()))


@functools.cache
def defined(path: Path) -> frozenset[str]:
    """What a module defines or imports: `name`, of classes `Class.name` too; arguments by their name."""
    found: set[str] = set()

    def walk(node: ast.AST, owner: str) -> None:
        for child in ast.iter_child_nodes(node):
            names: list[str] = []
            inner = owner
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                names = [child.name]
                inner = child.name if isinstance(child, ast.ClassDef) else owner
            elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
                names = [child.id]
            elif isinstance(child, ast.Attribute) and isinstance(child.ctx, ast.Store):
                names = [child.attr]
            elif isinstance(child, ast.arg):
                names = [child.arg]
            elif isinstance(child, ast.alias):
                names = [child.asname or child.name.rpartition(".")[2]]
            for name in names:
                found.update({name, f"{owner}.{name}"} if owner else {name})
            walk(child, inner)

    walk(ast.parse(path.read_text(encoding="utf-8")), "")
    return frozenset(found)


@functools.cache
def modules() -> tuple[Path, ...]:
    """Of the packages; tests are named by their path."""
    return tuple(
        p for p in files() if p.suffix == ".py" and p.relative_to(ROOT).parts[0] != "tests"
    )


def is_path(text: str) -> bool:
    return bool(IS_PATH.fullmatch(text) or IS_FOLDER.fullmatch(text))


def is_ours(text: str) -> bool:
    """A path, and one that a fresh checkout must have."""
    first = text.split("/")[0]
    return is_path(text) and (first not in ELSEWHERE or text.endswith(".py"))


def stem(path: Path) -> str:
    """What a module is called; a package by its folder."""
    return path.parent.name if path.stem == "__init__" else path.stem


def places(name: str, near: Iterable[Path]) -> list[Path]:
    """Where a path in a document leads: from the root, from the document, from the core, or from a folder
    named just before. A bare name of a file may lie anywhere. `<name>` stands for any one."""
    pattern = re.sub(r"<\w+>", "*", name).rstrip("/")
    for base in (ROOT, *near, ROOT / "kontext_core"):
        if found := sorted(base.glob(pattern)):
            return found
    if "/" not in pattern:
        return [p for package in PACKAGES for p in (ROOT / package).rglob(pattern)] + sorted(
            (ROOT / "workflows").rglob(pattern)
        )
    return []


def is_known(name: str) -> bool:
    """A dotted name: module.name, Class.name, or package.module; a variable called after either."""
    parts = name.split(".")
    if parts[0] in OTHERS:
        return True
    if (path := ROOT.joinpath(*parts)).is_dir() or path.with_suffix(".py").is_file():
        return True
    owner, last = parts[-2], parts[-1]
    for path in modules():
        names = defined(path)
        if f"{owner}.{last}" in names or (stem(path) == owner and last in names):
            return True
    # `model.latent_format`: some class has it. `processor.qkv_lora1`: stands in the source as it is.
    return name in source() or (
        owner.islower() and any(n.endswith(f".{last}") for p in modules() for n in defined(p))
    )


def home(name: str) -> list[Path]:
    """The module that a dotted name leads to."""
    owner, _, last = name.rpartition(".")
    return [p for p in modules() if owner and stem(p) == owner and last in defined(p)]


def command(text: str, near: Iterable[Path]) -> Iterator[str]:
    """What a line for the shell names and the tree lacks."""
    targets = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in re.findall(r"(?:^|[\s;&])make ([a-z]+)", text):
        if not re.search(rf"^{name}:", targets, re.MULTILINE):
            yield f"make {name}"
    for package, rest in re.findall(r"python (?:-P )?-m (\w+)(.*)", text):
        folder = ROOT / package
        if package not in ("pytest", "pip") and not (folder / "__main__.py").is_file():
            yield f"python -m {package}"
        elif folder.is_dir():
            text_of = (folder / "__main__.py").read_text(encoding="utf-8")
            text_of += "".join(p.read_text(encoding="utf-8") for p in folder.rglob("command*.py"))
            text_of += "".join(p.read_text(encoding="utf-8") for p in folder.glob("commands/*.py"))
            count = 2 if rest.split()[:1] == ["train"] else 1
            for word in rest.split()[:count]:
                if re.fullmatch("[a-z]+", word) and f'"{word}"' not in text_of:
                    yield f"python -m {package} ... {word}"
    for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", text):
        if not re.search(rf"{option}(?![\w-])", source()):
            yield option
    for word in re.findall(
        r"(?<!\S)(?:tests|tools|nodes|docs|workflows|kontext_\w+)/[\w./*]+", text
    ):
        if not places(word, near):
            yield word


def token(text: str, near: list[Path], inside: list[Path]) -> Iterator[str]:
    """What one name in backticks names and the tree lacks; `inside`: modules named beside it."""
    if "::" in text and text.startswith("tests/"):
        path, _, name = text.partition("::")
        if not places(path, near) or name not in defined(ROOT / path):
            yield text
    elif text.startswith(("make", "python", ".venv/bin", "pre-commit", "-")) or " --" in text:
        yield from command(text, near)
    elif text.startswith("Kontext: "):
        if f'"{text.partition(".")[0]}"' not in source():
            yield text
    elif is_path(text):
        if is_ours(text) and text not in EXAMPLES and not places(text, near):
            yield text
    elif IS_NAME.fullmatch(text.partition("(")[0]):
        name = text.partition("(")[0].partition("=")[0]
        if "." in name:
            if not is_known(name):
                yield text
        elif inside:
            if not any(name == stem(p) or name in defined(p) for p in inside):
                yield f"{text} (not in {', '.join(str(p.relative_to(ROOT)) for p in inside[:3])})"
        elif not (name in words() or name in OTHERS or name in ELSEWHERE or (ROOT / name).exists()):
            yield text


def modules_beside(tokens: list[str], near: list[Path]) -> list[Path]:
    """The modules that names in one cell may come from: files, folders and dotted names in it."""
    found: list[Path] = []
    for text in tokens:
        if is_ours(text):
            for place in places(text, near):
                if place.is_dir():
                    found += sorted(place.glob("*.py")) + sorted(place.glob("*/__init__.py"))
                elif place.suffix == ".py" and not text.startswith("tests/"):
                    found.append(place)
        else:
            found += home(text)
    return found


def folders_named(tokens: list[str], near: list[Path]) -> list[Path]:
    return [
        place if place.is_dir() else place.parent
        for text in tokens
        if is_ours(text)
        for place in places(text, near)[:1]
    ]


def gone(document: str, folder: Path = ROOT) -> list[str]:
    """What a document of that folder (its text is given) names and the tree lacks."""
    lost: list[str] = []
    near = [folder]
    parts = re.split(r"^ *```(\w*)\n(.*?)^ *```$", document, flags=re.DOTALL | re.MULTILINE)
    for language, text in zip(parts[1::3], parts[2::3], strict=True):
        lost += fenced(language, text, near)
    prose = "\n".join(parts[0::3])
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose):
        if "://" not in target and not (folder / target).exists():
            lost.append(target)
    for line in re.findall(r"^    (\S.*(?:\\\n.*)*)", prose, re.MULTILINE):
        lost += command(line.replace("\\\n", " "), near)
    for block in re.split(r"\n\s*\n|\n(?=\||- |\d\. )", prose):
        row = block.startswith("|")
        for cell in re.split(r"(?<!\\)\|", block) if row else [block]:
            tokens = [re.sub(r"\s+", " ", t) for t in re.findall(r"`([^`]+)`", cell)]
            beside = near + folders_named(tokens, near)
            inside = modules_beside(tokens, beside) if row else []
            for text in tokens:
                lost += token(text, beside, inside)
    return lost


def fenced(language: str, text: str, near: list[Path]) -> Iterator[str]:
    """A fenced example or picture."""
    if language == "sh":
        for line in re.sub(r"\\\n", " ", text).splitlines():
            yield from command(line.partition("#")[0], near)
    elif language == "python":
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module:
                path = ROOT.joinpath(*node.module.split("."))
                path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
                for name in node.names:
                    if not path.is_file() or name.name not in defined(path):
                        yield f"from {node.module} import {name.name}"
    elif not language:
        for name in re.findall(r"(?<![\w/])[\w/]+\.py\b|(?<![\w/])[a-z]\w+/(?=\s|$)", text):
            if not places(name.rstrip("/"), near):
                yield name
