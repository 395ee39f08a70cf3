"""Scorers with weights: LPIPS against its formula, CLIP and DINO on small networks, faces by onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kontext_core import CheckpointError, InputError, ShapeError
from kontext_core.errors import UnscoredError
from kontext_lab.evaluation.answer import Answer
from kontext_lab.evaluation.cases import EditCase
from kontext_lab.evaluation.faces import aligned, face_scorer, similarity
from kontext_lab.evaluation.lpips import load_lpips
from kontext_lab.evaluation.scorers import make_scorer

CASE = EditCase("a", "c", "make it red", ())
# torchvision's AlexNet: number in `features`, out, in, kernel.
ALEX = ((0, 64, 3, 11), (3, 192, 64, 5), (6, 384, 192, 3), (8, 256, 384, 3), (10, 256, 256, 3))
VGG = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)


def pictures(count: int, size: int = 64) -> torch.Tensor:
    return torch.rand(count, size, size, 3, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def alex(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LPIPS' two files with random weights, under their published names."""
    folder = tmp_path_factory.mktemp("lpips")
    draw = torch.Generator().manual_seed(0)
    state = {}
    for number, out, into, kernel in ALEX:
        scale = (into * kernel**2) ** -0.5
        state[f"features.{number}.weight"] = scale * torch.randn(
            out, into, kernel, kernel, generator=draw
        )
        state[f"features.{number}.bias"] = 0.1 * torch.randn(out, generator=draw)
    torch.save(
        {**state, "classifier.1.weight": torch.zeros(2)}, folder / "alexnet-owt-7be5be79.pth"
    )
    lines = {
        f"lin{i}.model.1.weight": torch.rand(1, row[1], 1, 1, generator=draw)
        for i, row in enumerate(ALEX)
    }
    torch.save(lines, folder / "alex.pth")
    return folder


def test_lpips_is_its_formula(alex: Path) -> None:
    network = load_lpips(alex)
    a, b = (x[None].movedim(-1, 1) for x in pictures(2))
    state = torch.load(alex / "alexnet-owt-7be5be79.pth", weights_only=True)
    lines = torch.load(alex / "alex.pth", weights_only=True)

    def taps(x: torch.Tensor) -> list[torch.Tensor]:
        shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
        x = (2 * x - 1 - shift) / torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
        found = []
        for i, (number, stride, padding) in enumerate(
            ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1))
        ):
            if i in (1, 2):
                x = F.max_pool2d(x, 3, 2)
            weight, bias = state[f"features.{number}.weight"], state[f"features.{number}.bias"]
            x = F.conv2d(x, weight, bias, stride, padding).clamp(min=0)
            found.append(x)
        return found

    expected = 0.0
    for i, (one, other) in enumerate(zip(taps(a), taps(b), strict=True)):
        one, other = (x / (x.norm(dim=1, keepdim=True) + 1e-10) for x in (one, other))
        expected += float((((one - other) ** 2) * lines[f"lin{i}.model.1.weight"]).sum(1).mean())
    # Equal but for the order of sums: 4e-7 of 1.5 measured.
    assert float(network.distance(a, b)) == pytest.approx(expected, rel=1e-5)
    assert float(network.distance(a, a)) == 0


def test_lpips_inside_and_outside_a_mask(alex: Path) -> None:
    score = make_scorer(f"lpips={alex}").score
    (before,) = pictures(1, 128)
    after = before.clone()
    after[:32] = 1 - after[:32]
    mask = torch.zeros(1, 128, 128)
    mask[:, :64] = 1
    found = score(Answer(CASE, [before[None]], after[None], mask=mask))
    # What lies 32 px from the change differs through the receptive fields' reach alone.
    assert found["inside"] > 4 * found["outside"] > 0
    assert score(Answer(CASE, [before[None]], before[None]))["input"] == 0
    with pytest.raises(ShapeError, match="at least 32"):
        score(Answer(CASE, [before[None, :16, :16]], before[None, :16, :16]))
    with pytest.raises(UnscoredError, match="another shape"):
        score(Answer(CASE, [before[None]], after[None, :64]))


