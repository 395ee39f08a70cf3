"""The three loaders: MODEL, CLIP and VAE from the embedded model or from the user's files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..kontext_core.errors import InputError
from .files import EMBEDDED, choices, complaint, source_of, stamp
from .host import counter, get_host
from .native import VaeCalls, make_clip, make_model, make_vae
from .native.copies import tell_how
from .notes import output
from .schema import make

if TYPE_CHECKING:
    import torch

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
# What large layers multiply with, beside "auto" for everything else; the core calls it `eight_bit`.
EIGHT_BIT = {"8 bit": "auto", "int8": "int8", "fp8": "fp8"}
# How weights lie in memory; the core calls it `pack`.
MEMORY = {"auto": None, "as stored": True, "converted": False}
PADDINGS = ("256", "512")


def _dtype(precision: str, role: str = "model") -> torch.dtype:
    """The dtype to compute in. "auto" on ComfyUI follows how it was started (`--fp32-vae`,
    `--cpu-vae`) and what the device can do."""
    import torch

    from ..kontext_core.weights.install import default_dtype

    host = get_host()
    own = getattr(host, "vae_dtype", None)
    if precision == "auto" and role == "vae" and own is not None:
        return own()
    if precision == "auto" or precision in EIGHT_BIT:
        return default_dtype(host.device())
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[
        precision
    ]


def _bar(name: str) -> Callable[[int, int], None] | None:
    """The progress bar for loading the user's files; an embedded model is there at once."""
    return None if name in EMBEDDED else counter()


def load_model(name: str = EMBEDDED[0], precision: str = "auto", memory: str = "auto") -> Any:
    """A transformer by its name in the node's list, as the host's MODEL. Errors as the core's
    `load_model`."""
    return _model(name, precision, memory)[0]


def _model(name: str, precision: str, memory: str) -> tuple[Any, list[str]]:
    """`load_model`, and what there is to say about the file."""
    from ..kontext_core.weights import load
    from ..kontext_core.weights.eight_bit import use_eight_bit

    state = stamp("model", name)
    flux = load.load_model(
        source_of("model", name), dtype=_dtype(precision), pack=MEMORY[memory], progress=_bar(name)
    )
    products = EIGHT_BIT.get(precision, "off")
    # Where the weights are now is not where the host will have them when they are used.
    count = use_eight_bit(flux, products, get_host().device())
    model = make_model(flux, name)
    tell_how(model, load_model, "model", state, (name, precision, memory))
    said = [f"8-bit products in {count} layers"] if count else []
    if products == "auto" and not count:
        said = ["no 8-bit products: this device gains nothing by them"]
    return model, said + _notes(flux)


def _notes(*networks: Any) -> list[str]:
    """What was left over in the files, where anything was."""
    from ..kontext_core.weights.fit import note_of

    return [note_of(left) for network in networks if (left := getattr(network, "left_over", ()))]


def load_clip(
    t5_name: str = EMBEDDED[0], clip_l_name: str = EMBEDDED[0], padding: str = PADDINGS[0]
) -> Any:
    """Text encoders by their names, as the host's CLIP. Errors as the core's `load_text_encoders`.

    Raises:
        InputError: an embedded encoder, which is both in one, beside a file.
    """
    return _clip(t5_name, clip_l_name, padding)[0]


def _clip(t5_name: str, clip_l_name: str, padding: str) -> tuple[Any, list[str]]:
    """`load_clip`, and what there is to say about the files."""
    import torch

    from ..kontext_core.weights import load

    embedded = any(name.startswith("embedded:") for name in (t5_name, clip_l_name))
    if embedded and t5_name != clip_l_name:
        raise InputError(
            f"t5_name is {t5_name!r} and clip_l_name {clip_l_name!r}; an embedded encoder serves "
            "as both, so choose the same twice, or a file for each"
        )
    encoders = load.load_text_encoders(
        source_of("t5", t5_name),
        None if embedded else source_of("clip_l", clip_l_name),
        max_length=int(padding),
        # Conditioning is computed once, and float32 keeps it the same everywhere.
        dtype=torch.float32,
        progress=_bar(t5_name),
    )
    return make_clip(encoders, t5_name), _notes(
        encoders, getattr(encoders, "t5", None), getattr(encoders, "clip_l", None)
    )


