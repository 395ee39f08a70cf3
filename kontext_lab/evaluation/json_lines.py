"""Objects of a file of JSON lines, told by line where one can't be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kontext_core.errors import InputError
from kontext_core.small_files import read_small_text

# Bytes.
LARGEST = 256 << 20


def json_lines(path: Path, advice: str = "") -> list[dict[str, Any]]:
    """The objects, one a line; empty lines are nothing.

    Raises:
        InputError: no such file, or a line that is no object; `advice` says what to do about a missing file.
    """
    try:
        # Not splitlines(): a JSON text may hold U+2028 and its like unescaped.
        lines = read_small_text(path, LARGEST).split("\n")
    except (OSError, ValueError) as error:
        raise InputError(f"can't read {path} ({error}){advice and '; '}{advice}") from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise InputError(f"line {number} of {path} is not JSON ({error})") from error
        if not isinstance(value, dict):
            raise InputError(f"line {number} of {path} is not an object; expected one a line")
        found.append(value)
    return found
