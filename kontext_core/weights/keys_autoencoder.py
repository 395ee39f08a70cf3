"""Names of the autoencoder's tensors: diffusers' to BFL's, and TAEF1's diffusers names to its own.

Read off huggingface/diffusers, `convert_ldm_vae_checkpoint`, backwards. diffusers numbers the
decoder's levels from the coarsest, BFL from the finest.
"""

from __future__ import annotations

import re

from .keys import Destination

RESNET = re.compile(r"(encoder|decoder)\.(down|up)_blocks\.(\d+)\.resnets\.(\d+)\.(.+)")
SAMPLER = re.compile(r"(encoder|decoder)\.(down|up)_blocks\.(\d+)\.(?:down|up)samplers\.0\.(.+)")
MIDDLE = re.compile(r"(encoder|decoder)\.mid_block\.resnets\.([01])\.(.+)")
ATTENTION = re.compile(r"(encoder|decoder)\.mid_block\.attentions\.0\.(.+)\.(weight|bias)")
# The second name of each is that of diffusers before 0.13.
PROJECTIONS = {
    "to_q": "q", "query": "q",
    "to_k": "k", "key": "k",
    "to_v": "v", "value": "v",
    "to_out.0": "proj_out", "proj_attn": "proj_out",
    "group_norm": "norm",
}  # fmt: skip


def place_diffusers(name: str, levels: int) -> Destination:
    """Where a tensor of an AutoencoderKL with `levels` resolutions belongs."""
    if match := RESNET.fullmatch(name):
        half, way, level, block, rest = match.groups()
        return Destination(
            f"{half}.{way}.{_level(way, level, levels)}.block.{block}.{_inner(rest)}"
        )
    if match := SAMPLER.fullmatch(name):
        half, way, level, rest = match.groups()
        return Destination(f"{half}.{way}.{_level(way, level, levels)}.{way}sample.{rest}")
    if match := MIDDLE.fullmatch(name):
        half, block, rest = match.groups()
        return Destination(f"{half}.mid.block_{int(block) + 1}.{_inner(rest)}")
    if (match := ATTENTION.fullmatch(name)) and match[2] in PROJECTIONS:
        half, layer, leaf = match.groups()
        ours = PROJECTIONS[layer]
        change = "matrix to convolution" if leaf == "weight" and ours != "norm" else "keep"
        return Destination(f"{half}.mid.attn_1.{ours}.{leaf}", change=change)
    for half in ("encoder", "decoder"):
        if name.startswith(f"{half}.conv_norm_out."):
            return Destination(name.replace("conv_norm_out", "norm_out", 1))
    return Destination(name)


def place_tiny_diffusers(name: str, half: str) -> Destination:
    """TAEF1 of diffusers to plain positions: its decoder leaves out the clamp at the front."""
    match = re.fullmatch(rf"{half}\.layers\.(\d+)\.(.+)", name)
    if match is None:
        return Destination("")
    return Destination(f"{int(match[1]) + (half == 'decoder')}.{match[2]}")


def _level(way: str, number: str, levels: int) -> int:
    return int(number) if way == "down" else levels - 1 - int(number)


def _inner(rest: str) -> str:
    return rest.replace("conv_shortcut", "nin_shortcut", 1)
