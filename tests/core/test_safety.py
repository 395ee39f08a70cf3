"""Checks before and after an edit, provenance in files, the invisible watermark; all off unless asked for."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image

from kontext_core import InputError, Pipeline, edit, save_image
from kontext_core.__main__ import main
from kontext_core.errors import RefusedError
from kontext_core.safety.checks import Checks
from kontext_core.safety.onnx import OnnxCheck
from kontext_core.safety.provenance import Provenance
from kontext_core.safety.watermark import share_of_mark, watermarked
from kontext_core.writing import read_metadata

PICTURE = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))


def test_checks_see_words_pictures_and_results(small_pipeline: Pipeline) -> None:
    seen: list[tuple[str, tuple[int, ...] | None, str]] = []

    def look(when: str):
        def check(picture: torch.Tensor | None, prompt: str) -> None:
            seen.append((when, None if picture is None else tuple(picture.shape), prompt))

        return check

    checks = Checks(before=[look("before")], after=[look("after")])
    plain = edit(small_pipeline, ["a", "b"], [PICTURE], steps=1)
    assert torch.equal(edit(small_pipeline, ["a", "b"], [PICTURE], steps=1, checks=checks), plain)
    shape = (1, 64, 64, 3)
    assert seen == [
        ("before", None, "a"), ("before", shape, "a"), ("before", None, "b"), ("before", shape, "b"),
        ("after", shape, "a"), ("after", shape, "b"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "when, refused, told",
    [("before", "words", "the instruction was refused by a check: no such words"),
     ("before", "picture", "image 1 was refused"), ("after", "picture", "result 1 was refused")],
)  # fmt: skip
def test_what_is_refused_is_told_and_nothing_comes_out(
    small_pipeline: Pipeline, caplog: pytest.LogCaptureFixture, when: str, refused: str, told: str
) -> None:
    def check(picture: torch.Tensor | None, prompt: str) -> str | None:
        return "no such words" if (picture is None) == (refused == "words") else None

    steps: list[int] = []
    with pytest.raises(RefusedError, match=told):
        edit(
            small_pipeline, "x", [PICTURE], steps=1, batch=2, checks=Checks(**{when: [check]}),
            callback=lambda step, *_: steps.append(step),
        )  # fmt: skip
    assert "refused" in caplog.text
    # Before means before anything was computed.
    assert bool(steps) == (when == "after")


def test_a_classifier_from_an_onnx_file(small_pipeline: Pipeline, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    # Two classes, the means of red and of green; ten times, so that they are sure.
    make, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    weights = onnx.numpy_helper.from_array(
        torch.tensor([[10.0, 0.0], [0.0, 10.0], [0.0, 0.0]]).numpy(), "w"
    )
    nodes = [
        make("GlobalAveragePool", ["pixels"], ["mean"]), make("Flatten", ["mean"], ["flat"]),
        make("MatMul", ["flat", "w"], ["logits"]),
    ]  # fmt: skip
    graph = onnx.helper.make_graph(
        nodes, "c", [value("pixels", 1, [1, 3, 224, 224])], [value("logits", 1, [1, 2])], [weights]
    )
    opset = [onnx.helper.make_opsetid("", 13)]
    path = tmp_path / "c.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    check = OnnxCheck(path, labels=("green", "red")[::-1], refuse={"red": 0.85})
    red, green = torch.zeros(1, 80, 60, 3), torch.zeros(1, 80, 60, 3)
    red[..., 0], green[..., 1] = 1, 1
    # Means of 1 and -1 after scaling: logits 10 and -10.
    assert check.probabilities(red)["red"] > 0.999 and check(green, "x") is None
    assert check(red, "x") == "red 1.00, the limit is 0.85" and check(None, "x") is None
    with pytest.raises(RefusedError, match="image 1 was refused by a check: red"):
        edit(small_pipeline, "x", [red], steps=1, checks=Checks(before=[check]))
    with pytest.raises(InputError, match="2 classes, 3 labels"):
        OnnxCheck(path, labels=("a", "b", "c"), refuse={"a": 0.5})(red, "x")
    with pytest.raises(InputError, match="no class 'nude'"):
        OnnxCheck(path, refuse={"nude": 0.5})
    with pytest.raises(InputError, match="there is no file"):
        OnnxCheck(tmp_path / "none.onnx", refuse={"nsfw": 0.5})


def xmp_of(path: Path) -> str:
    with Image.open(path) as picture:
        picture.load()
        found = picture.info.get("XML:com.adobe.xmp") or picture.info.get("xmp")
    return found if isinstance(found, str) else found.decode()


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_provenance_is_in_the_file_beside_the_settings(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    source = Provenance(
        "kontext-studio 0.1", "dev <3>", edited=True, prompt="make “it” red & <blue>"
    )
    save_image(PICTURE, path, {"settings": "{}"}, provenance=source)
    with Image.open(path) as picture:
        exif = picture.getexif()
    assert exif[0x0131] == "AI generated;img2img;kontext-studio 0.1" and exif[0x0110] == "dev <3>"
    text = xmp_of(path)
    root = ElementTree.fromstring(text[text.index("<x:xmpmeta") : text.index("<?xpacket end")])
    (words,) = root.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}li")
    assert words.text == "make “it” red & <blue>"
    assert "digitalsourcetype/compositeWithTrainedAlgorithmicMedia" in text
    # What `--like` reads is untouched.
    assert read_metadata(path) == {"settings": "{}"}
    save_image(PICTURE, path)
    with Image.open(path) as picture:
        assert 0x0131 not in picture.getexif() and "xmp" not in str(picture.info.keys())


def test_pictures_from_words_are_named_as_such_and_other_files_refused(tmp_path: Path) -> None:
    source = Provenance("k", edited=False)
    assert "/trainedAlgorithmicMedia" in source.xmp()
    with pytest.raises(InputError, match="BMP holds no provenance"):
        save_image(PICTURE, tmp_path / "a.bmp", provenance=source)
    assert not (tmp_path / "a.bmp").exists()


def test_the_command_marks_files_when_asked(model_folder: Path, tmp_path: Path) -> None:
    words = ["edit", "--model", str(model_folder), "--prompt", "x", "--steps", "1"]
    assert main([*words, "--out", str(tmp_path / "plain.png")]) == 0
    assert main([*words, "--out", str(tmp_path / "marked.png"), "--provenance"]) == 0
    assert "trainedAlgorithmicMedia" in xmp_of(tmp_path / "marked.png")
    with Image.open(tmp_path / "plain.png") as plain, Image.open(tmp_path / "marked.png") as marked:
        assert plain.tobytes() == marked.tobytes()
        assert "XML:com.adobe.xmp" not in plain.info


def test_the_watermark_of_the_reference_repository() -> None:
    pytest.importorskip("imwatermark")
    drawn = torch.rand(1, 40, 40, 3, generator=torch.Generator().manual_seed(2))
    smooth = torch.nn.functional.interpolate(drawn.movedim(-1, 1), (320, 320), mode="bicubic")
    picture = smooth.movedim(1, -1).clamp(0, 1)
    marked = watermarked(picture)
    # All 48 bits come back; without the mark 0.54 of them measured, by chance.
    assert share_of_mark(marked) > 0.95 and share_of_mark(picture) < 0.8
    # 29.4 dB measured, of a colourful picture.
    assert float(-10 * torch.log10((marked - picture).square().mean())) > 27
    with pytest.raises(InputError, match="too small for the watermark"):
        watermarked(PICTURE)


def test_the_watermark_says_what_to_install() -> None:
    try:
        import imwatermark  # noqa: F401
    except ImportError:
        with pytest.raises(InputError, match="pip install invisible-watermark"):
            watermarked(torch.zeros(1, 256, 256, 3))
