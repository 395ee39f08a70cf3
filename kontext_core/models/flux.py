"""The FLUX.1 Kontext transformer: a rectified-flow velocity for target tokens beside references.

Architecture and state-dict names are the published ones (black-forest-labs/flux, src/flux/model.py;
arXiv 2506.15742, section 3). Shapes: b batch, n tokens, c channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..config import FluxParams
from ..errors import InputError, ShapeError
from ..latents import FLUX_LATENT, LatentFormat
from ..resolutions import KONTEXT_RESOLUTIONS
from .attention import AUTO, Attend, attention
from .block_run import BlockCall, BlockRun, Modulations, PlainRun, Prepared, Watch, finite
from .joint import Joint, leave_uncompiled
from .kept import KeptContext
from .layers import (
    DoubleStreamBlock,
    LastLayer,
    MLPEmbedder,
    SingleStreamBlock,
    timestep_embedding,
)
from .nag import NagTexts
from .products import project
from .rope import rope_table


class Flux(nn.Module):
    """Double-stream blocks, then single-stream blocks, over [text, target, references].

    Args:
        params: sizes; the default is FLUX.1 Kontext [dev].
        ops: where Linear layers come from (`torch.nn` by default).
        latent_format: how raw latents map to the model's space; travels with the model.
        resolutions: (width, height) in pixels the model was trained at; travels with it too.
        device, dtype: for the parameters.
    """

    # Kernel of the attention, see `attention.choose`; used where nobody asks for gradients.
    attention: str = AUTO
    # Stays a plain layer whatever the weights file holds: its dtype is the one computed in.
    keep_plain = ("img_in",)

    def __init__(
        self,
        params: FluxParams | None = None,
        ops: Any = nn,
        *,
        latent_format: LatentFormat = FLUX_LATENT,
        resolutions: tuple[tuple[int, int], ...] = KONTEXT_RESOLUTIONS,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        p = self.params = params or FluxParams()
        self.latent_format = latent_format
        self.resolutions = resolutions
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.img_in = ops.Linear(p.in_channels, p.hidden_size, bias=True, **factory)
        self.time_in = MLPEmbedder(256, p.hidden_size, ops, **factory)
        self.vector_in = MLPEmbedder(p.vec_in_dim, p.hidden_size, ops, **factory)
        if p.guidance_embed:
            self.guidance_in = MLPEmbedder(256, p.hidden_size, ops, **factory)
        self.txt_in = ops.Linear(p.context_in_dim, p.hidden_size, bias=True, **factory)
        self.double_blocks = nn.ModuleList(
            DoubleStreamBlock(p.hidden_size, p.num_heads, p.mlp_ratio, p.qkv_bias, ops, **factory)
            for _ in range(p.depth)
        )
        self.single_blocks = nn.ModuleList(
            SingleStreamBlock(p.hidden_size, p.num_heads, p.mlp_ratio, ops, **factory)
            for _ in range(p.depth_single_blocks)
        )
        self.final_layer = LastLayer(p.hidden_size, p.out_channels, ops, **factory)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype computed in, which the tokens have to have: that of the input projection."""
        return self.img_in.weight.dtype

    @property
    def device(self) -> torch.device:
        """Device of the input projection."""
        return self.img_in.weight.device

    def forward(
        self,
        img: Tensor,
        img_ids: Tensor,
        txt: Tensor,
        txt_ids: Tensor,
        timesteps: Tensor,
        y: Tensor,
        guidance: Tensor | None = None,
        *,
        attn_bias: Tensor | None = None,
        target_tokens: int | None = None,
        modulation: Modulations | None = None,
        still: Modulations | None = None,
        prepared: Prepared | None = None,
        kept: KeptContext | None = None,
        nag: NagTexts | None = None,
        watch: Watch | None = None,
        call: BlockCall | None = None,
    ) -> Tensor:
        """Velocity d x / d t of the image tokens.

        Args:
            img: [b, n_img, in_channels], target tokens first, then references (model space).
            img_ids: [b or 1, n_img, 3] float32 positions (t, h, w).
            txt: [b, n_txt, context_in_dim].
            txt_ids: [b or 1, n_txt, 3], zeros for Flux.
            timesteps: [b] in 0..1, 1 is pure noise.
            y: [b, vec_in_dim] pooled text.
            guidance: [b]; needed by guidance-distilled models, ignored by others. None leaves
                the guidance embedding out.
            attn_bias: None, or [b or 1, n_img] added to the attention logits of image keys.
            target_tokens: give only the first so many tokens' velocity (the same numbers, less
                work); None gives all.
            modulation: None, or `modulations(...).at(...)` for these timesteps, y and guidance:
                the same numbers without touching the modulation layers.
            still: None, or modulations at timestep 0, by which the tokens behind `target_tokens`
                are modulated in every block.
            prepared: None, or what `prepare` made of the same references, ids, text and bias: the
                same numbers for less work.
            kept: None, or where keys and values of image tokens are kept or taken from, as it says;
                `target_tokens` tells target and references apart. No gradients go through them.
            nag: None, or normalized attention guidance: `txt` begins with a negative text. No
                gradients go through it either.
            watch: None, or who may skip all blocks after the first.
            call: None, or how a block is called, (block, its arguments) to its result.

        Returns:
            [b, n_img or target_tokens, out_channels]; with a regional `kept` that of its rows only.

        Raises:
            ShapeError: tokens and ids don't fit each other or the model.
        """
        self._check_vectors(img, timesteps, y)
        target = img.shape[1] if target_tokens is None else target_tokens
        if modulation is None:
            modulation = self.as_needed(self.embed(timesteps, y, guidance, img.dtype))
        if prepared is None:
            prepared = self.prepare(img, img_ids, txt, txt_ids, attn_bias, target_tokens)
        tokens, prepared, count = self.computed(img[:, :target], prepared, kept)
        target = tokens.shape[1] - count
        if not count:
            still = None
        if torch.is_grad_enabled() and kept is None and nag is None:
            attend: Attend | Joint = attention
        else:
            attend = Joint(self.attention, kept, target, count, nag)
        run = PlainRun(modulation, still, target, prepared.table, prepared.bias, attend, call)
        x = self.run_blocks(tokens, prepared.txt, run, target, watch, kept)
        return self.final_layer(x, modulation.final)

    def prepare(
        self,
        img: Tensor,
        img_ids: Tensor,
        txt: Tensor,
        txt_ids: Tensor,
        attn_bias: Tensor | None = None,
        target_tokens: int | None = None,
    ) -> Prepared:
        """What is the same at every step of a run, from arguments as `forward` takes them; of
        `img` it reads the references behind the target's tokens.

        Raises:
            ShapeError: as `forward`.
        """
        self._check(img, img_ids, txt, txt_ids, attn_bias)
        references = img[:, img.shape[1] if target_tokens is None else target_tokens :]
        rows = max(len(txt_ids), len(img_ids))
        ids = torch.cat([each.float().expand(rows, -1, -1) for each in (txt_ids, img_ids)], dim=1)
        bias = None
        if attn_bias is not None:
            bias = torch.cat([attn_bias.new_zeros(len(attn_bias), txt.shape[1]), attn_bias], dim=1)
        return Prepared(
            project(self.txt_in, txt),
            project(self.img_in, references),
            rope_table(ids, self.params.axes_dim, self.params.theta),
            bias,
        )

    def computed(
        self, target: Tensor, prepared: Prepared, kept: KeptContext | None
    ) -> tuple[Tensor, Prepared, int]:
        """What a forward computes of the image.

        Args:
            target: [b, n, in_channels] its target tokens.
            prepared: of the whole run.
            kept: as for `forward`.

        Returns:
            Projected tokens [b, m, c], those of the target first; what is prepared for them and for
            what is read; how many are references.

        Raises:
            InputError: nothing is kept that could be read.
        """
        count = prepared.references.shape[1]
        if kept is not None:
            self._check_kept(kept, count)
            prepared = prepared.picked(target.shape[1], kept)
            target = target if not kept.regional else target[:, kept.rows]
            count = 0 if kept.reuse else prepared.references.shape[1]
        tokens = project(self.img_in, target)
        if count:
            tokens = torch.cat([tokens, prepared.references], dim=1)
        return tokens, prepared, count

    def run_blocks(
        self,
        img: Tensor,
        txt: Tensor,
        run: BlockRun,
        keep: int,
        watch: Watch | None = None,
        kept: KeptContext | None = None,
    ) -> Tensor:
        """Image tokens [b, n_img, c] and text tokens [b, n_txt, c] through all blocks; the first
        `keep` image tokens come out, [b, keep, c]. `run` says how one block is called, `watch` whether
        the first is enough; `kept` is told when all have run."""
        text = txt.shape[1]
        for index, block in enumerate(self.double_blocks):
            before = img
            img, txt = run.double(index, block, img, txt)
            if watch is not None and index == 0:
                forecast = watch.first(before[:, :keep], img[:, :keep])
                if forecast is not None:
                    return forecast
        x = finite(torch.cat([txt, img], dim=1))
        where: slice | None = slice(text, text + keep)
        for index, block in enumerate(self.single_blocks):
            if index == len(self.single_blocks) - 1:
                # Nothing behind it looks at the other tokens any more.
                x, where = run.single(index, block, x, text, where), None
            else:
                x = run.single(index, block, x, text)
        if where is not None:
            x = x[:, where]
        if watch is not None:
            watch.last(x)
        if kept is not None:
            kept.finish()
        return x

    def compile_blocks(self, backend: str | None = "inductor", **options: Any) -> None:
        """From now on blocks run compiled by `torch.compile`, where nobody asks for gradients.

        Block by block, so that the compiler works on one of each kind instead of all 57 (PyTorch's
        "regional compilation"); the attention between stays as it is. Compiling happens in the first
        forward of each shape, and inductor needs a C++ compiler, on a GPU Triton.

        Args:
            backend: of `torch.compile`; None takes it back.
            options: more for `torch.compile`, such as mode="max-autotune-no-cudagraphs".

        Raises:
            InputError: a backend that this PyTorch does not have.
        """
        leave_uncompiled()
        known = torch.compiler.list_backends(exclude_tags=())
        if backend is not None and backend not in known:
            raise InputError(
                f"can't compile by {backend!r}; this PyTorch has {', '.join(known)}. None takes "
                "compiling back"
            )
        for block in (*self.double_blocks, *self.single_blocks):
            if backend is None:
                block._compiled_call_impl = None
            else:
                block.compile(backend=backend, **options)

    def modulations(
        self, timesteps: Tensor, y: Tensor, guidance: Tensor | None = None
    ) -> Modulations:
        """All modulations of a run at once: every modulation layer is read, decoded and multiplied
        once, whatever the number of steps.

        Args:
            timesteps: [s] in 0..1.
            y: [r, vec_in_dim] pooled texts.
            guidance: None or [r], as for `forward`.

        Raises:
            ShapeError: y does not fit the model.
        """
        if y.ndim != 2 or y.shape[1] != self.params.vec_in_dim:
            raise ShapeError(
                f"pooled text y has shape {tuple(y.shape)}; expected [texts, "
                f"{self.params.vec_in_dim}]. Check that text encoder and model belong together"
            )
        steps, texts = len(timesteps), len(y)
        vec = self.time_in(timestep_embedding(timesteps).to(self.dtype))[:, None]
        if self.params.guidance_embed and guidance is not None:
            vec = vec + self.guidance_in(timestep_embedding(guidance).to(self.dtype))
        vec = (vec + self.vector_in(y.to(self.dtype))).flatten(0, 1)

        def shaped(rows: Tensor) -> Tensor:
            return rows.unflatten(0, (steps, texts))

        made = self.as_needed(vec)
        return Modulations(
            tuple((shaped(img), shaped(txt)) for img, txt in made.double),
            tuple(shaped(rows) for rows in made.single),
            shaped(made.final),
        )

    def as_needed(self, vec: Tensor) -> Modulations:
        """Modulations of vec [b, c]; a block's are made when they are asked for, and once only."""
        double: list[Any] = list(self.double_blocks)
        single: list[Any] = list(self.single_blocks)
        return Modulations(
            (block.modulate(vec) for block in double),
            (block.modulate(vec) for block in single),
            self.final_layer.modulate(vec),
        )

    def embed(
        self, timesteps: Tensor, y: Tensor, guidance: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        """Conditioning vector [b, hidden_size] that drives every modulation."""
        vec = self.time_in(timestep_embedding(timesteps).to(dtype))
        if self.params.guidance_embed and guidance is not None:
            vec = vec + self.guidance_in(timestep_embedding(guidance).to(dtype))
        return vec + self.vector_in(y.to(dtype))

    def _check_kept(self, kept: KeptContext, references: int) -> None:
        blocks = len(self.double_blocks) + len(self.single_blocks)
        if kept.reuse and (references or kept.regional) and len(kept) != blocks:
            raise InputError(
                f"keys and values of {len(kept)} blocks are kept, the model has {blocks}; run a full "
                "step with them first"
            )
        if kept.regional and (kept.rows is None or not kept.reuse):
            raise InputError(
                "a regional forward needs `reuse`, and rows to compute; say which by `focus` first"
            )

    def _check_vectors(self, img: Tensor, timesteps: Tensor, y: Tensor) -> None:
        width = self.params.vec_in_dim
        if y.ndim != 2 or y.shape[1] != width or len(y) != len(img):
            raise ShapeError(
                f"pooled text y has shape {tuple(y.shape)}; expected [{len(img)}, {width}]"
            )
        if timesteps.shape != (len(img),):
            raise InputError(f"timesteps has shape {tuple(timesteps.shape)}; expected [{len(img)}]")

    def _check(
        self,
        img: Tensor,
        img_ids: Tensor,
        txt: Tensor,
        txt_ids: Tensor,
        attn_bias: Tensor | None,
    ) -> None:
        p = self.params
        for name, tensor, width in (
            ("img", img, p.in_channels),
            ("txt", txt, p.context_in_dim),
            ("img_ids", img_ids, 3),
            ("txt_ids", txt_ids, 3),
        ):
            if tensor.ndim != 3 or tensor.shape[-1] != width:
                raise ShapeError(
                    f"{name} has shape {tuple(tensor.shape)}; expected [batch, tokens, {width}] "
                    "for this model. Check that text encoder, autoencoder and model belong together"
                )
        if img_ids.shape[1] != img.shape[1] or txt_ids.shape[1] != txt.shape[1]:
            raise ShapeError(
                f"{img.shape[1]} image and {txt.shape[1]} text tokens came with "
                f"{img_ids.shape[1]} and {txt_ids.shape[1]} ids; every token needs one id"
            )
        for name, ids in (("img_ids", img_ids), ("txt_ids", txt_ids)):
            if len(ids) not in (1, len(img)):
                raise ShapeError(
                    f"{name} is a batch of {len(ids)}, the image tokens one of {len(img)}; give "
                    "ids for one, which all share, or for each"
                )
        if img_ids.dtype in (torch.float16, torch.bfloat16):
            raise ShapeError(
                f"img_ids are {img_ids.dtype}, which rounds positions above 256; pass float32"
            )
        if attn_bias is not None and attn_bias.shape[-1] != img.shape[1]:
            raise ShapeError(
                f"attn_bias covers {attn_bias.shape[-1]} tokens; expected {img.shape[1]}"
            )
