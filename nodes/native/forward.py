"""Our transformer as the `diffusion_model` of a ComfyUI model: its forward contract, its hooks.

What ComfyUI promises about a Flux (wrappers, patches, replaced blocks, ControlNet, block information) is
kept by the transformer itself, so it has to be kept here. Only where `comfy` can be imported.

Shapes: b batch, n tokens, c channels.
"""

from __future__ import annotations

from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import torch
import torch.nn.functional as F
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from torch import Tensor, nn

from ...kontext_core.errors import InputError, ShapeError
from ...kontext_core.latents import unpack
from ...kontext_core.models.attention import Attend
from ...kontext_core.models.block_run import finite, trimmed
from ...kontext_core.models.flux import Flux
from ...kontext_core.models.joint import Joint
from ...kontext_core.models.layers import SplitRows
from ...kontext_core.models.nag import NagTexts
from ...kontext_core.models.rope import rope_table
from ...kontext_core.weights.unchanged import guard_alike
from .attention import attend, joined_mask, rotations
from .conds import NagCond
from .modulation import KeptModulations, ModulationRows
from .references import ImageTokens, arrange
from .run import HostJoint, HostRun, watched


class NativeFlux(Flux):
    """The layers of a `Flux` behind the call that ComfyUI's samplers make.

    Attributes that ComfyUI's nodes look for are there: `patch_size`, `in_channels`, `hidden_size`
    and `params`, whose `default_ref_method` holds where a conditioning names none.
    """

    patch_size = 2

    def __init__(self, network: Flux) -> None:
        nn.Module.__init__(self)
        for name, child in network.named_children():
            self.add_module(name, child)
        values = asdict(network.params)
        # Not frozen: the host's object patches write to it.
        self.params: Any = SimpleNamespace(**values, default_ref_method="offset")
        self.latent_format = network.latent_format
        self.resolutions = network.resolutions
        self.in_channels = network.params.in_channels
        self.out_channels = network.params.out_channels
        self.hidden_size = network.params.hidden_size
        self.num_heads = network.params.num_heads
        self.modulated = KeptModulations(self)
        self.run: HostRun | None = None
        guard_alike(self, network)
        self.train(network.training)

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        y: Tensor | None = None,
        guidance: Tensor | None = None,
        ref_latents: list[Tensor] | None = None,
        control: dict[str, Any] | None = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Velocity of the target, [b, c, h, w].

        Args:
            x: [b, c, h, w] noisy target, model space.
            timestep: [b] in 0..1.
            context: [b, n, context_in_dim] text.
            y: [b, vec_in_dim] pooled text; None counts as zeros.
            guidance: [b], or None to leave the embedding out.
            ref_latents: references, [b, c, h, w] each, model space.
            control: a ControlNet's `input` and `output` lists, added to the image tokens after
                each double and single block.
            transformer_options: the host's.
            kwargs: `ref_latents_method`, `attention_mask`, `kontext_references` (see
                `references.arrange`), `kontext_nag` (a `conds.NagCond`), and whatever other packs
                send, which is passed over.
        """
        options = {} if transformer_options is None else transformer_options
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, options)
        executor = WrapperExecutor.new_class_executor(self._forward, self, wrappers)
        return executor.execute(
            x, timestep, context, y, guidance, ref_latents, control, options, **kwargs
        )

    def _forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        y: Tensor | None = None,
        guidance: Tensor | None = None,
        ref_latents: list[Tensor] | None = None,
        control: dict[str, Any] | None = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        options = dict(transformer_options or {})
        method = kwargs.get("ref_latents_method") or self.params.default_ref_method
        chain = getattr(kwargs.get("kontext_references"), "items", None)
        image = arrange(x, ref_latents, chain, method, options, timestep)
        if ref_latents is not None:
            options["reference_image_num_tokens"] = list(image.counts)
        texts, mask = None, kwargs.get("attention_mask")
        nag = kwargs.get("kontext_nag")
        if nag is not None:
            texts, context = _with_negative(nag, context, mask)
        out = self._tokens(image, timestep, context, y, guidance, control, options, mask, texts)
        return unpack(out, *x.shape[-2:])

    def _tokens(
        self,
        image: ImageTokens,
        timestep: Tensor,
        context: Tensor,
        y: Tensor | None,
        guidance: Tensor | None,
        control: dict[str, Any] | None,
        options: dict[str, Any],
        mask: Tensor | None,
        texts: NagTexts | None,
    ) -> Tensor:
        """Velocity of the target's tokens, [b, n_target, 4c]."""
        width = self.params.vec_in_dim
        dtype = image.tokens.dtype
        pooled = image.tokens.new_zeros(len(context), width) if y is None else y[:, :width]
        sigmas = options.get("sample_sigmas")
        rows = self.modulated.rows(self, timestep, pooled, guidance, sigmas, dtype)
        still = None
        if image.still:
            still = self.modulated.rows(self, timestep * 0, pooled, guidance, None, dtype)
        totals = len(self.double_blocks), len(self.single_blocks)
        blocks = _Pass(options, rows, still, image.target, control or {}, totals, texts)
        if mask is None and not watched(options) and not torch.is_grad_enabled():
            return self._saving(image, context, timestep, options, blocks)
        img, txt = self._shown(image, context, options, mask, blocks)
        target = self.run_blocks(img, txt, blocks, image.target)
        return self.final_layer(target, rows.final(self.final_layer))

    def _saving(
        self,
        image: ImageTokens,
        context: Tensor,
        timestep: Tensor,
        options: dict[str, Any],
        blocks: _Pass,
    ) -> Tensor:
        """Velocity of the target's tokens, [b, n_target, 4c], where nobody watches: with what is the
        same at every step made once, and without what the run is to leave out."""
        run = self.run or HostRun(self.params)
        side = run.side(options, image.tokens.shape)
        prepared = side.prepared(self, image, context)
        call = run.call(side, image, context.shape[1], timestep, options)
        kept, watch = (None, None) if call is None else (call.kept, call.watch)
        target = image.tokens[:, : image.target]
        tokens, prepared, count = self.computed(target, prepared, kept)
        blocks.pe, blocks.mask, blocks.target = (
            prepared.table,
            prepared.bias,
            tokens.shape[1] - count,
        )
        if not count:
            blocks.still = None
        if call is not None:
            blocks.picked = call.rows
        blocks.joint = HostJoint(options, kept, blocks.target, count, blocks.texts)
        x = self.run_blocks(tokens, prepared.txt, blocks, blocks.target, watch, kept)
        out = self.final_layer(x, blocks.rows.final(self.final_layer))
        return out if call is None else call.finish(target, out)

    def _shown(
        self,
        image: ImageTokens,
        context: Tensor,
        options: dict[str, Any],
        mask: Tensor | None,
        blocks: _Pass,
    ) -> tuple[Tensor, Tensor]:
        """Image [b, n_img, c] and text [b, n_txt, c] for the blocks, every token of them, and to
        `blocks` their positions and mask, in the forms that the host's patches know."""
        img, txt = self.img_in(image.tokens), self.txt_in(context)
        img_ids: Any = image.ids.expand(len(img), -1, -1)
        txt_ids = torch.zeros(len(img), txt.shape[1], 3, device=img.device)
        for patch in options.get("patches", {}).get("post_input", ()):
            given = {"img": img, "txt": txt, "img_ids": img_ids, "txt_ids": txt_ids}
            out: dict[str, Any] = patch({**given, "transformer_options": options})
            img, txt = out["img"], out["txt"]
            img_ids, txt_ids = out["img_ids"], out["txt_ids"]
        table = bias = None
        if img_ids is not None:
            ids = torch.cat([txt_ids.to(img_ids), img_ids], dim=1).float()
            table = rope_table(ids, tuple(self.params.axes_dim), self.params.theta)
        text = txt.shape[1]
        length = text + max(img.shape[1], image.tokens.shape[1])
        if image.bias is not None:
            bias = F.pad(image.bias, (text, length - text - image.bias.shape[1]))
        blocks.show(table, joined_mask(mask, bias, length))
        return img, txt


