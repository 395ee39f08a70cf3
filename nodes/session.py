"""Kontext: Session Start, Turn and Pick: editing turn by turn, every turn kept in one file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..kontext_core.accelerate import recorded
from ..kontext_core.errors import InputError
from ..kontext_core.framing import cut_out
from ..kontext_core.stitcher import Reference
from .conditioning import ReferenceChain, attach, check_text
from .edit import check_open
from .inputs import guidance_input, seed_input, steps_input
from .loading import load_clip, load_model, load_vae
from .native import require_vae, resolutions_of, sockets
from .native.carried import ACCELERATION, carried
from .notes import FRAMING, output, told_by
from .reference import encode_reference
from .sampler import check_model, network_of, run_sampler
from .schema import References, SessionPoint, make
from .session_files import TurnPoint, digest, origin, session_path, stamp, start_key, told, use

if TYPE_CHECKING:
    from torch import Tensor

    from ..kontext_core.session import Session

# As `kontext_core.session.turns` has them.
KEEPS = ("unchanged", "outside mask", "nothing")
# What a line of the prompt is.
LINES = ("one turn", "a turn for each line")
NEWEST = -1
ALIASES = ["kontext", "session", "multi turn", "history", "iterate", "conversation", "drift"]


def _outputs(session_id: str, about: str) -> list[Any]:
    return [
        SessionPoint.Output(
            session_id,
            display_name="session",
            tooltip="For the next Kontext: Session Turn. Several may go on from the same turn.",
        ),
        io.Image.Output("picture", display_name="IMAGE", tooltip=f"The picture of {about}."),
        io.Latent.Output(
            "samples",
            display_name="LATENT",
            tooltip="The same before decoding, for Kontext: Reference.",
        ),
    ]


def _name_input(**values: Any) -> Any:
    return io.String.Input(
        "name",
        default="session",
        tooltip="Of the file in output/kontext_sessions, subfolders with /. A session of that name is "
        "gone on with.",
        **values,
    )


def _results(session: Session, number: int) -> tuple[TurnPoint, Tensor, dict[str, Any]]:
    """What a node gives for a turn, as the file has it."""
    latent = {"samples": session.latent(number), FRAMING: session.turn(number).framing}
    return TurnPoint(str(session.path), number), session.picture(number), latent


class KontextSessionStart(io.ComfyNode):
    """A picture to a session."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            node_id="KontextSessionStart",
            display_name="Kontext: Session Start",
            description="Begins a session with a picture, or goes on with the one of that name. A "
            "session is one file with every turn: words, seed, picture, latent.",
            search_aliases=ALIASES,
            # Has the timeline sent again when the node itself is answered from the cache.
            has_intermediate_output=True,
            inputs=[
                io.Image.Input("image", tooltip="The picture to edit, one at a time."),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="That of the model. Open: the embedded one.",
                ),
                _name_input(),
            ],
            outputs=_outputs("begun", "the start, with 8 bits a colour, as the file keeps it"),
        )

    @classmethod
    def fingerprint_inputs(cls, name: str | None = None, **_: Any) -> str:
        """Runs again when the file was taken away."""
        return stamp(name)

    @classmethod
    def execute(cls, image: Tensor, name: str, vae: Any = None) -> io.NodeOutput:
        from ..kontext_core.images import check_image
        from ..kontext_core.session import Session
        from ..kontext_core.session.turns import one_picture

        picture = one_picture(check_image(image[..., :3], "image"))
        path = session_path(name)
        session = Session(path) if path.exists() else Session.create(path)
        use(path)
        vae = load_vae() if vae is None else require_vae(vae)
        latent, framing = encode_reference(vae, picture, "trained size", "image")
        key = start_key(picture, framing)
        turn = session.add(picture, latent, framing, key=key)
        return output(*_results(session, turn.number), **told(session, turn.number))


