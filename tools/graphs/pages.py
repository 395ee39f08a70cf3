"""The small graphs that the help pages show, one for each node of the pack."""

from __future__ import annotations

from .parts import BLUE, Column, Graph, Node, picture


def shown(*columns: Column) -> Graph:
    """A picture of a help page, from left to right, without a note."""
    return Graph("", columns)


def column(width: int, *nodes: Node) -> Column:
    return Column("", BLUE, width, nodes)


def loaded(key: str, kind: str) -> Node:
    return Node(key, f"KontextLoad{kind}")


# Node: the small graph that its help page shows.
PAGES: dict[str, Graph] = {
    "KontextLoadModel": shown(
        column(340, Node("it", "KontextLoadModel")),
        column(310, Node("sampler", "KontextSampler", {"model": "it.0"})),
    ),
    "KontextLoadTextEncoders": shown(
        column(340, Node("it", "KontextLoadTextEncoders")),
        column(
            330,
            Node(
                "text",
                "CLIPTextEncode",
                {"clip": "it.0", "text": "make the background blue"},
                "Instruction",
                more=60,
            ),
        ),
        column(310, Node("stitch", "KontextStitch", {"conditioning": "text.0"}, more=160)),
    ),
    "KontextLoadVAE": shown(
        column(340, Node("it", "KontextLoadVAE")),
        column(
            300,
            Node("one", "KontextReference", {"vae": "it.0"}),
            Node("finish", "KontextFinish", {"vae": "it.0"}),
        ),
    ),
    "KontextReference": shown(
        column(270, picture("a", "kontext_star.png", "Image 1"), loaded("vae", "VAE")),
        column(
            270,
            Node("it", "KontextReference", {"image": "a.0", "vae": "vae.0"}, "Reference: image 1"),
        ),
        column(
            270,
            Node(
                "two",
                "KontextReference",
                {"references": "it.0", "vae": "vae.0"},
                "Reference: image 2",
            ),
        ),
        column(270, Node("stitch", "KontextStitch", {"references": "two.0"}, more=160)),
    ),
    "KontextNames": shown(
        column(
            270,
            Node("one", "KontextReference", {"name": "the mug"}, "Reference"),
        ),
        column(
            270,
            Node(
                "two", "KontextReference", {"references": "one.0", "name": "the logo"}, "Reference"
            ),
        ),
        column(
            300,
            Node(
                "it",
                "KontextNames",
                {"references": "two.0", "text": "put the logo on the mug"},
                more=60,
            ),
            Node("text", "CLIPTextEncode", {"text": "it.0"}, "Instruction", more=30),
        ),
        column(
            310,
            Node(
                "stitch",
                "KontextStitch",
                {"conditioning": "text.0", "references": "two.0"},
                more=160,
            ),
        ),
    ),
    "KontextStitch": shown(
        column(
            320,
            Node(
                "text",
                "CLIPTextEncode",
                {"text": "put the star of image 1 on the background of image 2"},
                "Instruction",
                more=60,
            ),
            picture("a", "kontext_star.png", "Image 1"),
        ),
        column(270, Node("one", "KontextReference", {"image": "a.0"}, "Reference: image 1")),
        column(
            330,
            Node(
                "it", "KontextStitch", {"conditioning": "text.0", "references": "one.0"}, more=160
            ),
        ),
        column(
            300, Node("sampler", "KontextSampler", {"positive": "it.0", "latent_image": "it.1"})
        ),
    ),
    "KontextSampler": shown(
        column(330, loaded("model", "Model"), Node("stitch", "KontextStitch", more=160)),
        column(
            320,
            Node(
                "it",
                "KontextSampler",
                {"model": "model.0", "positive": "stitch.0", "latent_image": "stitch.1"},
            ),
        ),
        column(300, Node("finish", "KontextFinish", {"samples": "it.0"})),
    ),
    "KontextFinish": shown(
        column(
            300,
            Node("sampler", "KontextSampler"),
            picture("a", "kontext_shapes.png", "The edited picture"),
        ),
        column(
            320,
            Node("it", "KontextFinish", {"samples": "sampler.0", "original": "a.0", "mask": "a.1"}),
        ),
        column(300, Node("save", "SaveImage", {"images": "it.0"}, more=30)),
    ),
    "KontextCandidates": shown(
        column(330, loaded("model", "Model"), Node("stitch", "KontextStitch", more=160)),
        column(
            320,
            Node(
                "it",
                "KontextCandidates",
                {"model": "model.0", "positive": "stitch.0", "latent_image": "stitch.1"},
            ),
        ),
        column(300, Node("finish", "KontextFinish", {"samples": "it.0"})),
        column(300, Node("compare", "KontextCompare", {"after": "finish.0"}, more=290)),
    ),
    "KontextCompare": shown(
        column(
            300,
            picture("a", "kontext_shapes.png", "The edited picture"),
            Node("finish", "KontextFinish", {"original": "a.0"}),
        ),
        column(320, Node("it", "KontextCompare", {"before": "a.0", "after": "finish.0"}, more=290)),
    ),
    "KontextEdit": shown(
        column(280, picture("a", "kontext_shapes.png", "Image 1")),
        column(
            350,
            Node(
                "it",
                "KontextEdit",
                {"image1": "a.0", "prompt": "make the background blue"},
                more=60,
            ),
        ),
        column(280, Node("save", "SaveImage", {"images": "it.0"}, more=30)),
    ),
    "KontextBox": shown(
        column(300, picture("a", "kontext_shapes.png", "The picture")),
        column(300, Node("it", "KontextBox", {"image": "a.0", "mask": "a.1"})),
        column(270, Node("one", "KontextReference", {"image": "it.0"}, "Reference: image 1")),
    ),
    "KontextReferences": shown(
        column(
            280,
            picture("a", "kontext_star.png", "Image 1"),
            picture("b", "kontext_sunset.png", "Image 2"),
        ),
        column(
            290,
            loaded("vae", "VAE"),
            Node(
                "it",
                "KontextReferences",
                {"vae": "vae.0", "image_1": "a.0", "image_2": "b.0", "names": "the star\nthe sky"},
                more=60,
            ),
        ),
        column(290, Node("stitch", "KontextStitch", {"references": "it.0"}, more=160)),
    ),
    "KontextArrange": shown(
        column(
            280,
            picture("a", "kontext_sunset.png", "The scene"),
            picture("b", "kontext_shapes.png", "The thing"),
        ),
        column(
            290,
            Node(
                "it",
                "KontextArrange",
                {
                    "image_1": "a.0",
                    "image_2": "b.0",
                    "mask_2": "b.1",
                    "layout": "places",
                    "places": "\n0.1, 0.2, 0.6, 0.6",
                },
                more=60,
            ),
        ),
        column(
            290,
            Node("one", "KontextReference", {"image": "it.0"}, "Reference: image 1"),
        ),
    ),
    "KontextPrompt": shown(
        column(
            340,
            Node("it", "KontextPrompt", {"instruction": "put her in a forest", "keep_face": True}),
        ),
        column(330, Node("text", "CLIPTextEncode", {"text": "it.0"}, "Instruction")),
        column(310, Node("stitch", "KontextStitch", {"conditioning": "text.0"}, more=160)),
    ),
    "KontextLoadLora": shown(
        column(320, loaded("model", "Model")),
        column(
            300,
            Node(
                "it",
                "KontextLoadLora",
                {"model": "model.0", "lora_file": "style.safetensors"},
                more=90,
            ),
        ),
        column(
            300,
            Node(
                "second",
                "KontextLoadLora",
                {"model": "it.0", "lora_file": "character.safetensors", "strength": 0.8},
                more=90,
            ),
        ),
        column(280, Node("sampler", "KontextSampler", {"model": "second.0"})),
    ),
    "KontextQuantize": shown(
        column(
            400,
            Node("it", "KontextQuantize", {"model_name": "flux1-kontext-dev.safetensors"}, more=90),
        ),
        column(
            380, Node("model", "KontextLoadModel", {"model_name": "flux1-kontext-dev-Q4_K_M.gguf"})
        ),
    ),
    "KontextBatch": shown(
        column(
            340,
            Node(
                "it",
                "KontextBatch",
                {"lines": "make it night\nmake the background blue", "source": "photos"},
                more=60,
            ),
        ),
        column(
            320,
            Node(
                "edit", "KontextEdit", {"image1": "it.0", "prompt": "it.1", "seed": "it.3"}, more=40
            ),
        ),
        column(
            300, Node("save", "SaveImage", {"images": "edit.0", "filename_prefix": "it.2"}, more=30)
        ),
    ),
    "KontextCrop": shown(
        column(270, picture("a", "kontext_shapes.png", "Picture"), loaded("vae", "VAE")),
        column(
            300,
            Node("it", "KontextCrop", {"image": "a.0", "mask": "a.1", "vae": "vae.0"}, more=20),
        ),
        column(
            300,
            Node("one", "KontextReference", {"image": "it.0", "vae": "vae.0"}),
            Node("paste", "KontextPaste", {"crop": "it.2"}),
        ),
    ),
    "KontextPaste": shown(
        column(
            300,
            Node("crop", "KontextCrop", more=20),
        ),
        column(
            300,
            Node("finish", "KontextFinish"),
            Node("it", "KontextPaste", {"image": "finish.0", "crop": "crop.2"}),
        ),
        column(300, Node("save", "SaveImage", {"images": "it.0"}, more=60)),
    ),
    "KontextSessionStart": shown(
        column(280, picture("a", "kontext_shapes.png", "Picture")),
        column(330, Node("it", "KontextSessionStart", {"image": "a.0"}, more=140)),
        column(330, Node("turn", "KontextSessionTurn", {"session": "it.0"}, more=190)),
    ),
    "KontextSessionTurn": shown(
        column(300, Node("start", "KontextSessionStart", more=140)),
        column(
            330,
            Node(
                "it",
                "KontextSessionTurn",
                {"session": "start.0", "prompt": "make the background blue"},
                "Turn 1",
                more=190,
            ),
        ),
        column(
            330,
            Node(
                "two",
                "KontextSessionTurn",
                {"session": "it.0", "prompt": "make the circle purple"},
                "Turn 2",
                more=190,
            ),
        ),
    ),
    "KontextSessionPick": shown(
        column(380, Node("it", "KontextSessionPick", {"number": 1}, more=140)),
        column(
            330,
            Node(
                "turn",
                "KontextSessionTurn",
                {"session": "it.0", "prompt": "make the circle red"},
                "Another way",
                more=190,
            ),
        ),
    ),
    "KontextCanvas": shown(
        column(270, picture("a", "kontext_shapes.png", "Picture"), loaded("vae", "VAE")),
        column(
            290,
            Node("it", "KontextCanvas", {"image1": "a.0", "vae": "vae.0", "right": 128}),
        ),
        column(
            270,
            Node(
                "one",
                "KontextReference",
                {"image": "it.0", "vae": "vae.0", "target": "it.1"},
                "Reference: image 1",
            ),
        ),
        column(270, Node("finish", "KontextFinish", {"original": "a.0", "mask": "it.2"})),
    ),
    "KontextTrainLora": shown(
        column(300, loaded("model", "Model"), loaded("clip", "TextEncoders"), loaded("vae", "VAE")),
        column(
            340,
            Node(
                "it",
                "KontextTrainLora",
                {
                    "model": "model.0",
                    "clip": "clip.0",
                    "vae": "vae.0",
                    "dataset": "kontext_crescent",
                    "name": "crescent",
                    "learning_rate": 0.001,
                },
                more=330,
            ),
        ),
        column(310, Node("sampler", "KontextSampler", {"model": "it.0"})),
    ),
    "KontextAccelerate": shown(
        column(300, loaded("model", "Model")),
        column(300, Node("it", "KontextAccelerate", {"model": "model.0"}, more=90)),
        column(310, Node("sampler", "KontextSampler", {"model": "it.0"})),
    ),
}
