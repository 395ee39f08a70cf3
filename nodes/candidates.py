"""Kontext: Candidates: several starts, an early look at each, and the best of them finished."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..kontext_core.errors import InputError
from .conditioning import check_text
from .inputs import MAX_SEED, guidance_input, steps_input
from .native import sockets
from .notes import output, told_by
from .sampler import check_model, network_of, run_sampler
from .schema import make

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
        # The end of the run is no early look.
        stop_at = None if chosen or look >= steps else look
        numbers = chosen or list(range(1, count + 1))
        said: list[str] = []
        latents: list[Tensor] = [
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
        seeds = ", ".join(f"{number}: seed {seed + number - 1}" for number in numbers)
        notes = [f"candidates {seeds}"]
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
