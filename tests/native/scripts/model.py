"""All that is asked of our MODEL inside a real ComfyUI, in one process."""

from __future__ import annotations

from typing import Any

import comfy.utils
import model_hooks
import model_parity
import model_references
import torch


def main(pack: Any) -> dict[str, Any]:
    comfy.utils.PROGRESS_BAR_ENABLED = False
    torch.set_grad_enabled(False)
    return {
        "parity": model_parity.answers(),
        "hooks": model_hooks.answers(),
        "references": model_references.answers(),
    }
