"""A stand-in for what of ComfyUI `nodes/native` touches: enough of each face to run our half of it.

So that our forward, guider, patcher, layers, CLIP and VAE run in every test run, a ComfyUI at hand or
not. It decides nothing about ComfyUI: that its faces are like this is what the tests on real checkouts
are for. Written for these tests; all on the CPU, nothing is ever evicted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CPU = torch.device("cpu")


class Interrupt(BaseException):
    """Raised where `state.interrupted` is set."""


class State(SimpleNamespace):
    """What a test may set or read: `interrupted`, `attention` (calls of it), `casts`."""


class WrapperExecutor:
    """Calls wrappers around a method, the first one outermost."""

    def __init__(self, method: Callable[..., Any], owner: Any, wrappers: list[Any]) -> None:
        self.method, self.class_obj, self.wrappers = method, owner, wrappers

    @classmethod
    def new_class_executor(cls, method: Any, owner: Any, wrappers: list[Any]) -> WrapperExecutor:
        return cls(method, owner, wrappers)

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        if not self.wrappers:
            return self.method(*args, **kwargs)
        rest = WrapperExecutor(self.method, self.class_obj, self.wrappers[1:])
        return self.wrappers[0](rest, *args, **kwargs)

    __call__ = execute


class Layer:
    """What a managed layer has beside torch's."""

    comfy_cast_weights = False
    weight_function: list[Any]
    bias_function: list[Any]


class Linear(Layer, nn.Linear):
    pass


class Conv1d(Layer, nn.Conv1d):
    pass


class Conv2d(Layer, nn.Conv2d):
    pass


class GroupNorm(Layer, nn.GroupNorm):
    pass


class LayerNorm(Layer, nn.LayerNorm):
    pass


class Embedding(Layer, nn.Embedding):
    pass


class QKNorm(nn.Module):
    """Names its gain as later hosts do."""

    def __init__(self, dim: int, operations: Any = None) -> None:
        super().__init__()
        self.query_norm = nn.Module()
        self.query_norm.weight = nn.Parameter(torch.ones(dim))


class CONDConstant:
    def __init__(self, cond: Any) -> None:
        self.cond = cond


class CONDList(CONDConstant):
    pass


class ModelType(Enum):
    FLUX = 1
    FLOW = 2


class BaseModel(nn.Module):
    """Stands for ComfyUI's Flux, around a `diffusion_model`."""

    def __init__(self, config: Any, kind: ModelType, unet_model: Callable[..., Any]) -> None:
        super().__init__()
        self.model_config, self.model_type = config, kind
        self.diffusion_model = unet_model()
        self.latent_format = config.latent_format
        self.manual_cast_dtype = None
        self.model_lowvram = False
        self.model_loaded_weight_memory = 0

    def get_dtype(self) -> torch.dtype:
        return torch.float32

    def process_latent_in(self, latent: Tensor) -> Tensor:
        made = self.latent_format
        return (latent - made.shift_factor) * made.scale_factor

    def memory_required(self, *_: Any, **__: Any) -> int:
        return 1000

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        return {"c_crossattn": CONDConstant(kwargs.get("cross_attn"))}


class Config:
    """Stands for ComfyUI's description of a supported model."""

    def __init__(self, unet_config: dict[str, Any]) -> None:
        self.unet_config = unet_config

    def set_inference_dtype(self, *dtypes: Any) -> None:
        self.dtypes = dtypes


class LatentFormat:
    scale_factor, shift_factor, latent_channels = 0.3611, 0.1159, 16


class LowVramPatch:
    pass


