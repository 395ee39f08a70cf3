"""Kontext: Candidates: several starts, an early look at each, and the best of them finished."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..kontext_core.checks import check_choice
from ..kontext_core.errors import InputError
from ..kontext_core.scoring.best import CRITERIA, choose
from .conditioning import check_text
from .inputs import MAX_SEED, guidance_input, steps_input
from .native import sockets
from .notes import output, told_by
from .sampler import check_model, network_of, run_sampler
from .schema import make
from .scorers import BY_HAND, SCORERS, candidates_of

if TYPE_CHECKING:
    from torch import Tensor

MOST = 16


def picked(text: str, count: int) -> list[int]:
    """Numbers from 1 in a text such as "2" or "1, 3", each once, in their order.

    Raises:
        InputError: something else than numbers of candidates.
    """
    found: list[int] = []
    for word in text.replace(",", " ").replace(";", " ").split():
        if not (word.isascii() and word.isdecimal()) or not 1 <= int(word) <= count:
            raise InputError(
                f"pick is {text!r}; expected numbers of candidates, 1 to {count}, such as 2 or 1, 3; "
                "or nothing, for an early look at all of them"
            )
        if int(word) not in found:
            found.append(int(word))
    return found


class KontextCandidates(io.ComfyNode):
    """Noises to latents: those that are worth it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            node_id="KontextCandidates",
            display_name="Kontext: Candidates",
            description="Starts from several seeds and stops each after a few steps, to look at what it "
            "will become. Write the numbers of the best into pick, run again, and only those are "
            "finished.",
            search_aliases=["kontext", "seeds", "variations", "best of", "early stop", "batch"],
            # Has the notes sent again when the node itself is answered from the cache.
            has_intermediate_output=True,
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="From Kontext: Load Model. In ComfyUI any FLUX.1 MODEL will do.",
                ),
                io.Conditioning.Input(
                    "positive",
                    tooltip="The instruction: CLIP Text Encode, through Kontext: Stitch when there "
                    "are references.",
                ),
                io.Latent.Input(
                    "latent_image",
                    tooltip="What to paint on: the LATENT of Kontext: Stitch or an empty one, of one "
                    "picture.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=MAX_SEED - MOST,
                    tooltip="Of candidate 1; candidate 2 has the next one, and so on. Stays as it is "
                    "between the look and the pick. Kontext: Sampler gives the same picture for it.",
                    # Editors change every seed after a run unless they are told not to.
                    control_after_generate=False,
                ),
                io.Int.Input("count", default=4, min=1, max=MOST, tooltip="How many candidates."),
                io.Int.Input(
                    "look",
                    default=6,
                    min=1,
                    max=1000,
                    tooltip="After how many of the steps to look. Layout shows early, details late.",
                ),
                io.String.Input(
                    "pick",
                    default="",
                    tooltip="Numbers of the candidates to finish, such as 2 or 1, 3. Empty: an early "
                    "look at all of them.",
                ),
                steps_input(),
                guidance_input(
                    "How closely to follow the instruction; an input of the model, free of cost. 2.5 "
                    "suits Kontext."
                ),
                io.Combo.Input(
                    "scorer",
                    options=list(SCORERS),
                    default=BY_HAND,
                    optional=True,
                    tooltip="Who chooses where pick is empty: you; what changes least outside the mask, or "
                    "is most like the original; or what has most detail. The best are finished in "
                    "the same run. Needs vae.",
                ),
                io.Int.Input(
                    "keep",
                    default=1,
                    min=1,
                    max=MOST,
                    optional=True,
                    tooltip="How many of the best a scorer finishes.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="From Kontext: Load VAE; for a scorer, which looks at pictures.",
                ),
                io.Image.Input(
                    "original",
                    optional=True,
                    tooltip="The picture that is edited; for a scorer that compares with it.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="What may change, in white; for outside the mask.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    "samples",
                    display_name="LATENT",
                    tooltip="A batch: early looks, or the candidates that were picked. For Kontext: "
                    "Finish and Kontext: Compare.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, pick: str | None = None, count: int | None = None) -> bool | str:
        """Refuses a wrong number before anything runs; linked inputs are judged later."""
        try:
            if pick is not None:
                picked(pick, MOST if count is None else count)
        except InputError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: list[list[Any]],
        latent_image: dict[str, Any],
        seed: int,
        count: int,
        look: int,
        pick: str,
        steps: int,
        guidance: float,
        scorer: str = BY_HAND,
        keep: int = 1,
        vae: Any = None,
        original: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        import torch

        chosen = picked(pick, count)
        if len(latent_image["samples"]) != 1:
            raise InputError(
                f"latent_image is a batch of {len(latent_image['samples'])}; candidates are made of one "
                "picture. Take a latent of one"
            )
        model = check_model(model)
        check_text(positive, getattr(network_of(model), "params", None), "positive")
        # Checked before anything runs.
        check_choice(scorer, "scorer", SCORERS)
        score = None if chosen or scorer == BY_HAND else CRITERIA[scorer]
        if score is not None and keep > count:
            raise InputError(f"keep is {keep}, but there are only {count} candidates; keep fewer")

        said: list[str] = []

        def painted(numbers: list[int], stop_at: int | None) -> list[Tensor]:
            return [
                run_sampler(
                    model,
                    positive,
                    latent_image,
                    seed=seed + number - 1,
                    steps=steps,
                    guidance=guidance,
                    stop_at=stop_at,
                    notes=said,
                )
                for number in numbers
            ]

        # The end of the run is no early look.
        stop_at = None if chosen or look >= steps else look
        numbers = chosen or list(range(1, count + 1))
        latents = painted(numbers, stop_at)
        scores = ""
        if score is not None:
            looks = candidates_of(
                latents,
                [seed + n - 1 for n in numbers],
                latent_image,
                vae,
                original,
                mask,
            )
            best, found = choose(looks, score, keep)
            scores = ", ".join(
                f"{n}: {one.reason if one.score is None else f'{one.score:.4g}'}"
                for n, one in zip(numbers, found, strict=True)
            )
            numbers = [numbers[i] for i in best]
            latents = [latents[i] for i in best] if stop_at is None else painted(numbers, None)
            stop_at = None
        seeds = ", ".join(f"{number}: seed {seed + number - 1}" for number in numbers)
        notes = [f"candidates {seeds}"]
        if scores:
            notes.append(f"{scorer}, {scores}")
        if stop_at is not None:
            notes.append(
                f"early looks, after {stop_at} of {steps} steps: write the numbers of the best into "
                "pick and run again"
            )
        return output(
            {**latent_image, "samples": torch.cat(latents)},
            notes=[
                *notes,
                *said,
                *told_by(positive),
                *sockets().notes(model, positive, False),
            ],
        )
