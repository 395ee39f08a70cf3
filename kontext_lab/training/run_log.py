"""The log of a training run, as the core's trainer keeps it."""

from __future__ import annotations

from kontext_core.finetune.run_log import RunLog, read_log

__all__ = ["RunLog", "read_log"]