class ModelPatcher:
    """Keeps patches and attachments; loading merges the patches, unloading puts the weights back."""

    def __init__(self, model: Any, load_device: Any = CPU, offload_device: Any = CPU) -> None:
        self.model, self.load_device, self.offload_device = model, load_device, offload_device
        self.attachments: dict[str, Any] = {}
        self.patches: dict[str, list[Any]] = {}
        self.backup: dict[str, Tensor] = {}
        self.hook_backup: dict[str, Any] = {}
        self.patches_uuid: Any = object()
        self.wrappers: dict[str, dict[str, list[Any]]] = {}

    def add_wrapper_with_key(self, kind: str, key: str, wrapper: Any) -> None:
        self.wrappers.setdefault(kind, {}).setdefault(key, []).append(wrapper)

    def clone(self) -> Any:
        other = type(self)(self.model, self.load_device, self.offload_device)
        other.attachments = dict(self.attachments)
        other.patches = {key: list(value) for key, value in self.patches.items()}
        other.patches_uuid = self.patches_uuid
        for kind, named in self.wrappers.items():
            for key, wrappers in named.items():
                for wrapper in wrappers:
                    other.add_wrapper_with_key(kind, key, wrapper)
        return other

    def add_patches(self, patches: dict[str, Any], strength: float = 1.0) -> None:
        self.patches_uuid = object()
        for key, value in patches.items():
            self.patches.setdefault(key, []).append((strength, value, 1.0, None, None))

    def patch_model(self, device_to: Any = None, **_: Any) -> Any:
        self.load(device_to)
        return self.model

    def load(self, device_to: Any = None, **_: Any) -> None:
        for key in self.patches:
            self.patch_weight_to_device(key, device_to=device_to)
        for module in self.model.modules():
            module.comfy_patched_weights = True

    def patch_weight_to_device(self, key: str, device_to: Any = None, **_: Any) -> Any:
        weight = get_attr(self.model, key)
        if key not in self.patches:
            return weight
        self.backup.setdefault(key, weight)
        changed = calculate_weight(self.patches[key], weight.detach().clone(), key)
        set_attr_param(self.model, key, changed)
        return changed

    def unpatch_model(self, device_to: Any = None, unpatch_weights: bool = True) -> None:
        if not unpatch_weights:
            return
        for key, weight in self.backup.items():
            set_attr_param(self.model, key, weight)
        self.backup.clear()

    def get_model_object(self, name: str) -> Any:
        return getattr(self.model, name)

    def cleanup(self) -> None:
        pass

    def patch_hooks(self, hooks: Any) -> None:
        pass


def get_attr(model: Any, path: str) -> Any:
    for name in path.split("."):
        model = getattr(model, name)
    return model


def set_attr_param(model: Any, path: str, value: Tensor) -> None:
    parent, _, name = path.rpartition(".")
    setattr(get_attr(model, parent), name, nn.Parameter(value, requires_grad=False))


def calculate_weight(patches: list[Any], weight: Tensor, key: str, *_: Any, **__: Any) -> Tensor:
    """Adapters by their own formula, a bare (tensor,) added."""
    for strength, change, *_rest in patches:
        if hasattr(change, "calculate_weight"):
            weight = change.calculate_weight(weight, key, strength)
        else:
            weight = weight + strength * change[0]
    return weight


class CFGGuider:
    """Records what it is told; its `sample` is an Euler run of the model that a test hung on the
    patcher as `denoise(x, sigma)`, which gives the estimate."""

    last: Any = None

    def __init__(self, model: Any) -> None:
        self.model = model
        type(self).last = self

    def set_conds(self, positive: Any, negative: Any) -> None:
        self.positive, self.negative = positive, negative

    def set_cfg(self, cfg: float) -> None:
        self.cfg = cfg

    def sample(
        self, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, **more: Any
    ) -> Tensor:
        self.noise, self.sigmas, self.sampler, self.more = noise, sigmas, sampler, more
        x = noise * sigmas[0] + latent * (1 - sigmas[0])
        steps = len(sigmas) - 1
        for i in range(steps):
            x0 = self.model.denoise(x, float(sigmas[i]))
            more["callback"](i, x0, x, steps)
            x = x + (x - x0) / sigmas[i] * (sigmas[i + 1] - sigmas[i])
        return x