def load_vae(name: str = EMBEDDED[0], precision: str = "auto") -> VaeCalls:
    """An autoencoder by its name, as the host's VAE. Errors as the core's `load_autoencoder`."""
    return _vae(name, precision)[0]


def _vae(name: str, precision: str) -> tuple[VaeCalls, list[str]]:
    """`load_vae`, and what there is to say about the file."""
    from ..kontext_core.weights import load

    state = stamp("vae", name)
    source = source_of("vae", name)
    autoencoder = load.load_autoencoder(source, dtype=_dtype(precision, "vae"), progress=_bar(name))
    vae = make_vae(autoencoder, name, _resolutions(source))
    tell_how(getattr(vae, "patcher", None), load_vae, "vae", state, (name, precision))
    return vae, _notes(autoencoder)


def _resolutions(source: str) -> tuple[tuple[int, int], ...]:
    """Sizes the model of this autoencoder was trained at: its folder's, else the published."""
    from ..kontext_core.config import read_config, resolutions_from
    from ..kontext_core.resolutions import KONTEXT_RESOLUTIONS
    from ..kontext_core.weights.files import find

    config: Path = find(source) / "config.json"
    if not config.is_file():
        return KONTEXT_RESOLUTIONS
    return resolutions_from(read_config(config), config)


def _precision(*more: str, said: str = "") -> Any:
    return io.Combo.Input(
        "precision",
        options=[*PRECISIONS, *more],
        default="auto",
        tooltip="Number format to compute in. auto: float32 on a CPU, bfloat16 on a GPU. float16 "
        f"can overflow; take it only where bfloat16 is slow.{said}",
    )


class KontextLoadModel(io.ComfyNode):
    """Transformer to MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            node_id="KontextLoadModel",
            display_name="Kontext: Load Model",
            description="Loads a FLUX.1 Kontext transformer: the small embedded one, or any "
            "published file: safetensors, fp8, GGUF, a diffusers folder, an all-in-one "
            "checkpoint. What it is, is read from its header.",
            has_intermediate_output=True,
            search_aliases=[
                "kontext", "flux edit", "load flux", "unet loader", "diffusion model", "gguf",
                "fp8", "checkpoint", "diffusers",
            ],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=[*EMBEDDED, *choices("model")],
                    default=EMBEDDED[0],
                    tooltip="The embedded model needs no download and runs on any CPU, but knows "
                    "only small drawn scenes. Files: .safetensors and .gguf in "
                    "models/diffusion_models, all-in-one files in models/checkpoints, folders in "
                    "models/diffusers.",
                ),
                _precision(
                    *EIGHT_BIT,
                    said=" 8 bit: as auto, but the large layers multiply 8-bit numbers, faster and "
                    "a little less exact: fp8 on a GPU from RTX 40 or H100 on, else int8.",
                ),
                io.Combo.Input(
                    "memory",
                    options=list(MEMORY),
                    default="auto",
                    optional=True,
                    tooltip="For files in float32, bfloat16 or float16. as stored: weights stay "
                    "in the file's format and are turned into the precision layer by layer, with "
                    "the least memory. converted: all are turned once, while loading. auto: as "
                    "stored, except for small models. fp8 and GGUF always stay as stored.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    "model",
                    display_name="MODEL",
                    tooltip="For Kontext: Sampler, or through Kontext: Load LoRA.",
                )
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, model_name: str | None = None) -> bool | str:
        """Says before the run where a missing file belongs."""
        return complaint("model", model_name) or True

    @classmethod
    def fingerprint_inputs(cls, model_name: str | None = None, **_: Any) -> str:
        """Loads again what was replaced on disk."""
        return stamp("model", model_name)

    @classmethod
    def execute(cls, model_name: str, precision: str, memory: str = "auto") -> io.NodeOutput:
        loaded, notes = _model(model_name, precision, memory)
        return output(loaded, notes=notes)


class KontextLoadTextEncoders(io.ComfyNode):
    """Text encoders to CLIP."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            node_id="KontextLoadTextEncoders",
            display_name="Kontext: Load Text Encoders",
            description="Loads what turns the instruction into conditioning: FLUX.1's T5-XXL and "
            "CLIP-L in any published form, or the embedded model's one small encoder for both "
            "parts, which takes any text and knows about a hundred words well.",
            # Has the notes sent again when the node itself is answered from the cache.
            has_intermediate_output=True,
            search_aliases=["kontext", "clip loader", "dual clip", "t5", "text encoder", "gguf"],
            inputs=[
                io.Combo.Input(
                    "t5_name",
                    options=[*EMBEDDED, *choices("t5")],
                    default=EMBEDDED[0],
                    tooltip="Encoder of the words (FLUX.1: T5-XXL). Must belong to the model. "
                    "Files: .safetensors and .gguf in models/text_encoders.",
                ),
                io.Combo.Input(
                    "clip_l_name",
                    options=[*EMBEDDED, *choices("clip_l")],
                    default=EMBEDDED[0],
                    tooltip="Encoder of the whole sentence (FLUX.1: CLIP-L). The embedded model "
                    "has one for both, so choose the same here.",
                ),
                io.Combo.Input(
                    "padding",
                    options=list(PADDINGS),
                    default=PADDINGS[0],
                    optional=True,
                    tooltip="Length in tokens to which T5's text is filled up. 256: as ComfyUI, "
                    "longer texts are kept whole. 512: as diffusers and the reference code, "
                    "longer texts are cut. The embedded encoder has its own.",
                ),
            ],
            outputs=[io.Clip.Output("clip", display_name="CLIP", tooltip="For CLIP Text Encode.")],
        )

    @classmethod
    def validate_inputs(
        cls, t5_name: str | None = None, clip_l_name: str | None = None
    ) -> bool | str:
        """Says before the run where a missing file belongs."""
        return complaint("t5", t5_name) or complaint("clip_l", clip_l_name) or True

    @classmethod
    def fingerprint_inputs(
        cls, t5_name: str | None = None, clip_l_name: str | None = None, **_: Any
    ) -> str:
        """Loads again what was replaced on disk."""
        return f"{stamp('t5', t5_name)} {stamp('clip_l', clip_l_name)}"

    @classmethod
    def execute(cls, t5_name: str, clip_l_name: str, padding: str = PADDINGS[0]) -> io.NodeOutput:
        loaded, notes = _clip(t5_name, clip_l_name, padding)
        return output(loaded, notes=notes)


