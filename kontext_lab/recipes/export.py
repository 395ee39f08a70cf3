"""Recipe, part 6: averaged weights of parts 2 and 5 as the embedded model's files.

    python -m kontext_lab train export --out kontext_core/assets/tiny

Half-precision safetensors under the published key names, `config.json` with every size and the
preview's colours, `vocab.json`. The card beside them stays; `write_report.py` puts its figures in.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from kontext_core.partial import whole_file

from ..training.checkpoint import load_state
from .fit_pca import SHIPPED, load_pca

# (width, height) in pixels that training saw.
RESOLUTIONS = [[64, 64], [96, 64], [64, 96]]
# Pixels up to which a decoder trained on these still tells places apart; larger pictures are tiled.
DECODER_SIDE = 128


def averaged(average: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """One module's averaged parameters, in half precision."""
    prefix = name + "."
    return {
        key.removeprefix(prefix): value.to(torch.float16).contiguous()
        for key, value in average.items()
        if key.startswith(prefix)
    }


def mean_of(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Tensor]:
    """Half of each, in half precision: two stages of one training are often better together than
    either ("model soups", arXiv 2203.05482)."""
    return {
        key: ((value.float() + other[key].float()) / 2).to(torch.float16)
        for key, value in one.items()
    }


def autoencoder_of(source: Path) -> tuple[dict[str, Tensor], dict[str, Any], int]:
    """Weights in half precision, sizes, and steps trained, of a checkpoint or a model folder."""
    if source.is_dir():
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
        weights = load_file(source / "autoencoder.safetensors")
        return weights, config["autoencoder"], config["steps"]["autoencoder"]
    state = load_state(source)
    return averaged(state["ema"]["average"], "model"), state["params"], state["step"]


def write_json(path: Path, data: object) -> None:
    """Indented JSON with a final newline."""
    with whole_file(path) as file:
        file.write((json.dumps(data, indent=1) + "\n").encode())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("kontext_core/assets/tiny"))
    parser.add_argument("--pca", type=Path, default=SHIPPED)
    parser.add_argument("--flux", type=Path, default=Path("runs/flux/last.pt"))
    parser.add_argument(
        "--autoencoder", type=Path, default=Path("kontext_core/assets/tiny"),
        help="checkpoint of part 2, or a model folder whose autoencoder stays",
    )  # fmt: skip
    parser.add_argument(
        "--mean", type=Path,
        help="a model folder that the run began with; its transformer and the run's are averaged",
    )  # fmt: skip
    args = parser.parse_args(arguments)
    flux = load_state(args.flux)
    transformer = averaged(flux["ema"]["average"], "flux")
    if args.mean:
        transformer = mean_of(transformer, load_file(args.mean / "transformer.safetensors"))
    weights, params, trained = autoencoder_of(args.autoencoder)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, tensors in (
        ("transformer", transformer),
        ("text_encoder", averaged(flux["ema"]["average"], "text")),
        ("autoencoder", weights),
    ):
        with whole_file(args.out / f"{name}.safetensors", sync=True) as file:
            file.write(save(tensors))
    factors, bias = load_pca(args.pca).preview()
    write_json(args.out / "config.json", {
        "transformer": flux["flux_params"],
        "text_encoder": flux["text_params"],
        "autoencoder": {**params, "decoder_side": DECODER_SIDE},
        "latent_format": {
            "scale_factor": 0.3611,
            "shift_factor": 0.1159,
            "channels": 16,
            "downscale": 8,
            "rgb_factors": [[round(v, 5) for v in row] for row in factors],
            "rgb_bias": [round(v, 5) for v in bias],
        },
        "resolutions": RESOLUTIONS,
        "steps": {"transformer": flux["step"], "autoencoder": trained},
    })  # fmt: skip
    write_json(args.out / "vocab.json", flux["words"])
    sizes = {p.name: p.stat().st_size for p in sorted(args.out.iterdir())}
    print(json.dumps(sizes), "total", sum(sizes.values()))


if __name__ == "__main__":
    main()
