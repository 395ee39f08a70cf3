"""What was logged about memory."""

from __future__ import annotations

import logging


class Said(logging.Handler):
    """Keeps the texts of warnings that speak of memory."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "memory" in record.getMessage():
            self.texts.append(record.getMessage())
