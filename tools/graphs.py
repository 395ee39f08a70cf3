"""The graphs of the templates and of the help pages' pictures, as short as they can be said.

A graph is a list of columns, a column a list of nodes. Links are written at the input they end in:
"loader.0" is output 0 of the node called loader.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["FILES", "PAGES", "TEMPLATES", "Column", "Graph", "Node"]

HUB = "https://huggingface.co"
ENCODERS = f"{HUB}/comfyanonymous/flux_text_encoders/resolve/main"
# Published files by name: where they are, and the folder below models/ they belong into.
FILES = {
    "flux1-dev-kontext_fp8_scaled.safetensors": (
        f"{HUB}/Comfy-Org/flux1-kontext-dev_ComfyUI/resolve/main/split_files/diffusion_models",
        "diffusion_models",
    ),
    "flux1-kontext-dev.safetensors": (
        f"{HUB}/black-forest-labs/FLUX.1-Kontext-dev/resolve/main",
        "diffusion_models",
    ),
    "flux1-kontext-dev-Q4_K_M.gguf": (
        f"{HUB}/QuantStack/FLUX.1-Kontext-dev-GGUF/resolve/main",
        "diffusion_models",
    ),
    "t5-v1_1-xxl-encoder-Q5_K_M.gguf": (
        f"{HUB}/city96/t5-v1_1-xxl-encoder-gguf/resolve/main",
        "text_encoders",
    ),
    "t5xxl_fp8_e4m3fn_scaled.safetensors": (ENCODERS, "text_encoders"),
    "clip_l.safetensors": (ENCODERS, "text_encoders"),
    "ae.safetensors": (
        f"{HUB}/Comfy-Org/Lumina_Image_2.0_Repackaged/resolve/main/split_files/vae",
        "vae",
    ),
    "Hyper-FLUX.1-dev-8steps-lora.safetensors": (
        f"{HUB}/ByteDance/Hyper-SD/resolve/main",
        "loras",
    ),
}
FP8 = "flux1-dev-kontext_fp8_scaled.safetensors"
GGUF = "flux1-kontext-dev-Q4_K_M.gguf"
T5 = "t5xxl_fp8_e4m3fn_scaled.safetensors"
T5_GGUF = "t5-v1_1-xxl-encoder-Q5_K_M.gguf"
CLIP_L = "clip_l.safetensors"
AE = "ae.safetensors"
LORA = "Hyper-FLUX.1-dev-8steps-lora.safetensors"


@dataclass(frozen=True)
class Node:
    """`key` is its name in links; `values` holds widget values and links; `more` is extra height."""

    key: str
    type: str
    values: dict[str, Any] = field(default_factory=dict)
    title: str = ""
    more: int = 0


@dataclass(frozen=True)
class Column:
    title: str
    color: str
    width: int
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Graph:
    """`note` is the Markdown of its note; the columns become groups."""

    note: str
    columns: tuple[Column, ...]


BLUE, GREEN, OCHRE, PURPLE = "#3f789e", "#8A8", "#b58b2a", "#a1309b"
PLACES = {"strength": 1.0, "start": 0.0, "end": 1.0}
PICTURES = (
    "\n\nPictures missing? They lie in `workflows/input` of the pack: copy them to ComfyUI's `input` "
    "folder."
)
EMBEDDED = (
    "\n\nThe **embedded model** is tiny, runs on any CPU and knows only small drawn scenes. For "
    "photographs choose FLUX.1 Kontext files in the loaders."
)
LICENCE = "\n\nFLUX.1 Kontext [dev] has its own licence: read it on the page of the file."


def loaders(
    model: str = "embedded: tiny",
    t5: str = "embedded: tiny",
    clip_l: str = "embedded: tiny",
    vae: str = "embedded: tiny",
    *between: Node,
) -> Column:
    """The three loaders, and what stands between model and sampler."""
    return Column(
        "Model",
        BLUE,
        340,
        (
            Node("model", "KontextLoadModel", {"model_name": model}),
            Node("clip", "KontextLoadTextEncoders", {"t5_name": t5, "clip_l_name": clip_l}),
            Node("vae", "KontextLoadVAE", {"model_name": vae}),
            *between,
        ),
    )


def picture(key: str, name: str, title: str) -> Node:
    return Node(key, "LoadImage", {"image": name}, title, more=260)


def reference(key: str, number: int, **values: Any) -> Node:
    return Node(key, "KontextReference", values, f"Reference: image {number}")


def instruction(text: str, key: str = "text", title: str = "Instruction") -> Node:
    return Node(key, "CLIPTextEncode", {"clip": "clip.0", "text": text}, title, more=90)


def stitch(references: str, key: str = "stitch", text: str = "text", **values: Any) -> Node:
    links = {"conditioning": f"{text}.0", "references": f"{references}.0"}
    return Node(key, "KontextStitch", {**links, **values}, more=160)


def sampler(model: str = "model", key: str = "sampler", at: str = "stitch", **values: Any) -> Node:
    links = {"model": f"{model}.0", "positive": f"{at}.0", "latent_image": f"{at}.1"}
    return Node(key, "KontextSampler", {**links, **values}, more=260)


def save(image: str, prefix: str, title: str = "Result") -> Node:
    values = {"images": f"{image}.0", "filename_prefix": f"kontext/{prefix}"}
    return Node("save", "SaveImage", values, title, more=380)


def finish(at: str = "sampler", key: str = "finish", **values: Any) -> Node:
    return Node(key, "KontextFinish", {"samples": f"{at}.0", "vae": "vae.0", **values})


def reference_column(*nodes: Node, width: int = 290) -> Column:
    return Column("Reference", GREEN, width, nodes)


def words(*nodes: Node) -> Column:
    return Column("Instruction", OCHRE, 350, nodes)


def result(*nodes: Node) -> Column:
    return Column("Result", PURPLE, 350, nodes)


def edit_of_one(
    prefix: str, text: str, loaded: Column, model: str = "model", **settings: Any
) -> tuple[Column, ...]:
    """One picture, one instruction."""
    return (
        loaded,
        reference_column(
            picture("image", "kontext_shapes.png", "Image 1"),
            reference("one", 1, image="image.0", vae="vae.0"),
        ),
        words(instruction(text), stitch("one")),
        Column("Paint", PURPLE, 310, (sampler(model, **settings),)),
        result(finish(original="image.0"), save("finish", prefix)),
    )


TEMPLATES: dict[str, Graph] = {
    "one_node_edit": Graph(
        "## Everything in one node\n\nPress **Run**: *Kontext: Edit* loads the embedded model, "
        "looks at up to three pictures and does what the prompt says.\n\n- Connect a MODEL, CLIP "
        "and VAE to it to use files of yours.\n- Its LATENT is the result before decoding: for "
        "*Kontext: Reference*, to go on without loss." + EMBEDDED + PICTURES,
        (
            Column("Picture", GREEN, 290, (picture("image", "kontext_shapes.png", "Image 1"),)),
            Column(
                "Edit",
                OCHRE,
                350,
                (
                    Node(
                        "edit",
                        "KontextEdit",
                        {"image1": "image.0", "prompt": "make it night", "seed": 1},
                        more=90,
                    ),
                ),
            ),
            result(save("edit", "one_node_edit")),
        ),
    ),
    "chain_of_two_turns": Graph(
        "## Edit the edited picture\n\nThe first turn's latent goes straight into the reference of "
        "the second: no decoding in between, so nothing is lost from turn to turn.\n\n- Add as many "
        "turns as you like in the same way.\n- Each turn has an instruction and a seed of its own."
        + EMBEDDED
        + PICTURES,
        (
            loaders(),
            reference_column(
                picture("image", "kontext_shapes.png", "Image 1"),
                reference("one", 1, image="image.0", vae="vae.0"),
            ),
            Column(
                "Turn 1",
                OCHRE,
                350,
                (
                    instruction("make the background blue", title="Instruction 1"),
                    stitch("one"),
                    sampler(seed=2),
                ),
            ),
            Column(
                "Turn 2",
                PURPLE,
                350,
                (
                    reference("two", 1, latent="sampler.0"),
                    instruction("make it night", "text2", "Instruction 2"),
                    stitch("two", "stitch2", "text2"),
                    sampler(key="sampler2", at="stitch2", seed=3),
                ),
            ),
            result(
                Node("decode1", "KontextFinish", {"samples": "sampler.0", "vae": "vae.0"}),
                Node("preview", "PreviewImage", {"images": "decode1.0"}, "After turn 1", more=260),
                finish("sampler2"),
                save("finish", "chain_of_two_turns", "After turn 2"),
            ),
        ),
    ),
    "inpaint_with_mask": Graph(
        "## Change only what the mask covers\n\nThe mask is white where the picture may change. "
        "*Kontext: Finish* puts every pixel outside of it back from the original, exactly.\n\n"
        "- Draw a mask of your own: right click on *Load Image*, *Open in MaskEditor*, and connect "
        "its MASK instead.\n- **feather** softens the inside of the mask's edge."
        + EMBEDDED
        + PICTURES,
        (
            loaders(),
            reference_column(
                picture("image", "kontext_shapes.png", "Image 1"),
                Node(
                    "mask",
                    "LoadImageMask",
                    {"image": "kontext_mask.png", "channel": "red"},
                    "Mask: white may change",
                    more=180,
                ),
                reference("one", 1, image="image.0", vae="vae.0"),
            ),
            words(instruction("make the circle blue"), stitch("one")),
            Column("Paint", PURPLE, 310, (sampler(seed=4),)),
            result(
                finish(original="image.0", mask="mask.0", feather=4),
                save("finish", "inpaint_with_mask"),
            ),
        ),
    ),
    "gguf_edit": Graph(
        "## FLUX.1 Kontext from GGUF files\n\nQ4_K_M takes 6.9 GB instead of 23.8. No other pack is "
        "needed.\n\n| file | folder |\n|---|---|\n"
        f"| [{GGUF}]({HUB}/QuantStack/FLUX.1-Kontext-dev-GGUF) | `models/diffusion_models` |\n"
        f"| [{T5_GGUF}]({HUB}/city96/t5-v1_1-xxl-encoder-gguf) | `models/text_encoders` |\n"
        f"| [{CLIP_L}]({HUB}/comfyanonymous/flux_text_encoders) | `models/text_encoders` |\n"
        f"| [{AE}]({HUB}/Comfy-Org/Lumina_Image_2.0_Repackaged) | `models/vae` |\n\n"
        "ComfyUI's dialog of missing models leaves GGUF files out; put them there yourself, then "
        "press **R**." + LICENCE,
        edit_of_one(
            "gguf_edit",
            "make the background a calm blue sea",
            loaders(GGUF, T5_GGUF, CLIP_L, AE),
            seed=1,
        ),
    ),
    "fp8_with_lora": Graph(
        "## fp8 file with a LoRA\n\nThe Hyper LoRA needs 8 steps instead of 28, at a strength of "
        "0.125. *Kontext: Load LoRA* reads LoRAs of every common tool and computes them beside the "
        "weights, so that fp8 and GGUF stay as they are.\n\n- Chain several nodes for several "
        "LoRAs.\n- After a run the node says how many layers it reached." + LICENCE,
        edit_of_one(
            "fp8_with_lora",
            "turn it into a watercolour painting",
            loaders(
                FP8,
                T5,
                CLIP_L,
                AE,
                Node(
                    "lora",
                    "KontextLoadLora",
                    {"model": "model.0", "lora_file": LORA, "strength": 0.125},
                    more=90,
                ),
            ),
            model="lora",
            seed=1,
            steps=8,
        ),
    ),
    "ksampler_with_our_loaders": Graph(
        "## Our loaders with ComfyUI's KSampler\n\nMODEL, CLIP, VAE, CONDITIONING and LATENT are "
        "ComfyUI's own kinds: any sampler and scheduler works, and so do LoRA loaders, patches and "
        "*SamplerCustomAdvanced*.\n\n- **FluxGuidance** holds the guidance: 2.5 suits Kontext.\n"
        "- With cfg 1 the negative is not used; it only has to be there.\n- **simple** is the "
        "scheduler for Kontext." + EMBEDDED + PICTURES,
        (
            loaders(),
            reference_column(
                picture("image", "kontext_shapes.png", "Image 1"),
                reference("one", 1, image="image.0", vae="vae.0"),
            ),
            words(
                instruction("make the background blue"),
                stitch("one"),
                Node("guidance", "FluxGuidance", {"conditioning": "stitch.0", "guidance": 2.5}),
                Node("negative", "ConditioningZeroOut", {"conditioning": "text.0"}),
            ),
            Column(
                "Paint",
                PURPLE,
                310,
                (
                    Node(
                        "sampler",
                        "KSampler",
                        {
                            "model": "model.0",
                            "positive": "guidance.0",
                            "negative": "negative.0",
                            "latent_image": "stitch.1",
                            "seed": 2,
                            "steps": 28,
                            "cfg": 1.0,
                            "sampler_name": "euler",
                            "scheduler": "simple",
                        },
                        more=260,
                    ),
                ),
            ),
            result(
                Node("decode", "VAEDecode", {"samples": "sampler.0", "vae": "vae.0"}),
                save("decode", "ksampler_with_our_loaders"),
            ),
        ),
    ),
    "stitch_with_native_flux": Graph(
        "## Our Stitch with ComfyUI's own FLUX.1\n\nThe model comes from ComfyUI's *Load Diffusion "
        "Model*; *Kontext: Reference* and *Kontext: Stitch* place two pictures beside the target.\n\n"
        "- Pictures and method work as with our loader. **Strength, start, end, mask and explicit "
        "places** need a MODEL from *Kontext: Load Model*." + LICENCE + PICTURES,
        (
            Column(
                "Model",
                BLUE,
                340,
                (
                    Node("model", "UNETLoader", {"unet_name": FP8, "weight_dtype": "default"}),
                    Node(
                        "clip",
                        "DualCLIPLoader",
                        {
                            "clip_name1": CLIP_L,
                            "clip_name2": T5,
                            "type": "flux",
                            "device": "default",
                        },
                    ),
                    Node("vae", "VAELoader", {"vae_name": AE}),
                ),
            ),
            reference_column(
                picture("image", "kontext_star.png", "Image 1"),
                reference("one", 1, image="image.0", vae="vae.0"),
            ),
            reference_column(
                picture("image2", "kontext_sunset.png", "Image 2"),
                reference("two", 2, references="one.0", image="image2.0", vae="vae.0"),
            ),
            words(
                instruction("put the star of image 1 on the background of image 2"),
                stitch("two"),
                Node("guidance", "FluxGuidance", {"conditioning": "stitch.0", "guidance": 2.5}),
                Node("negative", "ConditioningZeroOut", {"conditioning": "text.0"}),
            ),
            result(
                Node(
                    "sampler",
                    "KSampler",
                    {
                        "model": "model.0",
                        "positive": "guidance.0",
                        "negative": "negative.0",
                        "latent_image": "stitch.1",
                        "seed": 1,
                        "steps": 28,
                        "cfg": 1.0,
                        "sampler_name": "euler",
                        "scheduler": "simple",
                    },
                ),
                Node("decode", "VAEDecode", {"samples": "sampler.0", "vae": "vae.0"}),
                save("decode", "stitch_with_native_flux"),
            ),
        ),
    ),
    "large_picture": Graph(
        "## A large picture, decoded in tiles\n\nThe target is 1568 x 1568, wider than Kontext was "
        "trained at, and *VAE Decode (Tiled)* decodes it piece by piece, so that the memory of the "
        "card does not limit its size. With a VAE from *Kontext: Load VAE* tiles leave no seams: "
        "sums over the whole picture are kept, not those of a tile.\n\n- Without this node our VAE "
        "falls back to tiles by itself when memory runs out." + LICENCE + PICTURES,
        (
            loaders(FP8, T5, CLIP_L, AE),
            reference_column(
                picture("image", "kontext_sunset.png", "Image 1"),
                reference("one", 1, image="image.0", vae="vae.0"),
            ),
            words(
                instruction("paint the same scene in rich detail"),
                Node("size", "EmptySD3LatentImage", {"width": 1568, "height": 1568}),
                stitch("one", latent="size.0"),
            ),
            Column("Paint", PURPLE, 310, (sampler(seed=1),)),
            result(
                Node(
                    "decode",
                    "VAEDecodeTiled",
                    {"samples": "sampler.0", "vae": "vae.0", "tile_size": 512, "overlap": 64},
                ),
                save("decode", "large_picture"),
            ),
        ),
    ),
    "quantize": Graph(
        "## Make a smaller model file\n\nWrites `flux1-kontext-dev-Q4_K_M.gguf`, 6.9 GB, from the "
        "published file of 23.8 GB into `models/diffusion_models`. Needs minutes, and memory for "
        "one tensor.\n\n- Then press **R** and choose the new file in *Kontext: Load Model*.\n"
        "- The published file is behind a licence: accept it on its page, then download.",
        (
            Column(
                "Quantize",
                BLUE,
                400,
                (
                    Node(
                        "quantize",
                        "KontextQuantize",
                        {"model_name": "flux1-kontext-dev.safetensors", "type": "Q4_K_M"},
                        more=100,
                    ),
                ),
            ),
        ),
    ),
    "batch": Graph(
        "## Many edits with one Run\n\n*Kontext: Batch* gives out one row after another; what "
        "follows runs once for each.\n\n- **lines**: one prompt a line, or a pasted table with "
        "columns name, image, prompt, seed.\n- **source**: a folder of pictures below the input "
        "folder, or a `.csv` or `.jsonl` file there.\n- For hundreds of rows, or several servers: "
        "`python -m kontext_core batch`." + EMBEDDED + PICTURES,
        (
            loaders(),
            Column(
                "Rows",
                GREEN,
                350,
                (
                    picture("image", "kontext_shapes.png", "Image 1"),
                    Node(
                        "batch",
                        "KontextBatch",
                        {
                            "images": "image.0",
                            "lines": "make the background blue\nmake it night\nmake the circle "
                            "purple",
                            "seed": 2,
                            "name_prefix": "kontext/batch_",
                        },
                        more=120,
                    ),
                ),
            ),
            Column(
                "Edit",
                OCHRE,
                350,
                (
                    Node(
                        "edit",
                        "KontextEdit",
                        {
                            "image1": "batch.0",
                            "model": "model.0",
                            "clip": "clip.0",
                            "vae": "vae.0",
                            "prompt": "batch.1",
                            "seed": "batch.3",
                        },
                    ),
                ),
            ),
            result(
                Node(
                    "save",
                    "SaveImage",
                    {"images": "edit.0", "filename_prefix": "batch.2"},
                    "Results",
                    more=420,
                )
            ),
        ),
    ),
}

PLAIN = "#3f789e"


def shown(*columns: tuple[int, tuple[Node, ...]]) -> Graph:
    """A picture of a help page: (width, nodes) from left to right, no note."""
    return Graph("", tuple(Column("", PLAIN, width, nodes) for width, nodes in columns))


def loaded(key: str, kind: str) -> Node:
    return Node(key, f"KontextLoad{kind}")


# Node: the small graph that its help page shows.
PAGES: dict[str, Graph] = {
    "KontextLoadModel": shown(
        (340, (Node("it", "KontextLoadModel"),)),
        (310, (Node("sampler", "KontextSampler", {"model": "it.0"}),)),
    ),
    "KontextLoadTextEncoders": shown(
        (340, (Node("it", "KontextLoadTextEncoders"),)),
        (
            330,
            (
                Node(
                    "text",
                    "CLIPTextEncode",
                    {"clip": "it.0", "text": "make the background blue"},
                    "Instruction",
                    more=60,
                ),
            ),
        ),
        (310, (Node("stitch", "KontextStitch", {"conditioning": "text.0"}, more=160),)),
    ),
    "KontextLoadVAE": shown(
        (340, (Node("it", "KontextLoadVAE"),)),
        (
            300,
            (
                Node("one", "KontextReference", {"vae": "it.0"}),
                Node("finish", "KontextFinish", {"vae": "it.0"}),
            ),
        ),
    ),
    "KontextReference": shown(
        (270, (picture("a", "kontext_star.png", "Image 1"), loaded("vae", "VAE"))),
        (
            270,
            (
                Node(
                    "it",
                    "KontextReference",
                    {"image": "a.0", "vae": "vae.0"},
                    "Reference: image 1",
                ),
            ),
        ),
        (
            270,
            (
                Node(
                    "two",
                    "KontextReference",
                    {"references": "it.0", "vae": "vae.0"},
                    "Reference: image 2",
                ),
            ),
        ),
        (270, (Node("stitch", "KontextStitch", {"references": "two.0"}, more=160),)),
    ),
    "KontextStitch": shown(
        (
            320,
            (
                Node(
                    "text",
                    "CLIPTextEncode",
                    {"text": "put the star of image 1 on the background of image 2"},
                    "Instruction",
                    more=60,
                ),
                Node("one", "KontextReference", {}, "Reference: image 2"),
            ),
        ),
        (
            330,
            (
                Node(
                    "it",
                    "KontextStitch",
                    {"conditioning": "text.0", "references": "one.0"},
                    more=160,
                ),
            ),
        ),
        (
            300,
            (Node("sampler", "KontextSampler", {"positive": "it.0", "latent_image": "it.1"}),),
        ),
    ),
    "KontextSampler": shown(
        (
            330,
            (
                loaded("model", "Model"),
                Node("stitch", "KontextStitch", more=160),
            ),
        ),
        (
            320,
            (
                Node(
                    "it",
                    "KontextSampler",
                    {"model": "model.0", "positive": "stitch.0", "latent_image": "stitch.1"},
                ),
            ),
        ),
        (300, (Node("finish", "KontextFinish", {"samples": "it.0"}),)),
    ),
    "KontextFinish": shown(
        (
            300,
            (
                Node("sampler", "KontextSampler"),
                picture("a", "kontext_shapes.png", "The edited picture"),
            ),
        ),
        (
            320,
            (
                Node(
                    "it",
                    "KontextFinish",
                    {"samples": "sampler.0", "original": "a.0", "mask": "a.1"},
                ),
            ),
        ),
        (300, (Node("save", "SaveImage", {"images": "it.0"}, more=30),)),
    ),
    "KontextEdit": shown(
        (280, (picture("a", "kontext_shapes.png", "Image 1"),)),
        (
            350,
            (
                Node(
                    "it",
                    "KontextEdit",
                    {"image1": "a.0", "prompt": "make the background blue"},
                    more=60,
                ),
            ),
        ),
        (280, (Node("save", "SaveImage", {"images": "it.0"}, more=30),)),
    ),
    "KontextLoadLora": shown(
        (320, (loaded("model", "Model"),)),
        (
            300,
            (
                Node(
                    "it",
                    "KontextLoadLora",
                    {"model": "model.0", "lora_file": "style.safetensors"},
                    more=90,
                ),
            ),
        ),
        (
            300,
            (
                Node(
                    "second",
                    "KontextLoadLora",
                    {"model": "it.0", "lora_file": "character.safetensors", "strength": 0.8},
                    more=90,
                ),
            ),
        ),
        (280, (Node("sampler", "KontextSampler", {"model": "second.0"}),)),
    ),
    "KontextQuantize": shown(
        (
            400,
            (
                Node(
                    "it",
                    "KontextQuantize",
                    {"model_name": "flux1-kontext-dev.safetensors"},
                    more=90,
                ),
            ),
        ),
        (
            380,
            (Node("model", "KontextLoadModel", {"model_name": "flux1-kontext-dev-Q4_K_M.gguf"}),),
        ),
    ),
    "KontextBatch": shown(
        (
            340,
            (
                Node(
                    "it",
                    "KontextBatch",
                    {"lines": "make it night\nmake the background blue", "source": "photos"},
                    more=60,
                ),
            ),
        ),
        (
            320,
            (
                Node(
                    "edit",
                    "KontextEdit",
                    {"image1": "it.0", "prompt": "it.1", "seed": "it.3"},
                    more=40,
                ),
            ),
        ),
        (
            300,
            (
                Node(
                    "save",
                    "SaveImage",
                    {"images": "edit.0", "filename_prefix": "it.2"},
                    more=30,
                ),
            ),
        ),
    ),
}
