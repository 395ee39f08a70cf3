"""What is the same at several steps of a run, computed once: one text's side of the sampler."""

from __future__ import annotations

import torch
from torch import Tensor

from .guidance import Conditioning, Nag
from .models.block_run import Modulations, Prepared
from .models.flux import Flux
from .models.nag import NagTexts
from .stitcher import StepContext

# Timesteps whose modulations are held at a time: 270 MB a text for the published sizes in float32.
WINDOW = 64


class Planned:
    """One text's side of a run. With `away` and `nag` that text is pushed away from another.

    Modulations are computed for up to `WINDOW` of the run's timesteps at once.
    """

    def __init__(
        self,
        model: Flux,
        conditioning: Conditioning,
        times: list[float],
        batch: int,
        away: Conditioning | None = None,
        nag: Nag | None = None,
    ) -> None:
        self.model = model
        self.batch = batch
        # Not the batch's rows but the text's own: they are the same for all its pictures.
        self.text = conditioning.expand(len(conditioning.vec), model.device, model.dtype)
        self.whole = conditioning.expand(batch, model.device, model.dtype)
        self.nag: dict[str, NagTexts] = {}
        if away is not None and nag is not None:
            txt, vec, guidance = self.whole
            negative = away.expand(batch, model.device, model.dtype)[0]
            self.nag = {"nag": NagTexts(nag, negative.shape[1], txt.shape[1])}
            # The pooled feature stays the instruction's: it drives the image's rows too.
            self.whole = torch.cat([negative, txt], 1), vec, guidance
        self.txt_ids = torch.zeros(1, self.whole[0].shape[1], 3, device=model.device)
        self.made_for: tuple[bool, ...] | None = None
        self.index = {t: i for i, t in enumerate(times)}
        self.times = torch.tensor(times, dtype=torch.float32)
        self.window = -1
        self.made: Modulations | None = None
        self.at_zero: Modulations | None = None
        self.last: Prepared | None = None

    def prepared(self, part: StepContext, img: Tensor) -> Prepared:
        """Projected text and references and the rotary table, kept until a reference comes or
        goes. `img` as the model takes it."""
        if self.last is None or self.made_for != part.present:
            target = img.shape[1] - part.tokens.shape[1]
            made = self.model.prepare(
                img, part.img_ids, self.whole[0], self.txt_ids, part.bias, target
            )
            self.last, self.made_for = made, part.present
        return self.last

    def at(self, t: float) -> Modulations | None:
        """Modulations of the batch at timestep t; None where a solver leaves the planned ones."""
        if t not in self.index:
            return None
        window, step = divmod(self.index[t], WINDOW)
        if self.made is None or window != self.window:
            some = self.times[window * WINDOW : (window + 1) * WINDOW].to(self.model.device)
            _, y, guidance = self.text
            self.made, self.window = self.model.modulations(some, y, guidance), window
        return self.made.at(step, self.batch)

    def still(self) -> Modulations:
        """Modulations of the batch at timestep 0."""
        if self.at_zero is None:
            _, y, guidance = self.text
            zero = torch.zeros(1, device=self.model.device)
            self.at_zero = self.model.modulations(zero, y, guidance)
        return self.at_zero.at(0, self.batch)