class KontextLoadVAE(io.ComfyNode):
    """Autoencoder to VAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            node_id="KontextLoadVAE",
            display_name="Kontext: Load VAE",
            description="Loads the autoencoder between pictures and latents: the embedded one, or "
            "FLUX.1's as a file of its own, in a diffusers folder or in an all-in-one checkpoint.",
            has_intermediate_output=True,
            search_aliases=["kontext", "vae loader", "autoencoder", "ae.safetensors"],
            inputs=[
                io.Combo.Input(
                    # Not vae_name: frontends up to 1.27 look such inputs up among ComfyUI's own
                    # loaders, and break where the host has none of those.
                    "model_name",
                    options=[*EMBEDDED, *choices("vae")],
                    default=EMBEDDED[0],
                    tooltip="Must belong to the model: embedded with embedded, FLUX.1's "
                    "ae.safetensors with FLUX.1 files. Files: .safetensors in models/vae, "
                    "all-in-one files in models/checkpoints, folders in models/diffusers.",
                ),
                _precision(),
            ],
            outputs=[
                io.Vae.Output(
                    "vae", display_name="VAE", tooltip="For Kontext: Reference, Kontext: Finish "
                    "and ComfyUI's VAE nodes."
                )
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, model_name: str | None = None) -> bool | str:
        """Says before the run where a missing file belongs."""
        return complaint("vae", model_name) or True

    @classmethod
    def fingerprint_inputs(cls, model_name: str | None = None, **_: Any) -> str:
        """Loads again what was replaced on disk."""
        return stamp("vae", model_name)

    @classmethod
    def execute(cls, model_name: str, precision: str) -> io.NodeOutput:
        loaded, notes = _vae(model_name, precision)
        return output(loaded, notes=notes)
