"""ComfyUI's ModelPatcher for networks with packed weights, and with this pack's LoRAs.

A packed weight is never written to. What the host's patches do to it is kept beside the layer
(`changes`), set anew after every full or partial load: the host's own list of functions on a weight is
emptied at every load, and filled only for layers that stay on the CPU. Plain layers are the host's.

ComfyUI's patcher for "dynamic" memory (0.12 and later) would run its patches on stored bytes, so ours
comes from the plain ModelPatcher, with which the host mixes it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...kontext_core.errors import InputError
from .changes import change_of
from .layers import HostPacked, is_packed

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ...kontext_core.lora.load import Lora

# Under which name a MODEL carries this pack's LoRAs; the host copies it with every clone.
LORAS = "kontext_loras"


def patcher_for(
    model: nn.Module, *, load_device: torch.device, offload_device: torch.device
) -> Any:
    """A ModelPatcher of the host's for a model whose layers went through `host_layers`.

    Args:
        model: with its weights; for a MODEL the host's wrapper with the network as its
            `diffusion_model`.
    """
    return _patcher_class()(model, load_device, offload_device)


def loras_of(patcher: Any) -> tuple[tuple[Lora, float], ...]:
    """This pack's LoRAs on a MODEL, with their strengths."""
    return patcher.attachments.get(LORAS, ())


def with_loras(patcher: Any, loras: Sequence[tuple[Lora, float]]) -> Any:
    """A clone of a MODEL with these LoRAs of this pack's, and no others of its.

    They act beside the weights from the next time it is loaded. The network, which the clones
    share, is not touched before.
    """
    other = patcher.clone()
    other.attachments[LORAS] = tuple(loras)
    if other.patches and any(entry.needs_weight for lora, _ in loras for entry in lora.entries):
        # These measure the weights, which must be the original ones then.
        import uuid

        other.patches_uuid = uuid.uuid4()
    return other


def network_of(patcher: Any) -> nn.Module:
    """The core's network in a patcher."""
    return getattr(patcher.model, "diffusion_model", patcher.model)


def _strip(functions: list[Any]) -> list[Any]:
    """Without the host's own patches of weights that stay on the CPU."""
    import comfy.model_patcher

    return [f for f in functions if not isinstance(f, comfy.model_patcher.LowVramPatch)]