def attention(
    q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **_: Any
) -> Tensor:
    """[b, h, n, d] each to [b, n, h * d]."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def _modules(state: State) -> dict[str, dict[str, Any]]:
    def check() -> None:
        if state.interrupted:
            raise Interrupt

    def cast(layer: Any, x: Any, dtype: Any, device: Any, bias_dtype: Any, **_: Any) -> Any:
        state.casts += 1
        return layer.weight, layer.bias

    def cpu(*_: Any, **__: Any) -> torch.device:
        return CPU

    devices = (
        *("get_torch_device", "unet_offload_device", "text_encoder_device", "vae_device"),
        *("text_encoder_offload_device", "vae_offload_device", "intermediate_device"),
    )
    management = {name: cpu for name in devices} | {
        "throw_exception_if_processing_interrupted": check,
        "processing_interrupted": lambda: state.interrupted,
        "module_size": lambda m: sum(t.nbytes for t in m.state_dict().values()),
        "load_models_gpu": lambda models, **more: state.loaded.append((models, more)),
        "soft_empty_cache": lambda: None,
        "OOM_EXCEPTION": MemoryError,
        "vae_dtype": lambda *_: torch.float32,
    }
    layers = (Linear, Conv1d, Conv2d, GroupNorm, LayerNorm, Embedding)
    flux = type("Flux", (Config,), {})
    return {
        "comfy": {},
        "comfy.model_management": management,
        "comfy.patcher_extension": {
            "WrapperExecutor": WrapperExecutor,
            "WrappersMP": SimpleNamespace(
                DIFFUSION_MODEL="diffusion_model", OUTER_SAMPLE="outer_sample"
            ),
            "get_all_wrappers": lambda kind, options: options.get("wrappers", {}).get(kind, []),
        },
        "comfy.ldm": {},
        "comfy.ldm.modules": {},
        "comfy.ldm.modules.attention": {"optimized_attention": attention},
        "comfy.ldm.flux": {},
        "comfy.ldm.flux.layers": {"QKNorm": QKNorm},
        "comfy.ops": {
            "disable_weight_init": SimpleNamespace(**{kind.__name__: kind for kind in layers}),
            "cast_bias_weight": cast,
        },
        "comfy.conds": {"CONDConstant": CONDConstant, "CONDList": CONDList},
        "comfy.latent_formats": {"Flux": LatentFormat},
        "comfy.model_base": {"Flux": BaseModel, "ModelType": ModelType},
        "comfy.supported_models": {"Flux": flux, "FluxSchnell": type("FluxSchnell", (flux,), {})},
        "comfy.samplers": {
            "CFGGuider": CFGGuider,
            "sampler_object": lambda name: name,
            "calculate_sigmas": lambda sampling, name, n: torch.linspace(1, 0, n + 1),
        },
        "comfy.model_patcher": {"ModelPatcher": ModelPatcher, "LowVramPatch": LowVramPatch},
        "comfy.float": {"stochastic_rounding": lambda x, dtype, seed=0: x.to(dtype)},
        "comfy.lora": {"calculate_weight": calculate_weight},
        "comfy.utils": {
            "get_attr": get_attr,
            "set_attr_param": set_attr_param,
            "string_to_seed": len,
        },
        "comfy.weight_adapter": {"WeightAdapterBase": type("WeightAdapterBase", (), {})},
        "comfy.hooks": {"EnumHookMode": SimpleNamespace(MinVram="minvram")},
        "comfy.sd": {
            "CLIP": type("CLIP", (), {"__init__": lambda self, no_init=False: None}),
            "VAE": type("VAE", (), {}),
        },
    }


@contextmanager
def stand_in() -> Iterator[State]:
    """ComfyUI's modules for as long as the context lasts."""
    state = State(interrupted=False, casts=0, loaded=[])
    kept = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "comfy"}
    for name in kept:
        del sys.modules[name]
    made = _modules(state)
    for name, content in made.items():
        module = ModuleType(name)
        module.__path__ = []
        module.__spec__ = ModuleSpec(name, None, is_package=True)
        vars(module).update(content)
        sys.modules[name] = module
        parent, _, short = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], short, module)
    try:
        yield state
    finally:
        for name in made:
            sys.modules.pop(name, None)
        sys.modules.update(kept)
