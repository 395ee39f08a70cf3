"""The three loaders: MODEL, CLIP and VAE from the embedded model or from the user's files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..kontext_core.errors import ModelNotFoundError
from .host import get_host
from .native import KontextClip, KontextModel, KontextVAE
from .schema import make

if TYPE_CHECKING:
    import torch

__all__ = [
    "EMBEDDED",
    "KontextLoadModel",
    "KontextLoadTextEncoders",
    "KontextLoadVAE",
    "load_clip",
    "load_model",
    "load_vae",
]

# Shown before the user's files; the part after the colon is the core's name of it.
EMBEDDED = ("embedded: tiny",)
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
READABLE = (".safetensors", ".sft")


def _choices(kind: str) -> list[str]:
    files = [name for name in get_host().model_files(kind) if name.endswith(READABLE)]
    return [*EMBEDDED, *files]


def _source(kind: str, name: str) -> str:
    """The name or path the core's loaders take.

    Raises:
        ModelNotFoundError: neither embedded nor one of the user's files.
    """
    if name in EMBEDDED:
        return name.partition(": ")[2]
    if not name or name.startswith("embedded:"):
        raise ModelNotFoundError(
            f"there is no model {name!r}; embedded in this version: {', '.join(EMBEDDED)}"
        )
    return str(get_host().model_path(kind, name))


def _dtype(precision: str) -> torch.dtype:
    import torch

    from ..kontext_core.weights.load import default_dtype

    if precision == "auto":
        return default_dtype(get_host().device())
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[
        precision
    ]


def load_model(name: str = EMBEDDED[0], precision: str = "auto") -> KontextModel:
    """A transformer by its name in the node's list. Errors as the core's `load_model`."""
    from ..kontext_core.weights import load

    source = _source("diffusion_models", name)
    return KontextModel(load.load_model(source, dtype=_dtype(precision)), name)


def load_clip(name: str = EMBEDDED[0]) -> KontextClip:
    """The text encoder by its name. Errors as the core's `load_text_encoders`."""
    import torch

    from ..kontext_core.weights import load

    # It takes milliseconds on a CPU, and float32 keeps conditioning the same everywhere.
    source = _source("text_encoders", name)
    return KontextClip(load.load_text_encoders(source, dtype=torch.float32), name)


def load_vae(name: str = EMBEDDED[0], precision: str = "auto") -> KontextVAE:
    """An autoencoder by its name. Errors as the core's `load_autoencoder`."""
    from ..kontext_core.weights import load

    source = _source("vae", name)
    autoencoder = load.load_autoencoder(source, dtype=_dtype(precision))
    return KontextVAE(autoencoder, name, _resolutions(source))


def _resolutions(source: str) -> tuple[tuple[int, int], ...]:
    """Sizes the model of this autoencoder was trained at: its folder's, else the published."""
    from ..kontext_core.config import read_config
    from ..kontext_core.resolutions import KONTEXT_RESOLUTIONS
    from ..kontext_core.weights.files import find

    path = find(source)
    if not path.is_dir():
        return KONTEXT_RESOLUTIONS
    sizes = read_config(path / "config.json").get("resolutions", KONTEXT_RESOLUTIONS)
    return tuple((int(width), int(height)) for width, height in sizes)


def _precision() -> Any:
    return io.Combo.Input(
        "precision",
        options=list(PRECISIONS),
        default="auto",
        tooltip="Number format of the weights in memory. auto: float32 on a CPU, bfloat16 on a "
        "GPU. float16 can overflow; take it only where bfloat16 is slow.",
    )


class KontextLoadModel(io.ComfyNode):
    """Transformer to MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            node_id="KontextLoadModel",
            display_name="Kontext: Load Model",
            description="Loads a FLUX.1 Kontext transformer: the small embedded one, or "
            "flux1-kontext-dev.safetensors from models/diffusion_models.",
            search_aliases=["kontext", "flux edit", "load flux", "unet loader", "diffusion model"],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=_choices("diffusion_models"),
                    default=EMBEDDED[0],
                    tooltip="The embedded model needs no download and runs on any CPU, but knows "
                    "only small drawn scenes. Files: .safetensors in models/diffusion_models.",
                ),
                _precision(),
            ],
            outputs=[
                io.Model.Output("model", display_name="MODEL", tooltip="For Kontext: Sampler.")
            ],
        )

    @classmethod
    def execute(cls, model_name: str, precision: str) -> io.NodeOutput:
        return io.NodeOutput(load_model(model_name, precision))


class KontextLoadTextEncoders(io.ComfyNode):
    """Text encoders to CLIP."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            node_id="KontextLoadTextEncoders",
            display_name="Kontext: Load Text Encoders",
            description="Loads what turns the instruction into conditioning. The embedded model "
            "has one small encoder for both parts; it takes any text and knows about a hundred "
            "words well.",
            search_aliases=["kontext", "clip loader", "dual clip", "t5", "text encoder"],
            inputs=[
                io.Combo.Input(
                    "t5_name",
                    options=list(EMBEDDED),
                    default=EMBEDDED[0],
                    tooltip="Encoder of the words (FLUX.1: T5-XXL). Must belong to the model.",
                ),
                io.Combo.Input(
                    "clip_l_name",
                    options=list(EMBEDDED),
                    default=EMBEDDED[0],
                    tooltip="Encoder of the whole sentence (FLUX.1: CLIP-L). The embedded model "
                    "has one for both, so choose the same here.",
                ),
            ],
            outputs=[io.Clip.Output("clip", display_name="CLIP", tooltip="For CLIP Text Encode.")],
        )

    @classmethod
    def execute(cls, t5_name: str, clip_l_name: str) -> io.NodeOutput:
        if t5_name != clip_l_name:
            raise ModelNotFoundError(
                f"t5_name is {t5_name!r} and clip_l_name {clip_l_name!r}; an embedded encoder "
                "serves as both, so choose the same twice"
            )
        return io.NodeOutput(load_clip(t5_name))


class KontextLoadVAE(io.ComfyNode):
    """Autoencoder to VAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            node_id="KontextLoadVAE",
            display_name="Kontext: Load VAE",
            description="Loads the autoencoder between pictures and latents: the embedded one, or "
            "FLUX.1's ae.safetensors from models/vae.",
            search_aliases=["kontext", "vae loader", "autoencoder", "ae.safetensors"],
            inputs=[
                io.Combo.Input(
                    # Not vae_name: frontends up to 1.27 look such inputs up among ComfyUI's own
                    # loaders, and break where the host has none of those.
                    "model_name",
                    options=_choices("vae"),
                    default=EMBEDDED[0],
                    tooltip="Must belong to the model: embedded with embedded, FLUX.1's "
                    "ae.safetensors with FLUX.1 files. Files: .safetensors in models/vae.",
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
    def execute(cls, model_name: str, precision: str) -> io.NodeOutput:
        return io.NodeOutput(load_vae(model_name, precision))