class _Pass:
    """What stays the same over the blocks of one forward, and how a block is called.

    Blocks may be replaced by the host's patches: those see the conditioning vector, positions as
    ComfyUI's Flux has them, and a function that runs the block.

    Attributes:
        joint: the attention of blocks that nobody watches; None where somebody does.
        pe: positions, as our table or, where others see them, as the host has them.
        mask: None, or what is added to the attention logits: [b or 1, n] for `joint`, else as
            from `joined_mask`.
        picked: None, or [m] int64: the target's tokens that are computed.
    """

    def __init__(
        self,
        options: dict[str, Any],
        rows: ModulationRows,
        still: ModulationRows | None,
        target: int,
        control: dict[str, Any],
        totals: tuple[int, int],
        texts: NagTexts | None,
    ) -> None:
        self.options, self.control, self.totals = options, control, totals
        self.texts = texts
        self.rows, self.still, self.target = rows, still, target
        self.replaced: dict[Any, Any] = options.get("patches_replace", {}).get("dit", {})
        self.joint: Joint | None = None
        self.pe: Tensor | None = None
        self.table: Tensor | None = None
        self.mask: Tensor | None = None
        self.picked: Tensor | None = None

    def show(self, table: Tensor | None, mask: Tensor | None) -> None:
        """Positions and mask for blocks that others may watch."""
        self.pe, self.table, self.mask = table, table, mask
        patched = self.options.get("patches", {}).get("attn1_patch")
        if table is not None and (self.replaced or patched):
            self.pe = rotations(table)

    def double(self, index: int, block: Any, img: Tensor, txt: Tensor) -> tuple[Tensor, Tensor]:
        """Image [b, n_img, c] and text [b, n_txt, c] through a double block, and what a
        ControlNet adds."""
        self.begin("double", index, self.totals[0])

        def original(args: dict[str, Any]) -> dict[str, Tensor]:
            txt = args["txt"]
            image, text = self.rows.double(block, index, args["vec"])
            if self.still is not None:
                image = SplitRows(image, self.still.double(block, index)[0], self.target)
            out = block(
                args["img"], txt, (image, text), args["pe"], args.get("attn_mask"),
                self.attend(args, txt.shape[1]),
            )  # fmt: skip
            return {"img": finite(out[0]), "txt": finite(out[1])}

        args = self.args(img=img, txt=txt)
        replaced = self.replaced.get(("double_block", index))
        out = original(args) if replaced is None else replaced(args, {"original_block": original})
        return self.added(out["img"], "input", index, 0), out["txt"]

    def single(
        self, index: int, block: Any, x: Tensor, text: int, keep: slice | None = None
    ) -> Tensor:
        """Text and image [b, n, c] through a single block, and what a ControlNet adds.

        Where somebody watches, the last block computes every token too.
        """
        self.options["img_slice"] = [text, x.shape[1]]
        self.begin("single", index, self.totals[1])

        def original(args: dict[str, Any]) -> dict[str, Tensor]:
            rows = self.rows.single(block, index, args["vec"])
            if self.still is not None:
                rows = SplitRows(rows, self.still.single(block, index), text + self.target)
            given = rows, args["pe"], args.get("attn_mask"), self.attend(args, text)
            if keep is None or self.joint is None:
                return {"img": finite(block(args["img"], *given))}
            return {"img": finite(trimmed(block, args["img"], *given, keep))}

        args = self.args(img=x)
        replaced = self.replaced.get(("single_block", index))
        out = original(args) if replaced is None else replaced(args, {"original_block": original})
        if keep is None or self.joint is None:
            x = self.added(out["img"], "output", index, text)
            return x if keep is None else x[:, keep]
        return self.added(out["img"], "output", index, 0)

    def begin(self, kind: str, index: int, total: int) -> None:
        """Tells patches which block runs. A run that the user has stopped ends here; later hosts
        look at every layer themselves."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        self.options |= {"block_type": kind, "block_index": index, "total_blocks": total}

    def args(self, **tensors: Tensor) -> dict[str, Any]:
        """What a replaced block is given."""
        more = {"vec": self.rows.vec, "pe": self.pe, "attn_mask": self.mask}
        return {**tensors, **more, "transformer_options": self.options}

    def added(self, x: Tensor, kind: str, index: int, start: int) -> Tensor:
        """x [b, n, c] with a ControlNet's output of one block added from token `start` on."""
        control = self.control.get(kind)
        add = control[index] if control is not None and index < len(control) else None
        if add is None:
            return x
        if self.picked is not None:
            add = add[:, self.picked.to(add.device)]
        return x + F.pad(add.to(x), (0, 0, start, x.shape[1] - start - add.shape[1]))

    def attend(self, args: dict[str, Any], text: int) -> Attend | Joint:
        """The attention that a block is to use."""
        if self.joint is not None:
            return self.joint
        options = args.get("transformer_options") or self.options

        def call(q: Tensor, k: Tensor, v: Tensor, pe: Tensor, mask: Tensor | None) -> Tensor:
            table = self.table if pe is self.pe else None
            return attend(q, k, v, pe, mask, options, text, table, self.texts)

        return call


def _with_negative(nag: NagCond, context: Tensor, mask: Tensor | None) -> tuple[NagTexts, Tensor]:
    """The lengths of both texts, and their features, the negative text's first."""
    if mask is not None:
        raise InputError(
            "nag_scale is above 1 and the conditioning brings an attention mask, which says nothing "
            "about the negative text; take away the node that adds it, or set nag_scale to 1"
        )
    if len(context) % len(nag.txt):
        raise ShapeError(
            f"negative is a batch of {len(nag.txt)} texts for {len(context)} pictures; give one"
        )
    negative = nag.txt.to(context).repeat(len(context) // len(nag.txt), 1, 1)
    lengths = NagTexts(nag.nag, negative.shape[1], context.shape[1])
    return lengths, torch.cat([negative, context], dim=1)
