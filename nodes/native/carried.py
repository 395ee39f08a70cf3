"""What a MODEL carries for whoever runs it, of either kind: it goes with every clone of the MODEL.

On a MODEL of the host's it lies among its `transformer_options`, so that the host sees the same weights in
the same place and reloads nothing.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...kontext_core.errors import InputError
from ..host import get_host
from .model import KontextModel

if TYPE_CHECKING:
    from ...kontext_core.accelerate import Acceleration
    from ...kontext_core.accelerated import WorkReport

logger = logging.getLogger(__name__)

# What Kontext: Accelerate says, and what a LoRA for few steps asks for.
ACCELERATION = "kontext_acceleration"
FEW_STEPS = "kontext_few_steps"


@dataclass(frozen=True)
class Accelerated:
    """How runs of a MODEL save work.

    Attributes:
        settings: what they leave out.
        preset: under which name they were chosen.
        node: id of the node in the graph that is to say how it went, or None.
    """

    settings: Acceleration
    preset: str
    node: str | None = None


def carried(model: Any, name: str) -> Any:
    """What a MODEL carries under this name, or None."""
    if _is_own(model):
        return model.carried.get(name)
    options = getattr(model, "model_options", None)
    return None if options is None else options.get("transformer_options", {}).get(name)


def carrying(model: Any, name: str, value: Any) -> Any:
    """A MODEL that carries `value`; the one given stays as it is.

    Raises:
        InputError: not a MODEL.
    """
    if _is_own(model):
        other = copy.copy(model)
        other.carried = {**model.carried, name: value}
        return other
    if not hasattr(model, "model_options"):
        raise InputError(
            f"model is a {type(model).__name__}; expected a MODEL, such as that of Kontext: Load Model"
        )
    other = model.clone()
    options = other.model_options.get("transformer_options", {})
    other.model_options["transformer_options"] = {**options, name: value}
    return other


def tell(wanted: Accelerated, report: WorkReport) -> None:
    """Say what a run has left out: in the log, and below the node that asked for it, where the host can
    tell a node something after its turn."""
    said = f"{wanted.preset}: {report}"
    logger.info("accelerated, %s", said)
    told = getattr(get_host(), "show", None)
    if told is not None and wanted.node is not None:
        told(wanted.node, {"kontext_notes": [said]})


def _is_own(model: Any) -> bool:
    # By name: two copies of the pack under different folder names may meet in one host.
    return isinstance(model, KontextModel) or type(model).__name__ == "KontextModel"
