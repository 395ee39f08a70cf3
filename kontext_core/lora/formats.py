"""How LoRA files split a key into a layer's name and the role of the tensor, and what roles make.

Names of the roles are ours; which endings stand for them is the files' business. A group is all
tensors of a file that belong to one layer's name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

# Adapter names ("default") stand between PEFT's role and `.weight`.
_PEFT = r"(?:\.(?!weight$|bias$)[\w-]+)?"
ENDINGS: tuple[tuple[str, str], ...] = (
    (r"\.lora_(?:down|linear_layer\.down)\.weight", "down"),
    (r"\.lora_(?:up|linear_layer\.up)\.weight", "up"),
    (r"\.lora\.down\.weight", "down"),
    (r"\.lora\.up\.weight", "up"),
    (r"\.lora_mid\.weight", "mid"),
    (rf"\.lora_A{_PEFT}\.bias", "down_bias"),
    (rf"\.lora_B{_PEFT}\.bias", "up_bias"),
    (rf"\.lora_A{_PEFT}(?:\.weight)?", "down"),
    (rf"\.lora_B{_PEFT}(?:\.weight)?", "up"),
    (rf"\.lora_magnitude_vector{_PEFT}(?:\.weight)?", "magnitude"),
    (r"\.dora_scale", "dora_scale"),
    (r"\.alpha", "alpha"),
    (r"\.hada_(w[12]_[ab]|t[12])", "hada_"),
    (r"\.lokr_(w[12](?:_[ab])?|t[12])", "lokr_"),
    (r"\.oft_blocks", "oft_blocks"),
    (r"\.rescale", "rescale"),
    (r"\.([ab][12])\.weight", "glora_"),
    (r"\.diff", "diff"),
    (r"\.diff_b", "diff_b"),
    (r"\.w_norm", "diff"),
    (r"\.b_norm", "diff_b"),
    (r"\.set_weight", "set"),
    (r"\.reshape_weight", "reshape"),
    (r"\.scalar", "scalar"),
    (r"\.on_input", "on_input"),
    (rf"\.oft_[rR]{_PEFT}(?:\.weight)?", "oft_r"),
    (rf"\.boft_[RsP]{_PEFT}", "boft_peft"),
    (rf"\.vera_lambda_[bd]{_PEFT}", "vera"),
    (rf"\.ia3_l{_PEFT}", "on_input"),
    (rf"\.hra_u{_PEFT}", "hra"),
    # XLabs' processors, and SD-style `to_q_lora.up.weight`, whose name ends in `_lora`.
    (r"(?<=_lora1)\.down\.weight|(?<=_lora2)\.down\.weight|(?<=_lora)\.down\.weight", "down"),
    (r"(?<=_lora1)\.up\.weight|(?<=_lora2)\.up\.weight|(?<=_lora)\.up\.weight", "up"),
)
PATTERNS = tuple((re.compile(f"(?:{ending})$"), role) for ending, role in ENDINGS)


@dataclass(frozen=True)
class Kind:
    """A way to say what changes in a layer.

    name: as users know it. needs: sets of roles, any of which is complete. takes: further roles.
    """

    name: str
    needs: tuple[frozenset[str], ...]
    takes: frozenset[str] = frozenset()


def _kind(name: str, *needs: str, takes: str = "") -> Kind:
    return Kind(name, tuple(frozenset(n.split()) for n in needs), frozenset(takes.split()))


KINDS: Mapping[str, Kind] = {
    "lora": _kind("LoRA", "down up", takes="mid"),
    "loha": _kind("LoHa", "hada_w1_a hada_w1_b hada_w2_a hada_w2_b", takes="hada_t1 hada_t2"),
    "lokr": _kind(
        "LoKr",
        "lokr_w1 lokr_w2",
        "lokr_w1_a lokr_w1_b lokr_w2",
        "lokr_w1 lokr_w2_a lokr_w2_b",
        "lokr_w1_a lokr_w1_b lokr_w2_a lokr_w2_b",
        takes="lokr_t2",
    ),
    "glora": _kind("GLoRA", "glora_a1 glora_a2 glora_b1 glora_b2"),
    "oft": _kind("OFT", "oft_blocks", takes="rescale"),
    "diff": _kind("full difference", "diff"),
    "set": _kind("replaced weight", "set"),
    "bias": _kind("bias difference", "diff_b"),
    "up_bias": _kind("bias of lora_B", "up_bias"),
}
# Role -> what it belongs to. Named in the error, never half applied.
REFUSED: Mapping[str, str] = {
    "on_input": "IA3",
    "oft_r": "OFT as PEFT or sd-scripts store it",
    "boft_peft": "BOFT",
    "vera": "VeRA",
    "hra": "HRA",
    "down_bias": "a LoRA with a bias on lora_A",
    "reshape": "a LoRA that widens a layer",
}


def split_key(key: str) -> tuple[str, str] | None:
    """A key as (name of the layer, role), or None where the ending says nothing."""
    for pattern, role in PATTERNS:
        match = pattern.search(key)
        if match and match.start() > 0:
            part = match.group(1) if match.re.groups and match.group(1) else ""
            return key[: match.start()], role + part
    return None


def kind_of(roles: frozenset[str]) -> list[tuple[str, frozenset[str]]]:
    """Every complete kind in a group, with the roles it uses up."""
    found = []
    for kind, rule in KINDS.items():
        complete = next((need for need in rule.needs if need <= roles), None)
        if complete is not None:
            found.append((kind, complete | (rule.takes & roles)))
    return found
