"""Templates by the names that they had before the editor showed titles: two_references.json."""

from __future__ import annotations

import json
from pathlib import Path


def with_older_name(path: Path) -> Path:
    """The template's file that was once called `path`; `path` itself when there is none.

    A template keeps its older name as `extra.kontext_template`.
    """
    if path.exists() or not path.parent.is_dir():
        return path
    for found in sorted(path.parent.glob("*.json")):
        try:
            data = json.loads(found.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        extra = data.get("extra") if isinstance(data, dict) else None
        if isinstance(extra, dict) and extra.get("kontext_template") == path.stem:
            return found.with_suffix(path.suffix)
    return path
