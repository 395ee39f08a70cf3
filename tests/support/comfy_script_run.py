"""A graph written with ComfyScript, run in its own environment: SCRIPT URL SEED.

ComfyScript builds a function for each node from
/object_info, so it also tries that description.
"""

import sys

from comfy_script.runtime import Workflow, load  # pyright: ignore[reportMissingImports]

load(sys.argv[1])

from comfy_script.runtime import nodes as n  # noqa: E402 # pyright: ignore[reportMissingImports]

# Leaving the block waits for the picture.
with Workflow(wait=True):
    model = n.KontextLoadModel("embedded: tiny", "auto")
    clip = n.KontextLoadTextEncoders("embedded: tiny", "embedded: tiny")
    vae = n.KontextLoadVAE("embedded: tiny", "auto")
    star, _ = n.LoadImage("kontext_star.png")
    references = n.KontextReference(image=star, vae=vae)
    latent = n.EmptySD3LatentImage(64, 64, 1)
    words = n.CLIPTextEncode("make the star red", clip)
    positive, latent = n.KontextStitch(words, latent=latent, references=references)
    latent = n.KontextSampler(model, positive, latent, seed=int(sys.argv[2]), steps=2)
    image = n.VAEDecode(latent, vae)
    n.SaveImage(image, "comfy_script")
