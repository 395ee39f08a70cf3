"""What a folder of results was made with: written at the start, and compared when a run goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kontext_core.errors import InputError
from kontext_core.partial import whole_file
from kontext_core.small_files import read_small_text

NAME = "settings.json"


def keep_settings(folder: str | Path, settings: Mapping[str, Any]) -> Path:
    """Write settings.json into the folder, or find it equal there. The folder is made.

    Raises:
        InputError: the folder holds results of other settings, or can't be written.
    """
    place = Path(folder)
    path = place / NAME
    wanted = json.loads(json.dumps(dict(settings)))
    try:
        place.mkdir(parents=True, exist_ok=True)
        found = json.loads(read_small_text(path))
    except FileNotFoundError:
        found = None
    except (OSError, ValueError) as error:
        raise InputError(f"can't read {path} ({error}); choose another folder") from error
    if found is None:
        try:
            with whole_file(path) as file:
                file.write((json.dumps(wanted, indent=1) + "\n").encode())
        except OSError as error:
            raise InputError(f"can't write {path} ({error}); choose another folder") from error
        return place
    names = sorted({*wanted, *found} if isinstance(found, dict) else wanted)
    for name in names:
        was = found.get(name) if isinstance(found, dict) else None
        if was != wanted.get(name):
            raise InputError(
                f"{place} holds results made with {name} {was!r}, now it is {wanted.get(name)!r}; give "
                "the same settings to go on, or another folder"
            )
    return place
