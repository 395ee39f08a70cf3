"""`inspect`: what a weights file is, read off its header."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add_inspect(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    inspect = commands.add_parser(
        "inspect", help="tell what a weights file is and how much memory it needs"
    )
    inspect.add_argument(
        "file",
        metavar="FILE",
        help="a .safetensors or .gguf file, an index, a diffusers or model folder, or tiny",
    )
    inspect.add_argument("--json", action="store_true", help="as JSON, sizes in bytes")
    inspect.set_defaults(run=run)


def run(options: argparse.Namespace) -> str:
    """The report as text."""
    from ..weights.source import open_weights
    from ..weights.summary import summary

    told = summary(open_weights(options.file))
    return json.dumps(told, indent=2) if options.json else as_text(told)


def as_text(told: dict[str, Any]) -> str:
    """The report for people; sizes in GB of 10^9 bytes."""
    files = f", {len(told['files'])} files" if len(told["files"]) > 1 else ""
    lines = [
        repr(told["path"])[1:-1],
        f"  {told['format']}{files}, {told['tensors']} tensors, {_size(told['bytes'])}",
    ]
    if not told["networks"]:
        lines += [f"  can't be used: it is {told['is']}", f"  kinds: {_kinds(told['kinds'])}"]
        if told["use"]:
            lines.append(f"  use instead: {told['use']}")
    for network in told["networks"]:
        lines.append(
            f"{network['name']} ({network['layout']} names"
            + (f", prefix {ascii(network['prefix'])}" if network["prefix"] else "")
            + ")"
        )
        if "problem" in network:
            lines.append(f"  can't be used: {network['problem']}")
            continue
        lines.append(
            f"  {network['parameters']:,} parameters, {_size(network['bytes'])}: "
            + _kinds(network["kinds"])
        )
        if "ranks" in network:
            ranks = ", ".join(str(rank) for rank in network["ranks"]) or "none"
            lines.append(f"  {', '.join(network['algorithms']) or 'unknown kind'}, ranks {ranks}")
        for name, value in network.get("architecture", {}).items():
            lines.append(f"  {name.replace('_', ' ')}: {_plain(value)}")
        lines += [f"  note: {note}" for note in network.get("notes", ())]
        if "memory" in network:
            lines.append("  memory for an edit at 1024x1024, weights and activations:")
            lines += [
                f"    {row['references']} references: {_size(row['weights'])} + "
                f"{_size(row['activations'])} = {_size(row['total'])}"
                for row in network["memory"]
            ]
    if told["metadata"]:
        lines.append("metadata")
        lines += [
            f"  {ascii(key)[1:-1]}: {ascii(value)}" for key, value in told["metadata"].items()
        ]
    return "\n".join(lines)


def _size(nbytes: int) -> str:
    if nbytes < 10_000_000:
        return f"{nbytes / 1e6:.2f} MB"
    return f"{nbytes / 1e9:.2f} GB"


def _kinds(kinds: dict[str, dict[str, int]]) -> str:
    ordered = sorted(kinds.items(), key=lambda item: -item[1]["bytes"])
    return ", ".join(
        f"{kind} x {counts['tensors']} ({_size(counts['bytes'])})" for kind, counts in ordered
    )


def _plain(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(str(item) for item in value)
    return str(value)
