"""Attacks at length: `python -m tests.attack files --count N --seed S`. Quick parts run with the tests.

Each attack is a module `attack_<name>` in tests/support with `main(arguments) -> int`.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

SUPPORT = Path(__file__).resolve().parents[1] / "support"


def main(arguments: list[str]) -> int:
    names = sorted(path.stem.removeprefix("attack_") for path in SUPPORT.glob("attack_*.py"))
    if not arguments or arguments[0] not in names:
        print(f"usage: python -m tests.attack ({'|'.join(names)}) [options]", file=sys.stderr)
        return 2
    sys.path.insert(0, str(SUPPORT))
    return importlib.import_module(f"attack_{arguments[0]}").main(arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