@functools.cache
def _patcher_class() -> type:
    import comfy.float
    import comfy.lora
    import comfy.model_management
    import comfy.model_patcher
    import comfy.utils

    base: Any = comfy.model_patcher.ModelPatcher

    class KontextPatcher(base):
        """See the module's text. The host clones it by calling the class as it calls its own."""

        def packed(self, key: str) -> Any:
            """The packed layer whose weight a key names, or None."""
            path, _, name = key.rpartition(".")
            if name != "weight":
                return None
            try:
                layer = comfy.utils.get_attr(self.model, path)
            except AttributeError:
                return None
            return layer if is_packed(layer) else None

        def forget(self) -> None:
            """What the network has made and kept is that of the weights as they were."""
            for kept in ("modulated", "run"):
                made = getattr(network_of(self), kept, None)
                if made is not None:
                    made.forget()

        # Loading

        def _load_list(self, *args: Any, **kwargs: Any) -> list[Any]:
            entries = super()._load_list(*args, **kwargs)
            kept = getattr(network_of(self), "modulated", None)
            return entries if kept is None else kept.last_to_load(entries)

        def patch_model(self, *args: Any, **kwargs: Any) -> Any:
            from ...kontext_core.lora.apply import set_loras

            self.forget()
            # Before the host merges its own patches: DoRA and others measure the weights.
            set_loras(network_of(self), loras_of(self))
            return super().patch_model(*args, **kwargs)

        def load(self, *args: Any, **kwargs: Any) -> Any:
            result = super().load(*args, **kwargs)
            device = args[0] if args else kwargs.get("device_to")
            self.settle(device)
            return result

        def partially_load(self, *args: Any, **kwargs: Any) -> Any:
            # Only for saving does the host want patches in all weights, and it saves them raw.
            if kwargs.get("force_patch_weights") or (len(args) > 2 and args[2]):
                self.refuse_saving()
            return super().partially_load(*args, **kwargs)

        def partially_unload(self, *args: Any, **kwargs: Any) -> Any:
            freed = super().partially_unload(*args, **kwargs)
            self.settle(None)
            return freed

        def unpatch_model(self, device_to: Any = None, unpatch_weights: bool = True) -> Any:
            self.forget()
            result = super().unpatch_model(device_to, unpatch_weights)
            if unpatch_weights:
                from ...kontext_core.lora.apply import release_factors

                release_factors(network_of(self))
                for module in self.model.modules():
                    if isinstance(module, HostPacked):
                        module.changes.clear()
                        module.changed_by = None
                    if hasattr(module, "comfy_cast_weights"):
                        # Back to that of the class: where the host has set it twice it has
                        # forgotten what it was.
                        module.__dict__.pop("comfy_cast_weights", None)
                        module.__dict__.pop("prev_comfy_cast_weights", None)
            return result

        def settle(self, device: Any) -> None:
            """Bring what the host left after loading into order."""
            self.forget()
            loaded = 0
            for path, module in self.model.named_modules():
                if is_packed(module):
                    self.settle_packed(f"{path}.weight", module)
                elif not hasattr(module, "comfy_cast_weights"):
                    if device is not None:
                        self.load_small(path, module, device)
                else:
                    # Patched while it was on the device and since moved off it, a weight would
                    # be patched once more each time it is used.
                    for name in ("weight", "bias"):
                        if f"{path}.{name}" in self.backup:
                            functions = getattr(module, f"{name}_function")
                            setattr(module, f"{name}_function", _strip(functions))
                if getattr(module, "comfy_patched_weights", False):
                    loaded += comfy.model_management.module_size(module)
            if self.model.model_lowvram:
                # A load that is given less room than before leaves layers on the device which the
                # host no longer counts, and at last takes off more than there was.
                self.model.model_loaded_weight_memory = loaded

        def settle_packed(self, key: str, layer: Any) -> None:
            layer.weight_function = _strip(layer.weight_function)
            bias = f"{key.rpartition('.')[0]}.bias"
            if bias in self.backup:
                layer.bias_function = _strip(layer.bias_function)
            if layer.changed_by == self.patches_uuid:
                return
            layer.changed_by = self.patches_uuid
            layer.changes.pop("own", None)
            if key in self.patches:
                layer.changes["own"] = change_of(self.patches[key], key, layer.out_features)

        def load_small(self, path: str, module: nn.Module, device: Any) -> None:
            """Load what can't be streamed, such as the gain of a norm, however little room is left:
            the host would leave it on the CPU without its patches."""
            names = [name for name, _ in module.named_parameters(recurse=False)]
            inner = any(True for _ in module.children())
            if not names or inner or getattr(module, "comfy_patched_weights", False):
                return
            for name in names:
                self.patch_weight_to_device(f"{path}.{name}", device_to=device)
            module.to(device)
            module.comfy_patched_weights = True  # type: ignore[assignment]

        # Patches

        def patch_weight_to_device(self, key: str, *args: Any, **kwargs: Any) -> Any:
            layer = self.packed(key)
            if layer is None:
                return super().patch_weight_to_device(key, *args, **kwargs)
            if not kwargs.get("return_weight"):
                return layer.weight
            device = args[0] if args else kwargs.get("device_to")
            weight = layer.decoded(layer.weight if device is None else layer.weight.to(device))
            if key in self.patches:
                weight = change_of(self.patches[key], key, layer.out_features).weight(weight)
            return weight

        def get_key_patches(self, filter_prefix: str | None = None) -> dict[str, list[Any]]:
            found = super().get_key_patches(filter_prefix)
            for key in list(found):
                layer = self.packed(key)
                if layer is not None:
                    found[key][0] = (layer.weight, functools.partial(_unpack, layer))
            return found

        def cleanup(self) -> None:
            self.forget()
            super().cleanup()

        # Hooks: LoRAs for a part of the conditioning or of the steps

        def patch_hooks(self, hooks: Any) -> None:
            self.forget()
            super().patch_hooks(hooks)

        def patch_hook_weight_to_device(
            self,
            hooks: Any,
            combined_patches: dict[str, Any],
            key: str,
            original_weights: dict[str, Any],
            memory_counter: Any,
        ) -> None:
            if key not in combined_patches:
                return
            layer = self.packed(key)
            if layer is not None:
                layer.changes["hook"] = change_of(combined_patches[key], key, layer.out_features)
                return
            weight = comfy.utils.get_attr(self.model, key)
            # A new tensor: this one may lie in a mapped file, which can't be written to.
            self.hook_backup.setdefault(key, (weight, weight.device))
            changed = comfy.lora.calculate_weight(
                combined_patches[key],
                weight.detach().float().clone(),
                key,
                original_weights=original_weights,
            )
            seed = _seed(key)
            changed = comfy.float.stochastic_rounding(changed, weight.dtype, seed=seed)
            comfy.utils.set_attr_param(self.model, key, changed)

        def unpatch_hooks(self, whitelist_keys_set: set[str] | None = None) -> None:
            self.forget()
            for key in list(self.hook_backup):
                if whitelist_keys_set and key not in whitelist_keys_set:
                    continue
                weight, _ = self.hook_backup.pop(key)
                device = comfy.utils.get_attr(self.model, key).device
                comfy.utils.set_attr_param(self.model, key, weight.to(device))
            for path, module in self.model.named_modules():
                if isinstance(module, HostPacked) and (
                    not whitelist_keys_set or f"{path}.weight" in whitelist_keys_set
                ):
                    module.changes.pop("hook", None)
            if not whitelist_keys_set:
                self.current_hooks = None

        # Saving

        def model_state_dict_for_saving(self, *args: Any, **kwargs: Any) -> Any:
            self.refuse_saving()
            return super().model_state_dict_for_saving(*args, **kwargs)

        def refuse_saving(self) -> None:
            for path, module in self.model.named_modules():
                if is_packed(module):
                    raise InputError(
                        f"{path} of this model holds packed weights ({module}), which ComfyUI's "
                        "nodes for saving would write as raw bytes. Load its float32, bfloat16 or "
                        "float16 file instead (a transformer with memory 'converted'), or write a "
                        "transformer as GGUF with Kontext: Quantize"
                    )

    return KontextPatcher


def _unpack(layer: Any, weight: Tensor, inplace: bool = False, **_: Any) -> Tensor:
    """The host's way to ask for the number behind a stored weight, which it has cast to a float
    type: bytes and float8 come through that unchanged."""
    return layer.decoded(weight.to(layer.weight.dtype))


def _seed(key: str) -> int:
    import comfy.utils

    named: Any = getattr(comfy.utils, "string_to_seed", None)
    if named is None:
        import comfy.model_patcher

        named = comfy.model_patcher.string_to_seed
    return named(key)
