"""Kontext: Quantize: writes a smaller GGUF file of a model into the folder of models."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from comfy_api.latest import io

from ..kontext_core.errors import InputError
from .files import choices, complaint, find, own_folder, stamp
from .host import counter, get_host
from .schema import make

# Largest first. Names are those under which files are published: in an M file the fused q, k, v
# matrices of the double blocks keep more bits than in an S file.
TYPES = (
    "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "Q3_K_M", "Q3_K_S", "Q2_K",
    "Q5_1", "Q5_0", "Q4_1", "Q4_0", "BF16", "F16",
)  # fmt: skip


def _target(model_name: str, file_type: str, file_name: str) -> tuple[str, Path]:
    """(name in the loaders' lists, path) of the file to write.

    Raises:
        InputError: a name that leads out of the folder, or of another kind of file.
    """
    name = file_name.strip().replace("\\", "/")
    if not name:
        stem = PurePosixPath(model_name.replace("\\", "/").rpartition(": ")[2]).name
        for suffix in (".safetensors", ".sft", ".gguf"):
            stem = stem.removesuffix(suffix)
        name = f"{stem}-{file_type}"
    name = name.removesuffix(".gguf") + ".gguf"
    below = PurePosixPath(name)
    bad = below.is_absolute() or ".." in below.parts or below.name == ".gguf"
    if bad or any(character in name for character in '\0:*?"<>|'):
        raise InputError(
            f"file_name is {file_name!r}; expected a name below the folder of models, such as "
            "flux1-kontext-dev-Q4_K_S.gguf, or nothing"
        )
    return str(below), own_folder("model") / below


class KontextQuantize(io.ComfyNode):
    """Model file to GGUF file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            node_id="KontextQuantize",
            display_name="Kontext: Quantize",
            description="Writes a model file as a smaller GGUF file into models/diffusion_models. "
            "Takes minutes and needs memory for one tensor, not for the model. Other GGUF loaders "
            "read the result too.",
            search_aliases=["kontext", "gguf", "quantize", "convert", "shrink", "Q4_K"],
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=choices("model"),
                    tooltip="The file to make smaller, best in bfloat16, float16 or float32. "
                    "fp8 and GGUF are read as well, but what they have lost does not come back.",
                ),
                io.Combo.Input(
                    "type",
                    options=list(TYPES),
                    default="Q4_K_M",
                    tooltip="Bits per weight: Q8_0 8.5 (next to no loss), Q6_K 6.6, Q5_K 5.5, "
                    "Q4_K 4.5 (a 12 B model takes 6.8 GB), Q3_K 3.4, Q2_K 2.6. M keeps more "
                    "bits than S in some layers.",
                ),
                io.String.Input(
                    "file_name",
                    default="",
                    tooltip="Name of the new file in models/diffusion_models, subfolders with /. "
                    "Empty: the model's name with the type behind it.",
                ),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    tooltip="Replace a file of this name. Off: refuse.",
                ),
            ],
            outputs=[
                io.AnyType.Output(
                    "written",
                    display_name="name",
                    tooltip="Name of the new file, for the model_name of Kontext: Load Model.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, model_name: str | None = None) -> bool | str:
        """Says before the run where a missing file belongs."""
        return complaint("model", model_name) or True

    @classmethod
    def fingerprint_inputs(cls, model_name: str | None = None, **_: Any) -> str:
        """Writes again what was replaced on disk."""
        return stamp("model", model_name)

    @classmethod
    def execute(cls, model_name: str, type: str, file_name: str, overwrite: bool) -> io.NodeOutput:
        from ..kontext_core.convert import quantize_file

        source = find("model", model_name or "")
        name, target = _target(model_name, type, file_name)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"can't make the folder {target.parent} ({error}); choose another file_name"
            ) from error
        report = quantize_file(
            source,
            target,
            type,
            # Raises the host's own exception when it interrupts.
            progress=counter(),
            overwrite=overwrite,
            device=get_host().device(),
        )
        notes = [
            name,
            report.sizes,
            ", ".join(f"{count} tensors {kind}" for kind, count in report.kinds.items()),
        ]
        return io.NodeOutput(name, ui={"kontext_notes": notes})
