"""Sample pictures in the host's input folder, where the templates look for them: the first Run works."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from ..kontext_core.partial import whole_file
from .host import get_host

logger = logging.getLogger(__name__)

SAMPLES = Path(__file__).parent.parent / "workflows" / "input"


def place_samples() -> list[Path]:
    """Copy the templates' pictures into the host's input folder where they are absent.

    A file of that name stays as it is, whatever it holds, and each picture appears whole or not at
    all. A folder that can't be written to is told of once, in the log; the pack works without.

    Returns:
        The files that are new. None on hosts that find the pack's pictures where they lie.
    """
    folders = get_host().input_folders()
    if not folders or SAMPLES in folders:
        return []
    made = []
    found = [path for path in SAMPLES.rglob("*") if path.is_file()]
    # The pictures of most templates first, then those in folders.
    for source in sorted(found, key=lambda path: (len(path.parts), path)):
        target = folders[0] / source.relative_to(SAMPLES)
        try:
            if not os.path.lexists(target) and _place(source, target):
                made.append(target)
        except OSError as error:
            logger.warning(
                "the sample pictures of the templates can't be put into %s (%s); copy them there "
                "from %s, or choose pictures of your own in the templates",
                folders[0], error, SAMPLES,
            )  # fmt: skip
            break
    if made:
        logger.info("sample pictures for the templates put into %s", folders[0])
    return made


def _place(source: Path, target: Path) -> bool:
    """Whether `target` is now a copy of `source`; False when somebody else was faster."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with whole_file(target, replace=False) as file:
            file.write(source.read_bytes())
    except FileExistsError:
        return False
    return True