class KontextSessionTurn(io.ComfyNode):
    """One instruction."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            node_id="KontextSessionTurn",
            display_name="Kontext: Session Turn",
            description="Edits the picture of a session by one instruction and keeps the result as "
            "its next turn. Starts from the latent of the turn before; what the instruction is not "
            "about keeps its pixels.",
            search_aliases=ALIASES,
            has_intermediate_output=True,
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            inputs=[
                SessionPoint.Input(
                    "session",
                    tooltip="From Kontext: Session Start, Session Pick, or the turn before.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="From Kontext: Load Model; in ComfyUI any FLUX.1 MODEL will do. Open: the "
                    "embedded.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The text encoders of the model. Open: the embedded one.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="That of the model, and of the start. Open: the embedded one.",
                ),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    default="",
                    tooltip='What to change now. The turn\'s picture is "image 1".',
                ),
                seed_input(
                    "Starting noise. Another seed is another turn beside this one: a replay."
                ),
                steps_input(),
                guidance_input("How closely to follow the instruction. 2.5 suits Kontext."),
                io.Combo.Input(
                    "keep",
                    options=list(KEEPS),
                    default=KEEPS[0],
                    tooltip="What keeps the pixels of the turn before. unchanged: all that lies outside "
                    "the mask, or without a mask all that the edit is found to leave alone. outside "
                    "mask: only by a mask. nothing: the model repaints everything.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White may change; of the picture's shape. An empty one counts as none.",
                ),
                References.Input(
                    "references",
                    optional=True,
                    tooltip='Further pictures, a chain of Kontext: Reference: the first is "image 2".',
                ),
                io.String.Input(
                    "note",
                    default="",
                    optional=True,
                    tooltip="Your own words beside the turn, in the timeline.",
                ),
                io.Combo.Input(
                    "lines",
                    options=list(LINES),
                    default=LINES[0],
                    optional=True,
                    tooltip="a turn for each line: every line of the prompt is an instruction for what the "
                    "line before made, with the next seed. Ten lines, ten turns, each kept.",
                ),
            ],
            outputs=_outputs("turned", "this turn"),
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
        session: TurnPoint,
        prompt: str,
        seed: int,
        steps: int,
        guidance: float,
        keep: str,
        model: Any = None,
        clip: Any = None,
        vae: Any = None,
        mask: Tensor | None = None,
        references: ReferenceChain | None = None,
        note: str = "",
        lines: str = LINES[0],
    ) -> io.NodeOutput:
        from ..kontext_core.inputs import check_instruction

        prompt = check_instruction(prompt, "the prompt")
        file = session.session()
        chain = tuple(references.items) if references is not None else ()
        notes: list[str] = []
        if mask is not None and not bool(mask.any()):
            notes.append("the mask is empty: the turn ran without it")
            mask = None
        area = None if mask is None else _one_mask(mask)
        chosen = {"steps": steps, "guidance": guidance, "keep": keep}
        wanted = carried(model, ACCELERATION)
        settings = chosen
        if wanted is not None:
            settings = {**chosen, "accelerate": recorded(wanted.settings)}
        made_from = origin(
            getattr(cls.hidden, "prompt", None),
            getattr(cls.hidden, "unique_id", None),
            ("session", "note", "prompt", "mask", "lines"),
        )
        shared = [*([] if area is None else [area]), *(r.latent for r in chain)]
        number = session.number
        for one, own_seed in _instructions(prompt, lines, seed):
            asked = [number, one, str(own_seed), settings, area is not None, made_from]
            # Without the prompt nobody knows which model this is: then every run is a turn.
            key = made_from and digest([*asked, *shared])
            turn = file.find(key) if key else None
            if turn is None:
                painted, said = _paint(
                    file, number, one, chain, (model, clip, vae), area, own_seed, **chosen
                )
                notes += said
                turn = file.add(
                    *painted, file.turn(number).framing, parent=number,
                    prompt=one, seed=own_seed, settings=settings, mask=area, note=note, key=key,
                )  # fmt: skip
            if turn.note != note:
                file.set_note(turn.number, note)
            number = turn.number
        return output(
            *_results(file, number),
            notes=notes,
            **told(file, number, whole=False),
        )


class KontextSessionPick(io.ComfyNode):
    """A turn by its number."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            node_id="KontextSessionPick",
            display_name="Kontext: Session Pick",
            description="Reopens any turn of a session: to look at it, to go on from it another way, "
            "or to run it again with another seed. Choose it in the timeline.",
            search_aliases=ALIASES,
            has_intermediate_output=True,
            inputs=[
                SessionPoint.Input(
                    "session",
                    optional=True,
                    tooltip="Of this session; it runs first. Open: the session of that name.",
                ),
                _name_input(optional=True),
                io.Int.Input(
                    "number",
                    default=0,
                    min=NEWEST,
                    max=2**31 - 1,
                    tooltip="Of the turn, as the timeline shows it. 0 is the start, -1 the newest: then "
                    "every run goes on from the run before.",
                ),
                io.Combo.Input(
                    "which",
                    options=["this turn", "turn before"],
                    default="this turn",
                    tooltip="turn before: the one that this turn was made from, to run the same words "
                    "again with another seed.",
                ),
            ],
            outputs=[
                *_outputs("picked", "the picked turn"),
                io.String.Output(
                    "words",
                    display_name="prompt",
                    tooltip="The words of the turn with that number, for a replay.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(
        cls, name: str | None = None, number: int | None = None, **_: Any
    ) -> Any:
        """Always runs again for the newest turn; else when the file was taken away."""
        return float("nan") if number == NEWEST else stamp(name)

    @classmethod
    def execute(
        cls, number: int, which: str, session: TurnPoint | None = None, name: str = "session"
    ) -> io.NodeOutput:
        from ..kontext_core.session import Session

        if session is None:
            path = session_path(name)
            use(path)
            file = Session(path)
        else:
            file = session.session()
        if number == NEWEST:
            turns = file.turns()
            number = turns[-1].number if turns else 0
        turn = file.turn(number)
        chosen = number
        if which == "turn before":
            if turn.parent is None:
                raise InputError(
                    f"turn {number} is a start, so there is no turn before it; choose this turn, or a "
                    "later number"
                )
            chosen = turn.parent
        return output(*_results(file, chosen), turn.prompt, **told(file, number))


def _instructions(prompt: str, lines: str, seed: int) -> list[tuple[str, int]]:
    """What is asked one after another, each with its seed; empty lines are none."""
    if lines == LINES[0]:
        return [(prompt, seed)]
    asked = [line.strip() for line in prompt.splitlines() if line.strip()]
    return [(line, (seed + number) % 2**64) for number, line in enumerate(asked)]


def _one_mask(mask: Tensor) -> Tensor:
    if mask.ndim == 3 and len(mask) != 1:
        raise InputError(f"the mask is a batch of {len(mask)}; a turn takes one")
    return mask.reshape(mask.shape[-2:])


def _paint(
    file: Session,
    parent: int,
    prompt: str,
    chain: tuple[Reference, ...],
    networks: tuple[Any, Any, Any],
    mask: Tensor | None,
    seed: int,
    *,
    steps: int,
    guidance: float,
    keep: str,
) -> tuple[tuple[Tensor, Tensor], list[str]]:
    """Picture and latent of a new turn, and what there is to say about it.

    Raises:
        KontextError: inputs that don't fit each other or the session.
    """
    import torch

    from ..kontext_core.latents import FLUX_LATENT
    from ..kontext_core.session.turns import check_space, kept_of

    model, clip, vae = networks
    given = {"model": model is not None, "vae": vae is not None}
    model = load_model() if model is None else check_model(model)
    clip = load_clip() if clip is None else clip
    vae = load_vae() if vae is None else require_vae(vae)
    sizes = resolutions_of(model)
    check_open(given, sizes, getattr(vae, "resolutions", sizes))
    start, framing = file.latent(parent), file.turn(parent).framing
    check_space(framing, sizes)
    conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
    network = network_of(model)
    check_text(conditioning, getattr(network, "params", None), "the prompt")
    positive = attach(conditioning, [Reference(start, framing=framing), *chain], "offset")
    said: list[str] = []
    after = run_sampler(
        model, positive, {"samples": torch.zeros_like(start, dtype=torch.float32)},
        seed=seed, steps=steps, guidance=guidance, notes=said,
    )  # fmt: skip
    painted = cut_out(vae.decode(after).float().cpu(), framing)
    latent_format = getattr(network, "latent_format", FLUX_LATENT)
    kept = kept_of(
        file.picture(parent), start, (painted, after.cpu()), framing, mask, keep, latent_format
    )
    return kept, [*said, *told_by(positive), *sockets().notes(model, positive, False)]
