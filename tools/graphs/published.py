"""Templates that need published FLUX.1 files."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .files import AE, CLIP_L, FP8, GGUF, HUB, LORA, T5, T5_GGUF
from .parts import (
    BLUE,
    LICENCE,
    PICTURES,
    PURPLE,
    Column,
    Graph,
    Node,
    finish,
    for_ksampler,
    instruction,
    ksampler,
    loaders,
    picture,
    reference,
    reference_column,
    result,
    sampler,
    save,
    stitch,
    words,
)


def edit_of_one(
    prefix: str,
    text: str,
    loaded: Column,
    model: str = "model",
    keep: tuple[str, ...] = (),
    **settings: Any,
) -> tuple[Column, ...]:
    """One picture, one instruction; what it is to `keep` by phrases of Kontext: Prompt."""
    phrases = ()
    if keep:
        values = {"instruction": text, **{f"keep_{name}": True for name in keep}}
        phrases, text = (Node("prompt", "KontextPrompt", values, more=50),), "prompt.0"
    return (
        loaded,
        reference_column(
            picture("image", "kontext_shapes.png", "Picture"),
            reference("one", 1, image="image.0", vae="vae.0"),
        ),
        words(*phrases, instruction(text), stitch("one")),
        Column("Paint", PURPLE, 310, (sampler(model, **settings),)),
        result(finish(original="image.0"), save("finish", prefix)),
    )


WITH_FILES: dict[str, Graph] = {
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
            keep=("pose", "light"),
            seed=1,
        ),
        compare=("image.0", "finish.0"),
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
        compare=("image.0", "finish.0"),
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
                picture("image", "kontext_star.png", "Picture"),
                reference("one", 1, image="image.0", vae="vae.0"),
            ),
            reference_column(
                picture("image2", "kontext_sunset.png", "Other picture"),
                reference("two", 2, references="one.0", image="image2.0", vae="vae.0"),
            ),
            words(
                instruction("put the star of image 1 on the background of image 2"),
                stitch("two"),
                *for_ksampler(),
            ),
            result(
                ksampler(seed=1),
                Node("decode", "VAEDecode", {"samples": "sampler.0", "vae": "vae.0"}),
                save("decode", "stitch_with_native_flux"),
            ),
        ),
    ),
    "large_picture": Graph(
        "## A large picture, decoded in tiles\n\nThe target is 1568 x 1568, wider than Kontext was "
        "trained at, and *VAE Decode (Tiled)* decodes it piece by piece, so that the memory of the "
        "card does not limit its size. With a VAE from *Kontext: Load VAE* tiles leave no seams.\n\n"
        "- **target** puts the picture on the result's own grid: nothing moves, and no second copy "
        "appears at the edge." + LICENCE + PICTURES,
        (
            loaders(FP8, T5, CLIP_L, AE),
            reference_column(
                picture("image", "kontext_sunset.png", "Picture"),
                reference("one", 1, image="image.0", vae="vae.0", target="size.0"),
            ),
            words(
                instruction("paint the same scene in rich detail"),
                Node("size", "EmptySD3LatentImage", {"width": 1568, "height": 1568}),
                # Says that the size is far above the trained one, in lines of its own.
                replace(stitch("one", latent="size.0"), more=295),
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
}
