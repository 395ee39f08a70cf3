"""Kontext: Edit: pictures and an instruction in, a picture out, for a first try and for the API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..kontext_core.accelerate import PRESETS
from ..kontext_core.composite import composite
from ..kontext_core.cost import FLUX_HIDDEN, estimate, plain_size, tokens_of
from ..kontext_core.errors import InputError
from ..kontext_core.framing import cut_out
from ..kontext_core.resolutions import KONTEXT_RESOLUTIONS, check_size, nearest_resolution
from ..kontext_core.stitcher import METHODS, Reference
from .accelerate import accelerated
from .conditioning import attach, check_text
from .inputs import boxes_input, guidance_input, like_input, present_like, seed_input, steps_input
from .latent import with_boxes, with_mask
from .loading import load_clip, load_model, load_vae
from .native import require_vae, resolutions_of
from .notes import FRAMING, batch_notes, cost_notes, cost_payload, order_notes, output, told_by
from .reference import TargetGrid, encode_reference
from .sampler import check_model, idle_notes, network_of, run_sampler
from .schema import make, widget

if TYPE_CHECKING:
    from torch import Tensor

    from ..kontext_core.framing import Framing


def _size(
    width: int, height: int, like: Framing | None, sizes: Sequence[tuple[int, int]]
) -> tuple[int, int]:
    """(width, height) of the result.

    Args:
        like: of the image whose shape it is to have, None without images.

    Raises:
        InputError: width or height 0 and the other not, or not a multiple of 16.
    """
    if (width == 0) != (height == 0):
        raise InputError(f"width is {width} and height {height}; set both, or both to 0 for auto")
    if width:
        return check_size(width, height)
    return plain_size(sizes) if like is None else like.size


def check_open(given: dict[str, bool], of_model: tuple[Any, ...], of_vae: tuple[Any, ...]) -> None:
    """An embedded MODEL or VAE stands in for an open socket; beside a file's it would paint noise.

    Raises:
        InputError: one of the two is open, and the other was made for pictures of other sizes.
    """
    if len(set(given.values())) == 1 or of_model == of_vae:
        return
    [there] = [name for name, connected in given.items() if connected]
    [open_] = [name for name, connected in given.items() if not connected]
    raise InputError(
        f"{open_} is not connected, so the embedded one would be taken, but {there} comes from other "
        f"weights. Connect {open_} too, from the loader of FLUX.1's files, or take {there} away"
    )


def _start(
    references: Sequence[Reference], like: int | None, count: int, why: str
) -> dict[str, Any]:
    """The LATENT of the image that is edited, `count` times.

    Raises:
        InputError: no image gives the size, so there is nothing to start from.
    """
    if like is None:
        raise InputError(
            f"there is {why}, which starts from image like_image; connect a picture, and set width and "
            "height to 0"
        )
    edited = references[like - 1]
    samples = edited.latent.float()
    return {"samples": samples.repeat(count // len(samples), 1, 1, 1), FRAMING: edited.framing}


class KontextEdit(io.ComfyNode):
    """All of it in one node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        picture = 'is "image {0}" in the prompt. Open: there is none.'
        return make(
            node_id="KontextEdit",
            display_name="Kontext: Edit",
            description="Edits up to three pictures by an instruction, or paints one from words "
            "alone. Without model, clip and vae it takes the embedded ones.",
            search_aliases=[
                "kontext",
                "flux edit",
                "edit image",
                "instruct",
                "one node",
                "two images",
                "combine images",
            ],
            # Has the notes sent again when the node itself is answered from the cache.
            has_intermediate_output=True,
            inputs=[
                io.Image.Input(
                    "image1",
                    optional=True,
                    tooltip=f"It {picture.format(1)} The result has its shape, unless like_image "
                    "says otherwise.",
                ),
                io.Image.Input("image2", optional=True, tooltip=f"It {picture.format(2)}"),
                io.Image.Input("image3", optional=True, tooltip=f"It {picture.format(3)}"),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="From Kontext: Load Model; in ComfyUI any FLUX.1 MODEL will do. Open: "
                    "the embedded.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The text encoders of the model, from Kontext: Load Text Encoders or "
                    "ComfyUI's own loader. Open: the embedded one.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="That of the model, from Kontext: Load VAE or ComfyUI's own loader. "
                    "Open: the embedded one.",
                ),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    default="",
                    tooltip='What to do, in words, for example "put the star of image 1 on the '
                    'background of image 2".',
                ),
                seed_input(),
                steps_input(),
                guidance_input("How closely to follow the instruction. 2.5 suits Kontext."),
                io.Int.Input(
                    "width",
                    default=0,
                    min=0,
                    max=16384,
                    step=16,
                    tooltip="Of the result, in pixels. 0: the own size of image like_image, which is "
                    "painted at the trained size closest in shape.",
                ),
                io.Int.Input(
                    "height",
                    default=0,
                    min=0,
                    max=16384,
                    step=16,
                    tooltip="Of the result, in pixels. 0 together with width.",
                ),
                like_input(
                    "Which image is being edited: the result gets its shape. Only when width and "
                    "height are 0.",
                    3,
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White may change: image like_image is kept elsewhere, by the sampler in "
                    "cells of 8 pixels, and to the bit with paste_back.",
                ),
                widget(
                    io.Boolean,
                    "paste_back",
                    optional=True,
                    default=True,
                    tooltip="With a mask: every pixel outside it is the picture's own.",
                    advanced=True,
                ),
                widget(
                    io.Float,
                    "strength",
                    optional=True,
                    default=1.0,
                    min=0.0,
                    max=4.0,
                    step=0.05,
                    tooltip="How much the model attends to the images: 1 as trained, 0 not at all. For "
                    "one image alone take Kontext: Reference.",
                    advanced=True,
                ),
                widget(
                    io.Combo,
                    "method",
                    optional=True,
                    options=list(METHODS),
                    default=METHODS[0],
                    tooltip="How images are placed, as in Kontext: Stitch.",
                    advanced=True,
                ),
                widget(
                    io.Float,
                    "denoise",
                    optional=True,
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="1 paints from noise. Less starts from image like_image and changes less of "
                    "it.",
                    advanced=True,
                ),
                widget(
                    io.Int,
                    "count",
                    optional=True,
                    default=1,
                    min=1,
                    max=16,
                    tooltip="How many results, from one stream of noise. Kontext: Candidates looks at "
                    "several early.",
                    advanced=True,
                ),
                boxes_input(
                    "What may change, as boxes in the pixels of image like_image; as a mask, and together "
                    "with one."
                ),
                widget(
                    io.Combo,
                    "accelerate",
                    optional=True,
                    options=list(PRESETS),
                    default="off",
                    tooltip="Faster by leaving work out, as Kontext: Accelerate explains: safe, balanced, "
                    "fast. off: as the MODEL itself says.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Image.Output("image", display_name="IMAGE", tooltip="The result."),
                io.Latent.Output(
                    "latent",
                    display_name="LATENT",
                    tooltip="The same before decoding, for the next Kontext: Reference.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, prompt: str | None = None) -> bool | str:
        """Refuses an empty instruction before anything runs; a linked one is judged later."""
        from ..kontext_core.inputs import check_instruction

        try:
            check_instruction("linked" if prompt is None else prompt, "the prompt")
        except InputError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        prompt: str,
        seed: int,
        steps: int,
        guidance: float,
        width: int,
        height: int,
        image1: Tensor | None = None,
        image2: Tensor | None = None,
        image3: Tensor | None = None,
        model: Any = None,
        clip: Any = None,
        vae: Any = None,
        like_image: int = 1,
        mask: Tensor | None = None,
        paste_back: bool = True,
        strength: float = 1.0,
        method: str = METHODS[0],
        denoise: float = 1.0,
        count: int = 1,
        boxes: Any = None,
        accelerate: str = "off",
    ) -> io.NodeOutput:
        import torch

        from ..kontext_core.inputs import check_instruction

        prompt = check_instruction(prompt, "the prompt")
        slots = (image1, image2, image3)
        images = [image for image in slots if image is not None]
        like, notes = None, []
        if images and not width and not height:
            like, notes = present_like(like_image, len(images))
        if boxes is not None:
            mask = with_boxes(mask, boxes, images[like - 1] if like else None)
        given = {"model": model is not None, "vae": vae is not None}
        model = load_model() if model is None else check_model(model)
        model = accelerated(model, accelerate)
        clip = load_clip() if clip is None else clip
        vae = load_vae() if vae is None else require_vae(vae)
        sizes = resolutions_of(model)
        check_open(given, sizes, getattr(vae, "resolutions", KONTEXT_RESOLUTIONS))
        conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
        network = network_of(model)
        check_text(conditioning, getattr(network, "params", None), "the prompt")
        references = []
        target = TargetGrid(check_size(width, height)) if width and height else None
        for number, image in enumerate(images, 1):
            encoded, framing = encode_reference(
                vae, image, "trained size", f"image {number}", target
            )
            references.append(Reference(encoded, strength=strength, framing=framing))
        shape = references[like - 1].framing if like else None
        columns, rows = _size(width, height, shape, sizes)
        batch = max((len(reference.latent) for reference in references), default=1)
        if count > 1 and batch > 1:
            raise InputError(
                f"count is {count} and an image is a batch of {batch}, which has a result for each of "
                "its pictures; set count to 1, or connect one picture"
            )
        start: dict[str, Any] = {"samples": torch.zeros(batch * count, 16, rows // 8, columns // 8)}
        if mask is not None or denoise < 1:
            start = _start(references, like, batch * count, "a mask" if denoise == 1 else "denoise")
            start = start if mask is None else with_mask(start, mask)
        latent = run_sampler(
            model,
            attach(conditioning, references, method),
            start,
            seed=seed,
            steps=steps,
            guidance=guidance,
            denoise=denoise,
            notes=notes,
        )
        trained = nearest_resolution(columns, rows, sizes)
        cost = estimate(
            (columns, rows),
            [
                tokens_of(*reference.framing.size)
                for reference in references
                if reference.framing and reference.strength > 0
            ],
            text=conditioning[0][0].shape[-2],
            hidden_size=getattr(network, "hidden_size", FLUX_HIDDEN),
            trained=plain_size(sizes),
        )
        result = vae.decode(latent)
        result = result if shape is None else cut_out(result, shape)
        if mask is not None and paste_back and like:
            result = composite(result, images[like - 1][..., :3], mask)
        return output(
            result,
            {"samples": latent, **({} if shape is None else {FRAMING: shape})},
            notes=[
                *cost_notes(cost, trained),
                *notes,
                *told_by(conditioning),
                *order_notes("image", slots),
                *(
                    note
                    for number, image in enumerate(slots, 1)
                    if image is not None
                    for note in batch_notes(f"image{number}", len(image))
                ),
                *idle_notes(start, None, False, denoise),
            ],
            kontext_size=cost_payload(cost, trained, like),
        )
