"""What became of each LoRA: layers changed, keys that matched nothing, keys for text encoders."""

from __future__ import annotations

from dataclasses import dataclass

SHOWN = 8


@dataclass(frozen=True)
class LoraReport:
    """One file.

    Attributes:
        path: the file, as text.
        format: who wrote it and what is in it.
        strength: as asked for.
        rank: its largest rank.
        matched: changes that found their layer.
        layers: layers they fall on.
        unmatched: keys, or names of layers, this model has no place for.
        text_encoder: keys for CLIP or T5, which `set_text_loras` applies.
        notes: choices made while reading.
    """

    path: str
    format: str
    strength: float
    rank: int
    matched: int
    layers: int
    unmatched: tuple[str, ...] = ()
    text_encoder: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """For people: one line of facts, one for each sort of keys left out, one a note."""
        rank = f", rank {self.rank}" if self.rank else ""
        lines = [
            f"{self.path}: {self.format}{rank}, strength {self.strength:g}, "
            f"{self.matched} changes on {self.layers} layers"
        ]
        for what, keys in (
            ("matched nothing", self.unmatched),
            ("are for the text encoders, not for this model", self.text_encoder),
        ):
            if keys:
                more = f", and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
                lines.append(f"{len(keys)} keys {what}: {', '.join(keys[:SHOWN])}{more}")
        return lines + list(self.notes)


@dataclass(frozen=True)
class Report:
    """What `set_loras` or `merge_lora` did, one part for each LoRA in order."""

    loras: tuple[LoraReport, ...] = ()

    @property
    def matched(self) -> int:
        """Changes that found their layer, over all files."""
        return sum(part.matched for part in self.loras)

    @property
    def unmatched(self) -> tuple[str, ...]:
        """Keys that matched nothing, over all files."""
        return tuple(key for part in self.loras for key in part.unmatched)

    @property
    def text_encoder(self) -> tuple[str, ...]:
        """Keys for text encoders, over all files."""
        return tuple(key for part in self.loras for key in part.text_encoder)

    def text(self) -> str:
        """All lines, for a node or a terminal."""
        return "\n".join(line for part in self.loras for line in part.lines())
