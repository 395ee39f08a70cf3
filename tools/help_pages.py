"""Writes the help pages in other languages: web/docs/NODE/LANGUAGE.md.

    python tools/help_pages.py

ComfyUI shows such a page when the editor speaks the language, else web/docs/NODE.md, which is
written by hand. Names and tooltips come from locales/LANGUAGE/nodeDefs.json, the points under
"good to know" from locales/LANGUAGE/help.json, as many as the English page has.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "web/docs"
# Headings: inputs, what they do, outputs, a typical graph, good to know, words of the picture.
HEADINGS = {
    "zh": ("输入", "作用", "输出", "典型的图", "须知", "示例图"),
    "ja": ("入力", "働き", "出力", "よく使うグラフ", "知っておくこと", "グラフの例"),
    "ko": ("입력", "하는 일", "출력", "전형적인 그래프", "알아 두기", "그래프 예"),
}


def read(language: str, part: str) -> dict[str, Any]:
    path = ROOT / "locales" / language / f"{part}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def points_of(node_id: str) -> list[str]:
    """What the English page says under "Good to know"."""
    page = (DOCS / f"{node_id}.md").read_text(encoding="utf-8")
    return re.findall(r"^- (.+)$", page.partition("## Good to know")[2], re.MULTILINE)


def page_of(node_id: str, texts: dict[str, Any], points: list[str], language: str) -> str:
    """One page as Markdown."""
    inputs, what, outputs, graph, know, alternative = HEADINGS[language]
    name = texts["display_name"]
    lines = [f"# {name}", "", texts["description"], "", f"| {inputs} | {what} |", "|---|---|"]
    for key, entry in texts["inputs"].items():
        if "tooltip" not in entry:
            continue
        shown = key if entry["name"] == key else f"{entry['name']} (`{key}`)"
        lines.append(f"| {shown} | {entry['tooltip']} |")
    lines += ["", f"| {outputs} | {what} |", "|---|---|"]
    lines += [f"| {one['name']} | {one['tooltip']} |" for one in texts["outputs"].values()]
    # The editor looks for pictures beside the English page, whatever the language.
    lines += ["", f"## {graph}", "", f"![{name}: {alternative}](images/{node_id}.png)"]
    if points:
        lines += ["", f"## {know}", "", *(f"- {point}" for point in points)]
    return "\n".join(lines) + "\n"


def pages() -> dict[Path, str]:
    """Every translated page by its path."""
    made = {}
    for language in HEADINGS:
        help_texts = read(language, "help")
        for node_id, texts in read(language, "nodeDefs").items():
            text = page_of(node_id, texts, help_texts.get(node_id, []), language)
            made[DOCS / node_id / f"{language}.md"] = text
    return made


def main() -> int:
    for path, text in pages().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
