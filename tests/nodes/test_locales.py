"""English, Chinese, Japanese and Korean: every name and tooltip, in the form ComfyUI serves."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from templates import NAMES, editor_format

ROOT = Path(__file__).resolve().parents[2]
LOCALES = ROOT / "locales"
LANGUAGES = ("en", "zh", "ja", "ko")
# Script of each language; a text without it was left untranslated.
SCRIPTS = {
    "zh": r"[\u4e00-\u9fff]",
    "ja": r"[\u3040-\u30ff\u4e00-\u9fff]",
    "ko": r"[\uac00-\ud7a3]",
}
# Names that are the same everywhere: abbreviations, symbols of the paper, proper names.
SAME = {"CLIP", "Kontext", "VAE", "cfg", "dh", "dw", "t"}


def read(language: str, part: str) -> dict[str, Any]:
    return json.loads((LOCALES / language / f"{part}.json").read_text(encoding="utf-8"))


def leaves(texts: Any, prefix: str = "") -> dict[str, str]:
    """{"KontextEdit.inputs.seed.name": text} of a whole file."""
    if not isinstance(texts, dict):
        return {prefix: texts}
    return {
        k: v for key, value in texts.items() for k, v in leaves(value, f"{prefix}/{key}").items()
    }


def load(name: str) -> ModuleType:
    """A script of tools/."""
    spec = importlib.util.spec_from_file_location(f"kontext_{name}", ROOT / f"tools/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load("locales")


@pytest.fixture(scope="module")
def help_tool() -> ModuleType:
    return load("help_pages")


def test_english_is_what_the_nodes_say(pack: Any, tool: ModuleType) -> None:
    """A text that changed has to be looked at in every language: run tools/locales.py."""
    now = {node_id: tool.english_of(node) for node_id, node in pack.nodes.items()}
    written = read("en", "nodeDefs")
    assert set(written) == set(now)
    for node_id in now:
        assert written[node_id] == now[node_id], node_id


@pytest.mark.parametrize("part", ["nodeDefs", "main"])
@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_every_text_is_there_and_none_too_many(language: str, part: str) -> None:
    english, texts = leaves(read("en", part)), leaves(read(language, part))
    assert sorted(texts) == sorted(english)
    assert [
        key for key, text in texts.items() if not isinstance(text, str) or not text.strip()
    ] == []


@pytest.mark.parametrize("part", ["nodeDefs", "main"])
@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_texts_are_translated(language: str, part: str) -> None:
    script = re.compile(SCRIPTS[language])
    left = {
        key: text
        for key, text in leaves(read(language, part)).items()
        if text not in SAME and not script.search(text)
    }
    assert left == {}


@pytest.mark.parametrize("part", ["nodeDefs", "main"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_texts_hold_nothing_that_the_frontend_would_read_as_code(language: str, part: str) -> None:
    """vue-i18n takes braces for variables, @ for links and | for plurals."""
    bad = {
        key: text for key, text in leaves(read(language, part)).items() if set("{}@|") & set(text)
    }
    assert bad == {}


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_numbers_folders_and_options_stay_as_they_are(language: str) -> None:
    """What a person types or looks for: file endings, folders, values of choices."""
    kept = re.compile(r"models/\w+|\.\w{4,}|Q\d_\w+|\b\d+(?:\.\d+)?\b|float\d+|bfloat16|\"[^\"]+\"")
    english = leaves(read("en", "nodeDefs"))
    lost = {}
    for key, text in leaves(read(language, "nodeDefs")).items():
        found = {item for item in kept.findall(english[key]) if item not in text}
        if found:
            lost[key] = sorted(found)
    assert lost == {}


def test_option_names_in_tooltips_are_those_of_the_choices(pack: Any) -> None:
    """A tooltip calls a choice what the node shows: its translation, or a name as it is."""
    for node_id, node in pack.nodes.items():
        for socket in node.GET_SCHEMA().inputs:
            for option in getattr(socket, "options", None) or []:
                if f"{option}:" not in socket.tooltip:
                    continue
                for language in LANGUAGES[1:]:
                    text = read(language, "nodeDefs")[node_id]["inputs"][socket.id]["tooltip"]
                    shown = read(language, "main")["kontextOptions"].get(option, option)
                    assert re.search(rf"{re.escape(shown)}[:：]", text), (
                        node_id,
                        option,
                        language,
                    )


def test_choices_that_are_words_have_translations(pack: Any) -> None:
    """Names of methods, solvers, number formats and files stay; two choices of one input differ."""
    names = {"euler", "heun", "kontext", "simple", "offset", "index", "uxo", "index_timestep_zero"}
    names |= {"kohya", "diffusers", "taylor", "hermite"}
    told = read("en", "main")["kontextOptions"]
    used = set()
    for node_id, node in pack.nodes.items():
        for socket in node.GET_SCHEMA().inputs:
            words = [
                option
                for option in map(str, getattr(socket, "options", None) or [])
                if re.fullmatch("[a-z ]+|8 bit", option) and option not in names
            ]
            used.update(words)
            assert set(words) <= set(told), (node_id, socket.id)
            for language in LANGUAGES[1:]:
                shown = [read(language, "main")["kontextOptions"][word] for word in words]
                assert len(set(shown)) == len(shown), (node_id, socket.id, language)
    assert used == set(told)


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_templates_are_translated(language: str) -> None:
    """Every note and title; names of files, addresses, prompts and figures are those of the
    English note."""
    texts = json.loads((ROOT / f"web/templates/{language}.json").read_text(encoding="utf-8"))
    assert set(texts["notes"]) == set(NAMES)
    kept = re.compile(r"`[^`]+`|\]\([^)]+\)|\"[^\"]+\"|\d+\.\d+|\d\d+", re.ASCII)
    titles = set()
    for name in NAMES:
        graph = editor_format(name)
        [note] = [node for node in graph["nodes"] if node["type"] == "MarkdownNote"]
        english, text = note["widgets_values"][0], texts["notes"][name]
        assert re.search(SCRIPTS[language], text), name
        assert sorted(kept.findall(text)) == sorted(kept.findall(english)), name
        assert text.count("\n- ") == english.count("\n- "), name
        titles |= {one["title"] for one in (*graph["nodes"], *graph["groups"]) if one.get("title")}
    # The number of a reference is shown live, beside the node's own name.
    titles = {title for title in titles if not title.startswith("Reference: ")}
    assert set(texts["titles"]) == titles
    assert all(re.search(SCRIPTS[language], text) for text in texts["titles"].values())


def test_the_panels_english_is_the_same_in_both_places() -> None:
    """web/js/words.js repeats it for languages that the pack does not speak."""
    source = (ROOT / "web/js/words.js").read_text(encoding="utf-8")
    body = source.partition("const ENGLISH = {")[2].partition("\n};")[0]
    written = {
        key: "".join(json.loads(piece) for piece in re.findall(r'"(?:[^"\\]|\\.)*"', value))
        for key, value in re.findall(r"^  (\w+):((?:\s*\"(?:[^\"\\]|\\.)*\"\s*\+?)+),", body, re.M)
    }
    assert written == read("en", "main")["kontext"]
    used = {
        key
        for path in (ROOT / "web/js").glob("*.js")
        for key in re.findall(r'say\("(\w+)"\)', path.read_text(encoding="utf-8"))
    }
    assert used == set(written)


@pytest.mark.parametrize("language", LANGUAGES)
def test_files_are_as_the_tool_writes_them(language: str) -> None:
    for part in ("nodeDefs", "main"):
        path = LOCALES / language / f"{part}.json"
        text = json.dumps(read(language, part), indent=2, ensure_ascii=False) + "\n"
        assert path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_help_pages_have_every_point_of_the_english_ones(
    pack: Any, help_tool: ModuleType, language: str
) -> None:
    points = read(language, "help")
    script = re.compile(SCRIPTS[language])
    for node_id in pack.nodes:
        translated = points.get(node_id, [])
        assert len(translated) == len(help_tool.points_of(node_id)), node_id
        assert all(script.search(point) for point in translated)


def test_help_pages_are_as_the_tool_writes_them(help_tool: ModuleType) -> None:
    """Run tools/help_pages.py after a change of names, tooltips or points."""
    written = help_tool.pages()
    for path, text in written.items():
        assert path.read_text(encoding="utf-8") == text, path.name
    assert set((ROOT / "web/docs").glob("*/*.md")) == set(written)
