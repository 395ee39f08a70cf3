"""The settings of `edit`, as its pictures carry them and `--like` reads them back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import InputError

# Under which a picture carries them, as JSON.
KEY = "kontext_edit"
# All that a picture depends on, with what holds where nothing is said.
SETTINGS: dict[str, Any] = {
    "model": "tiny", "vae": None, "t5": None, "clip_l": None, "t5_length": 256, "lora": [],
    "dtype": "auto", "eight_bit": "off", "image": [], "prompt": None, "negative": None, "cfg": 1.0, "nag": 1.0, "seed": 0,
    "steps": 28, "guidance": 2.5, "width": None, "height": None, "method": "offset",
    "denoise": 1.0, "solver": "euler", "schedule": "kontext", "sigmas": None, "batch": 1,
    "accelerate": "off", "mask": None, "mask_channel": "luminance", "box": None,
    "mask_mode": "soft", "feather": 0, "match_colours": "off",
    "fit": "trained size", "other_shape": "pad", "megapixels": 1.0,
    "aspect": None, "margins": [0, 0, 0, 0], "fill": "edge",
    "best_of": 1, "best_by": "outside the mask", "look": 6,
}  # fmt: skip
NUMBERS = (int, float)
KINDS: dict[str, tuple[type, ...]] = {
    "t5_length": (int,), "lora": (list,), "image": (list,), "cfg": NUMBERS, "nag": NUMBERS, "seed": (int,),
    "steps": (int,), "guidance": NUMBERS, "width": (int,), "height": (int,), "denoise": NUMBERS,
    "batch": (int,), "feather": (int,), "best_of": (int,), "look": (int,), "megapixels": NUMBERS, "margins": (list,),
    "sigmas": (list,),
}  # fmt: skip


def record(values: Mapping[str, Any], version: str) -> dict[str, str]:
    """Metadata of a picture: prompt and seed for people, and all settings with the version."""
    kept = {name: values[name] for name in SETTINGS}
    text = json.dumps({"version": version, **kept}, ensure_ascii=False)
    return {"prompt": str(values["prompt"]), "seed": str(values["seed"]), KEY: text}


def recall(path: str) -> dict[str, Any]:
    """The settings of a picture that `edit` wrote.

    Raises:
        InputError: it carries none, or they are damaged.
    """
    from ..writing import read_metadata

    text = read_metadata(path).get(KEY)
    if text is None:
        raise InputError(
            f"{path} carries no settings of the edit command; name a picture that it wrote, as it "
            "was written"
        )
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InputError(f"the settings in {path} are damaged ({error})") from error
    if not isinstance(found, dict):
        raise InputError(f"the settings in {path} are damaged: {text[:80]!r}")
    # A later version may know more of them; what it does not know stays at its default.
    kept = {name: found[name] for name in SETTINGS if found.get(name) is not None}
    for name, value in kept.items():
        expected = KINDS.get(name, (str,))
        if not isinstance(value, expected) or isinstance(value, bool):
            raise InputError(f"the settings in {path} are damaged: {name} is {value!r}")
    pairs = [part for part in kept.get("lora", []) if not _is_lora(part)]
    names = [part for part in kept.get("image", []) if not isinstance(part, str)]
    sides = [side for side in kept.get("margins", []) if not isinstance(side, int)]
    levels = [level for level in kept.get("sigmas", []) if not isinstance(level, NUMBERS)]
    if damaged := pairs + names + sides + levels:
        raise InputError(f"the settings in {path} are damaged: {damaged[0]!r}")
    return kept


def _is_lora(part: Any) -> bool:
    pair = isinstance(part, list) and len(part) == 2
    return pair and isinstance(part[0], str) and isinstance(part[1], NUMBERS)
