"""Runs Python code in a process of its own and watches its memory from outside, on Linux."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STATUS = Path("/proc/self/status")
AVAILABLE = STATUS.is_file() and "RssAnon" in STATUS.read_text(encoding="ascii")


@dataclass(frozen=True)
class Watched:
    """What a run gave.

    Attributes:
        result: the JSON value on the last line that the code printed.
        anonymous: most bytes of memory that belong to no file, over the whole life.
        mapped: most bytes of files in memory at a time, which the system can drop.
        seconds: from the start of the interpreter to its end.
    """

    result: Any
    anonymous: int
    mapped: int
    seconds: float


def watch(code: str, *arguments: str, timeout: float = 600) -> Watched:
    """Run code as `python -c` with arguments; it has to print one line of JSON at its end.

    Raises:
        RuntimeError: the code failed or took too long; carries what it wrote to stderr.
    """
    start = time.monotonic()
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        anonymous = mapped = 0
        while process.poll() is None:
            now = _memory(process.pid)
            anonymous = max(anonymous, now.get("RssAnon", 0))
            mapped = max(mapped, now.get("RssFile", 0))
            if time.monotonic() - start > timeout:
                process.kill()
            # Looking has a price too: a long run is looked at less often.
            time.sleep(min(0.1, 0.01 + (time.monotonic() - start) / 1000))
        seconds = time.monotonic() - start
        out, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"ended with {process.returncode} after {seconds:.0f} s: {errors}")
    return Watched(json.loads(out.splitlines()[-1]), anonymous, mapped, seconds)


def _memory(pid: int) -> dict[str, int]:
    """Rss* lines of a process in bytes; empty once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    return {
        name: int(value.split()[0]) * 1024
        for name, value in (line.split(":", 1) for line in lines)
        if name.startswith("Rss")
    }