def test_lpips_on_vgg_and_damaged_files(alex: Path, tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(1)
    numbers = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    state, into = {}, 3
    for number, out in zip(numbers, VGG, strict=True):
        state[f"features.{number}.weight"] = torch.randn(out, into, 3, 3, generator=draw) / (
            3 * into**0.5
        )
        state[f"features.{number}.bias"] = torch.zeros(out)
        into = out
    torch.save(state, tmp_path / "vgg16-397923af.pth")
    widths = (64, 128, 256, 512, 512)
    torch.save(
        {f"lin{i}.model.1.weight": torch.ones(1, c, 1, 1) for i, c in enumerate(widths)},
        tmp_path / "vgg.pth",
    )
    network = load_lpips(tmp_path)
    a, b = (x[None].movedim(-1, 1) for x in pictures(2, 32))
    assert network.name == "vgg" and float(network.distance(a, b)) > 0
    (tmp_path / "vgg.pth").write_bytes(b"PK not really")
    with pytest.raises(CheckpointError, match="can't be read"):
        load_lpips(tmp_path)
    torch.save({"lin0.model.1.weight": torch.ones(1, 64, 1, 1)}, tmp_path / "vgg.pth")
    with pytest.raises(CheckpointError, match=r"no lin1\.model"):
        load_lpips(tmp_path)


def test_clip_and_dino_from_a_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    words = {
        **vision,
        "vocab_size": 16,
        "max_position_embeddings": 8,
        "eos_token_id": 1,
        "bos_token_id": 2,
    }
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config=words,
        vision_config={**vision, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    clip = tmp_path / "clip"
    transformers.CLIPModel(config).save_pretrained(clip)
    vocabulary = {"[UNK]": 0, "[EOS]": 1, "make": 3, "red": 4, "it": 5}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, "[UNK]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]").save_pretrained(
        clip
    )
    size = {"height": 32, "width": 32}
    transformers.ViTImageProcessor(size=size).save_pretrained(clip)
    one, other = (x[None] for x in pictures(2))
    found = make_scorer(f"clip={clip}").score(Answer(CASE, [one], other))
    assert set(found) == {"text", "image"} and all(-1 <= value < 1 for value in found.values())
    same = make_scorer(f"clip={clip}").score(Answer(CASE, [one], one))
    assert same["image"] == pytest.approx(1, abs=1e-5)
    dino = tmp_path / "dino"
    transformers.ViTModel(transformers.ViTConfig(**vision, image_size=32)).save_pretrained(dino)
    transformers.ViTImageProcessor(size=size).save_pretrained(dino)
    score = make_scorer(f"dino={dino}").score
    assert score(Answer(CASE, [one], one))["image"] == pytest.approx(1, abs=1e-5)
    assert score(Answer(CASE, [one], other))["image"] < 1
    with pytest.raises(InputError, match="no model folder for this scorer"):
        make_scorer(f"clip={tmp_path}")


def test_identity_by_an_onnx_file(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    # A face's mean colour, as an embedding.
    node = onnx.helper.make_node("GlobalAveragePool", ["input"], ["mean"])
    flat = onnx.helper.make_node("Flatten", ["mean"], ["out"])
    tensor = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node, flat], "face", [tensor("input", 1, [1, 3, 112, 112])], [tensor("out", 1, [1, 3])]
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8
    )
    path = tmp_path / "face.onnx"
    onnx.save(model, path)
    red, green = torch.zeros(1, 120, 90, 3), torch.zeros(1, 120, 90, 3)
    red[..., 0], green[..., 1] = 1, 1
    score = make_scorer(f"auraface={path}").score
    assert score(Answer(CASE, [red], red))["identity"] == pytest.approx(1, abs=1e-6)
    # (1, -1, -1) and (-1, 1, -1) of length sqrt(3).
    assert score(Answer(CASE, [red], green))["identity"] == pytest.approx(-1 / 3, abs=1e-5)
    none = face_scorer(str(path), lambda picture: None)
    with pytest.raises(UnscoredError, match="no face was found in image 1"):
        none(Answer(CASE, [red], green))
    (tmp_path / "bad.onnx").write_bytes(b"no")
    with pytest.raises(InputError, match="can't load"):
        face_scorer(str(tmp_path / "bad.onnx"))


def test_faces_are_moved_turned_and_scaled_to_their_places() -> None:
    wanted = np.array([[38.3, 51.7], [73.5, 51.5], [56.0, 71.7], [41.5, 92.4], [70.7, 92.2]])
    angle = 0.4
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    given = 1.7 * wanted @ turn.T + [30, 12]
    matrix = similarity(given, wanted)
    back = given @ matrix[:, :2].T + matrix[:, 2]
    assert np.abs(back - wanted).max() < 1e-9
    picture = torch.zeros(1, 260, 300, 3)
    x, y = given[0]
    picture[0, round(y) - 4 : round(y) + 5, round(x) - 4 : round(x) + 5] = 1
    face = aligned(picture, given)
    assert face.shape == (112, 112, 3)
    rows, columns = np.nonzero(face[..., 0] > 0.5)
    # The first point, at the place of the eye, to half a pixel.
    assert abs(rows.mean() - 51.7) < 0.6 and abs(columns.mean() - 38.3) < 0.6
