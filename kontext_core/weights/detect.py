"""Recognises what a weights file holds, from names and shapes alone.

What is recognised but can't be used (other models, other kinds of quantization) is named by
`advice`, so that a refusal says what to use instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..errors import CheckpointError
from .advice import MODEL_NAMES, WANTED, blocked, what_is_it
from .entry import TensorEntry, shown_list
from .source import WeightsFile

ROLES = (
    "transformer", "autoencoder", "t5", "clip_l", "taef1_decoder", "taef1_encoder", "lora",
)  # fmt: skip
# Token channels of FLUX.1 and Kontext; Fill takes 384, Canny and Depth 128.
TOKEN_CHANNELS = 64
LATENT_CHANNELS = 16
# An all-in-one checkpoint has six. Each is read by going through all names.
MOST_NETWORKS = 16
# A ControlNet of FLUX.1 has the model's own names besides.
CONTROLNET = "controlnet_blocks.0.weight"


@dataclass(frozen=True)
class Contents:
    """One network in a file.

    Attributes:
        role: one of `ROLES`.
        layout: whose names: `bfl`, `diffusers`, `hf` (transformers), `ggml` (llama.cpp) or `openai`.
        prefix: what stands before each of its names, with its dot; often empty.
    """

    role: str
    layout: str
    prefix: str


class _Names:
    """The tensors of a file, seen from behind a prefix."""

    def __init__(self, file: WeightsFile) -> None:
        self.entries = file.entries

    def has(self, prefix: str, *names: str) -> bool:
        return all(prefix + name in self.entries for name in names)

    def side(self, name: str, axis: int) -> int:
        """Size along an axis; 0 where tensor or axis are missing."""
        entry: TensorEntry | None = self.entries.get(name)
        return entry.shape[axis] if entry is not None and len(entry.shape) > axis else 0


def _flux_bfl(names: _Names, prefix: str) -> Contents | None:
    wanted = ("img_in.weight", "txt_in.weight", "vector_in.in_layer.weight")
    other = (
        "double_stream_modulation_img.lin.weight",
        "distilled_guidance_layer.in_proj.weight",
        CONTROLNET,
    )
    if not names.has(prefix, *wanted) or any(names.has(prefix, name) for name in other):
        return None
    if names.side(f"{prefix}img_in.weight", 1) != TOKEN_CHANNELS:
        return None
    return Contents("transformer", "bfl", prefix)


def _flux_diffusers(names: _Names, prefix: str) -> Contents | None:
    wanted = (
        "context_embedder.weight",
        "time_text_embed.text_embedder.linear_1.weight",
        "transformer_blocks.0.norm1.linear.weight",
    )
    if not names.has(prefix, *wanted) or names.has(prefix, CONTROLNET):
        return None
    if names.side(f"{prefix}x_embedder.weight", 1) != TOKEN_CHANNELS:
        return None
    # SD3 shares names; its picture embedding is a convolution and its norms came later.
    if not names.has(prefix, "transformer_blocks.0.attn.norm_added_k.weight"):
        return None
    if len(names.entries[f"{prefix}x_embedder.weight"].shape) != 2:
        return None
    return Contents("transformer", "diffusers", prefix)


def _autoencoder(names: _Names, prefix: str) -> Contents | None:
    if not names.has(prefix, "encoder.conv_in.weight"):
        return None
    entry = names.entries[f"{prefix}decoder.conv_in.weight"]
    if len(entry.shape) != 4 or entry.shape[1] != LATENT_CHANNELS:
        return None
    if names.has(prefix, "post_quant_conv.weight") or names.has(prefix, "bn.running_mean"):
        return None
    if names.has(prefix, "decoder.mid.block_1.conv1.weight"):
        return Contents("autoencoder", "bfl", prefix)
    if names.has(prefix, "decoder.mid_block.resnets.0.conv1.weight"):
        return Contents("autoencoder", "diffusers", prefix)
    return None


def _t5(names: _Names, prefix: str) -> Contents | None:
    # UMT5 (Wan) has position biases in every block, T5 only in the first.
    second = "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"
    if names.has(prefix, second):
        return None
    if not names.has(prefix, "encoder.block.0.layer.1.DenseReluDense.wi_0.weight"):
        return None
    return Contents("t5", "hf", prefix)


def _t5_ggml(names: _Names, prefix: str) -> Contents | None:
    if names.has(prefix, "enc.blk.1.attn_rel_b.weight"):
        return None
    if not names.has(prefix, "enc.blk.0.ffn_gate.weight", "token_embd.weight"):
        return None
    return Contents("t5", "ggml", prefix)


def _clip(names: _Names, prefix: str) -> Contents | None:
    if not names.has(prefix, "encoder.layers.0.mlp.fc1.weight"):
        return None
    # CLIP-L is 768 wide; SD2's CLIP-H 1024 and SDXL's CLIP-G 1280 have the same names.
    if names.side(f"{prefix}embeddings.token_embedding.weight", 1) in (1024, 1280):
        return None
    return Contents("clip_l", "hf", prefix.removesuffix("text_model."))


def _clip_openai(names: _Names, prefix: str) -> Contents | None:
    if not names.has(prefix, "transformer.resblocks.0.attn.in_proj_weight", "positional_embedding"):
        return None
    if names.side(f"{prefix}token_embedding.weight", 1) in (1024, 1280):
        return None
    return Contents("clip_l", "openai", prefix)


def _tiny_decoder(names: _Names, prefix: str) -> Contents | None:
    if names.side(f"{prefix}1.weight", 1) != LATENT_CHANNELS:
        return None
    return Contents("taef1_decoder", "bfl", prefix)


def _tiny_encoder(names: _Names, prefix: str) -> Contents | None:
    # Diffusers' form has the same positions behind this, and is found by its own name.
    if prefix.endswith("encoder.layers."):
        return None
    if names.side(f"{prefix}14.weight", 0) != LATENT_CHANNELS:
        return None
    if not names.has(prefix, "0.weight"):
        return None
    return Contents("taef1_encoder", "bfl", prefix)


def _tiny_decoder_diffusers(names: _Names, prefix: str) -> Contents | None:
    if names.side(f"{prefix}decoder.layers.0.weight", 1) != LATENT_CHANNELS:
        return None
    return Contents("taef1_decoder", "diffusers", prefix)


def _tiny_encoder_diffusers(names: _Names, prefix: str) -> Contents | None:
    if names.side(f"{prefix}encoder.layers.14.weight", 0) != LATENT_CHANNELS:
        return None
    return Contents("taef1_encoder", "diffusers", prefix)


# A name that tells a network, whatever stands before it, and the closer look.
MARKERS: tuple[tuple[str, Callable[[_Names, str], Contents | None]], ...] = (
    ("double_blocks.0.img_attn.norm.key_norm.scale", _flux_bfl),
    ("double_blocks.0.img_attn.norm.key_norm.weight", _flux_bfl),
    ("x_embedder.weight", _flux_diffusers),
    ("decoder.conv_in.weight", _autoencoder),
    ("encoder.block.0.layer.0.SelfAttention.q.weight", _t5),
    ("enc.blk.0.attn_q.weight", _t5_ggml),
    ("embeddings.token_embedding.weight", _clip),
    ("token_embedding.weight", _clip_openai),
    ("3.conv.0.weight", _tiny_decoder),
    ("1.conv.0.weight", _tiny_encoder),
    ("decoder.layers.2.conv.0.weight", _tiny_decoder_diffusers),
    ("encoder.layers.1.conv.0.weight", _tiny_encoder_diffusers),
)
LORA_NAMES = (
    ".lora_A.", ".lora_B.", ".lora_down.", ".lora_up.", ".lora.down.", ".lora.up.", ".lokr_w1",
    ".lokr_w2", ".hada_w1", ".hada_w2", ".dora_scale", ".oft_blocks", "_lora1.down", "_lora2.down",
    ".qkv_lora.down", ".proj_lora.down",
)  # fmt: skip
LORA_STARTS = ("lora_unet_", "lora_transformer_", "lycoris_", "lora_te")
LORA_ENDS = (".diff", ".diff_b", ".w_norm", ".b_norm", ".set_weight")


def _looks_like_lora(name: str) -> bool:
    return (
        name.startswith(LORA_STARTS)
        or name.endswith(LORA_ENDS)
        or any(part in name for part in LORA_NAMES)
    )


def _found(file: WeightsFile) -> Iterator[Contents]:
    names = _Names(file)
    for name in file.entries:
        for marker, look in MARKERS:
            if name.endswith(marker):
                prefix = name[: -len(marker)]
                if (not prefix or prefix.endswith(".")) and (found := look(names, prefix)):
                    yield found


def detect(file: WeightsFile) -> tuple[Contents, ...]:
    """Everything in the file that can be used; an all-in-one file holds several networks.

    Empty if there is nothing, or if the weights are quantized in a way that is not read. The
    transformer comes first, and of several networks of a kind the one with the shortest prefix.

    Raises:
        CheckpointError: far more networks than any model has.
    """
    if blocked(file):
        return ()
    found = set(_found(file))
    if len(found) > MOST_NETWORKS:
        raise CheckpointError(
            f"{file.path}: names {len(found)} networks; expected at most {MOST_NETWORKS} in one file. "
            "It is damaged: download it again"
        )
    if not any(contents.role == "transformer" for contents in found) and any(
        _looks_like_lora(name) for name in file.entries
    ):
        layout = "bfl" if any("double_blocks" in name for name in file.entries) else "diffusers"
        return (Contents("lora", layout, ""),)
    return tuple(
        sorted(found, key=lambda c: (ROLES.index(c.role), len(c.prefix), c.prefix, c.layout))
    )


def require(file: WeightsFile, role: str) -> Contents:
    """The network of a role.

    Args:
        file: an open file.
        role: one of `ROLES`.

    Raises:
        CheckpointError: it is not in the file; says what the file is instead and what to use.
    """
    if role not in ROLES:
        raise ValueError(f"role {role!r} is unknown; expected one of {', '.join(ROLES)}")
    found = detect(file)
    for contents in found:
        if contents.role == role:
            return contents
    wanted = MODEL_NAMES[role]
    if found:
        held = " and ".join(MODEL_NAMES[contents.role] for contents in found)
        raise CheckpointError(
            f"{file.path}: holds {held}, but {wanted} is wanted here. Use {WANTED[role]}"
        )
    other = what_is_it(file)
    if other is not None:
        raise CheckpointError(
            f"{file.path}: is {other.what}, which can't be used as {wanted}. "
            f"Use {other.instead or WANTED[role]}"
        )
    raise CheckpointError(
        f"{file.path}: {wanted} is wanted here and was not recognised among its "
        f"{len(file.entries)} tensors (such as {shown_list(sorted(file.entries), 2)}). "
        f"Use {WANTED[role]}"
    )
