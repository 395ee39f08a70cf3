"""Notices when a mapped file is overwritten in place, before its pages are touched.

Reading a mapped page that no longer exists kills the process (SIGBUS), and other bytes would be taken
for weights. So the size and time stamp of the file are looked at before each call of a network whose
weights lie in it. A file that is replaced by renaming, or removed, lives on for whoever has it mapped.
What is written during a call can't be noticed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import CheckpointError


@dataclass(frozen=True)
class Stamp:
    """What a file was when its header was read."""

    path: Path
    identity: tuple[int, int]
    size: int
    changed_ns: int


def stamp_of(path: Path, found: os.stat_result) -> Stamp:
    """The stamp of a file that was looked at, or is open."""
    return Stamp(path, (found.st_dev, found.st_ino), found.st_size, found.st_mtime_ns)


def check_unchanged(stamps: Iterable[Stamp]) -> None:
    """Refuse files that are still the same ones and hold something else.

    Raises:
        CheckpointError: names the file.
    """
    for before in stamps:
        try:
            now = stamp_of(before.path, before.path.stat())
        except OSError:
            # Removed: what is mapped stays.
            continue
        if now.identity == before.identity and now != before:
            raise CheckpointError(
                f"{before.path}: was written to after it was loaded ({before.size} bytes then, "
                f"{now.size} now), so its weights can't be used any more. Load it again when it is "
                "complete; to replace a model in use, write a new file and rename it to this name"
            )


class FileGuard:
    """A forward pre-hook that checks the files a network's weights lie in."""

    def __init__(self, stamps: tuple[Stamp, ...]) -> None:
        self.stamps = stamps

    def __call__(self, module: nn.Module, args: Any) -> None:
        check_unchanged(self.stamps)


def guard(network: nn.Module, stamps: tuple[Stamp, ...]) -> None:
    """Check files before every call of a network, if weights of it stayed in them."""
    sizes = {stamp.size for stamp in stamps}
    # Views of a mapping share its storage, which is as large as the file.
    if any(
        tensor.device.type == "cpu" and tensor.untyped_storage().nbytes() in sizes
        for tensor in network.parameters()
    ):
        network.register_forward_pre_hook(FileGuard(stamps))


def guard_alike(wrapper: nn.Module, network: nn.Module) -> None:
    """Make a module that calls a network's layers itself check the files that the network checks."""
    for hook in network._forward_pre_hooks.values():
        if isinstance(hook, FileGuard):
            wrapper.register_forward_pre_hook(hook)
