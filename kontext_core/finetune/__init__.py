"""Training of LoRAs on any transformer the pack loads: from a folder of examples to a file."""

from __future__ import annotations

from .codecs import Codecs, codecs_of
from .dataset import Example, read_examples
from .encoded import Encoded, EncodedStore, encode_examples
from .saving import NAMINGS, save_lora
from .settings import TrainSettings
from .trainer import Trained, TrainProgress, train_lora

__all__ = [
    "NAMINGS",
    "Codecs",
    "Encoded",
    "Example",
    "TrainProgress",
    "EncodedStore",
    "TrainSettings",
    "Trained",
    "codecs_of",
    "encode_examples",
    "read_examples",
    "save_lora",
    "train_lora",
]
