"""`python -m kontext_core edit`, headless: what it writes, and what it leaves when it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from small_models import draw

from kontext_core import Pipeline, __version__, edit, load_image, save_image
from kontext_core.__main__ import main
from kontext_core.commands.edit import read_prompt
from kontext_core.commands.settings import recall

PROMPT = "put the red star on image two"


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    return save_image(draw(1, 1, 64, 64, 3).mul(0.2).add(0.5), tmp_path / "in" / "reference.png")


def command(model_folder: Path, reference: Path, path: Path, **changes: str) -> list[str]:
    """Arguments of a good run; a value of "-" drops the option."""
    options = {
        "model": str(model_folder),
        "image": str(reference),
        "prompt": PROMPT,
        "steps": "2",
        "seed": "7",
        "out": str(path),
        **changes,
    }
    words = ["edit"]
    for name, value in options.items():
        if value != "-":
            words += [f"--{name.replace('_', '-')}", value]
    return words


def test_writes_what_edit_gives(
    model_folder: Path, reference: Path, tmp_path: Path, capsys, small_pipeline: Pipeline
) -> None:
    out = tmp_path / "out.png"
    assert main(command(model_folder, reference, out)) == 0
    assert capsys.readouterr().out.strip() == str(out)
    expected = edit(small_pipeline, PROMPT, [load_image(reference)], seed=7, steps=2)
    again = save_image(expected, tmp_path / "expected.png")
    # Measured: 0; one step of 8 bits where products round by alignment of the weights read.
    assert (load_image(out) - load_image(again)).abs().max() < 1.5 / 255
    with Image.open(out) as written:
        text = dict(written.text)
    settings = json.loads(text.pop("kontext_edit"))
    assert text == {"prompt": PROMPT, "seed": "7"}
    assert settings == {
        "version": __version__, "model": str(model_folder), "vae": None, "t5": None,
        "clip_l": None, "t5_length": 256, "lora": [], "dtype": "auto", "eight_bit": "off", "image": [str(reference)],
        "prompt": PROMPT, "negative": None, "cfg": 1.0, "nag": 1.0, "seed": 7, "steps": 2, "guidance": 2.5,
        "width": None, "height": None, "method": "offset", "denoise": 1.0, "solver": "euler",
        "schedule": "kontext", "batch": 1, "accelerate": "off", "fit": "trained size",
        "other_shape": "pad", "megapixels": 1.0, "aspect": None, "margins": [0, 0, 0, 0],
        "fill": "edge", "best_of": 1, "best_by": "outside the mask", "look": 6, "sigmas": None, "mask": None, "mask_channel": "luminance", "box": None, "mask_mode": "soft",
        "feather": 0, "match_colours": "off",
    }  # fmt: skip


def test_what_was_saved_is_said(
    model_folder: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.png"
    for name, said in (("off", False), ("fast", True)):
        changes = {"accelerate": name, "steps": "6"}
        assert main(command(model_folder, reference, out, **changes)) == 0
        told = capsys.readouterr().err
        assert ("6 model calls: " in told) == ("% of the work" in told) == said


def test_prompt_file_and_two_images(model_folder: Path, reference: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text(f"{PROMPT}\n", encoding="utf-8")
    first, second = tmp_path / "1.png", tmp_path / "2.png"
    more = ["--image", str(reference)]
    by_file = command(model_folder, reference, first, prompt="-", prompt_file=str(words))
    assert main(by_file + more) == 0
    assert main(command(model_folder, reference, second) + more) == 0
    assert (load_image(first) - load_image(second)).abs().max() < 1.5 / 255
    one = tmp_path / "one.png"
    assert main(command(model_folder, reference, one)) == 0
    # Measured: 0.3; one reference instead of two.
    assert (load_image(first) - load_image(one)).abs().max() > 3 / 255


def test_pictures_by_name(
    model_folder: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The picture keeps what was said, so that --like says it again."""
    first, second = tmp_path / "1.png", tmp_path / "2.png"
    words = {"prompt": "make the Sky of the star blue", "image": f"the star={reference}"}
    given = command(model_folder, reference, first, **words)
    assert main([*given, "--image", f"sky={reference}"]) == 0
    said = capsys.readouterr().err
    assert "'the star' is image 1" in said
    assert "'the Sky' is image 2" in said
    assert main(["edit", "--like", str(first), "--out", str(second)]) == 0
    assert load_image(second).equal(load_image(first))


def test_a_path_with_an_equals_sign_is_a_path(
    model_folder: Path, reference: Path, tmp_path: Path
) -> None:
    odd = tmp_path / "a=b.png"
    odd.write_bytes(reference.read_bytes())
    first, second = tmp_path / "1.png", tmp_path / "2.png"
    assert main(command(model_folder, odd, first)) == 0
    assert main(command(model_folder, reference, second)) == 0
    assert load_image(second).equal(load_image(first))


def test_like_repeats_everything(
    model_folder: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """From PNG to the bit, from JPEG too: what it carries is text."""
    from lora_files import lora_files
    from small_models import make_flux

    file = lora_files(make_flux())["kohya"].write(tmp_path / "a.safetensors")
    changes = {
        "steps": "3", "guidance": "3.5", "lora": f"{file}:0.7", "schedule": "simple",
        "solver": "heun", "width": "48", "height": "80", "negative": "blue", "cfg": "1.5",
    }  # fmt: skip
    for ending in (".png", ".jpg"):
        first = tmp_path / f"first{ending}"
        assert main(command(model_folder, reference, first, **changes)) == 0
        second = tmp_path / "second.png"
        assert main(["edit", "--like", str(first), "--out", str(second)]) == 0
        if ending == ".png":
            assert load_image(second).equal(load_image(first))
            other = tmp_path / "other.png"
            more = ["--seed", "8", "--lora", f"{file}:0.1"]
            assert main(["edit", "--like", str(first), "--out", str(other), *more]) == 0
            kept = {**recall(str(first)), "seed": 8, "lora": [[str(file), 0.1]]}
            assert recall(str(other)) == kept
            assert not load_image(other).equal(load_image(first))
        assert recall(str(second)) == recall(str(first))
    capsys.readouterr()


def test_a_list_of_sigmas(model_folder: Path, reference: Path, tmp_path: Path) -> None:
    first, second, third = (tmp_path / f"{n}.png" for n in "123")
    assert main(command(model_folder, reference, first, sigmas="[1, 0.6, 0.3,]")) == 0
    assert recall(str(first))["sigmas"] == [1.0, 0.6, 0.3]
    assert main(["edit", "--like", str(first), "--out", str(second)]) == 0
    assert load_image(second).equal(load_image(first))
    # Whoever asks for steps does not get the list of the other picture.
    assert main(["edit", "--like", str(first), "--steps", "2", "--out", str(third)]) == 0
    assert "sigmas" not in recall(str(third))
    assert not load_image(third).equal(load_image(first))


@pytest.mark.parametrize(("size", "mode"), [((111, 79), "RGBA"), ((400, 20), "L")])
def test_a_picture_comes_back_in_its_own_size(
    size: tuple[int, int], mode: str, model_folder: Path, tmp_path: Path
) -> None:
    """Of any shape and mode; and so does the picture that repeats it."""
    Image.new(mode, size, 90).save(tmp_path / "in.png")
    first, second = tmp_path / "1.png", tmp_path / "2.png"
    assert main(command(model_folder, tmp_path / "in.png", first, steps="1")) == 0
    assert main(["edit", "--like", str(first), "--out", str(second)]) == 0
    for path in (first, second):
        with Image.open(path) as opened:
            assert opened.size == size
    assert load_image(first).equal(load_image(second))


@pytest.mark.parametrize(
    ("options", "size"),
    [
        (["--fit", "exact"], (111, 79)),
        (["--fit", "exact", "--other-shape", "crop"], (111, 79)),
        (["--fit", "megapixels", "--megapixels", "0.01"], (111, 79)),
        (["--margins", "32,0,5,0", "--fill", "mirror"], (148, 79)),
        (["--aspect", "1:1", "--other-shape", "crop"], (79, 79)),
        (["--fit", "custom", "--width", "128", "--height", "64"], (128, 64)),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else None,
)
def test_every_policy_of_the_size(
    options: list[str], size: tuple[int, int], model_folder: Path, tmp_path: Path
) -> None:
    """And the picture that repeats it."""
    Image.new("RGBA", (111, 79), "#80604020").save(tmp_path / "in.png")
    first, second = tmp_path / "1.png", tmp_path / "2.png"
    asked = command(model_folder, tmp_path / "in.png", first, steps="1")
    assert main([*asked, *options]) == 0
    assert main(["edit", "--like", str(first), "--out", str(second)]) == 0
    for path in (first, second):
        with Image.open(path) as opened:
            assert opened.size == size
    assert load_image(first).equal(load_image(second))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--margins", "1,2,3"], "LEFT,TOP,RIGHT,BOTTOM"),
        (["--fit", "stretch"], "expected one of trained size, exact"),
        (["--fit", "exact", "--width", "64", "--height", "64"], "chooses the size"),
        (["--fit", "custom"], "no width and height"),
        (["--aspect", "wide"], "16:9"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else None,
)
def test_a_policy_that_can_not_be_is_refused(
    options: list[str],
    said: str,
    model_folder: Path,
    reference: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    out = tmp_path / "out.png"
    try:
        code = main([*command(model_folder, reference, out), *options])
    except SystemExit as stopped:
        code = stopped.code
    assert code
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_a_batch_is_numbered(
    model_folder: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "new" / "out.png"
    assert main(command(model_folder, reference, out, batch="2", schedule="simple")) == 0
    paths = [out.with_name("out-1.png"), out.with_name("out-2.png")]
    assert capsys.readouterr().out.split() == [str(path) for path in paths]
    assert sorted(out.parent.iterdir()) == paths
    # Measured: 0.4 at the most.
    assert (load_image(paths[0]) - load_image(paths[1])).abs().max() > 0.1


def test_a_byte_order_mark_is_no_word(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_bytes(b"\xef\xbb\xbf" + PROMPT.encode())
    assert read_prompt(str(tmp_path / "words.txt")) == PROMPT


def test_as_a_program(model_folder: Path, reference: Path, tmp_path: Path) -> None:
    """In a folder of its own, with progress on stderr and nothing but the path on stdout."""
    run = subprocess.run(
        [sys.executable, "-m", "kontext_core"] + command(model_folder, reference, Path("out.png")),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "out.png\n"
    assert "steps: 100%" in run.stderr
    assert load_image(tmp_path / "out.png").shape == (1, 64, 64, 3)


BAD = [
    ({"image": "missing.png"}, "there is no picture at missing.png"),
    ({"image": "text.png"}, "text.png can't be read as a picture"),
    ({"image": "dot.png"}, "dot.png is 1x1 px"),
    ({"prompt": ""}, "the instruction is empty"),
    ({"prompt": "-", "prompt_file": "empty.txt"}, "empty.txt is empty"),
    ({"prompt": "-", "prompt_file": "missing.txt"}, "can't read the instruction from missing.txt"),
    ({"prompt": "-", "prompt_file": "binary.txt"}, "can't read the instruction from binary.txt"),
    ({"model": "nothing-here"}, "there is no model 'nothing-here'"),
    ({"model": "text.png"}, "the download went wrong"),
    ({"steps": "0"}, "steps is 0; expected a whole number from 1 to 1000"),
    ({"steps": "-5"}, "steps is -5"),
    ({"seed": "-1"}, "seed is -1"),
    ({"width": "64"}, "give both, or neither"),
    ({"method": "grid"}, "unknown placement method"),
    ({"cfg": "nan"}, "cfg is nan"),
    ({"device": "nonsense"}, "device 'nonsense' can't be used here"),
    ({"out": "out.xyz"}, "use .png, .jpg or .webp"),
    ({"quality": "80"}, "quality is 80, but PNG has none"),
    ({"out": "out.jpg", "quality": "0"}, "quality is 0; expected a whole number from 1 to 100"),
    ({"schedule": "karras"}, "unknown schedule 'karras'"),
    ({"batch": "0"}, "batch is 0; expected a whole number from 1 to 64"),
    ({"like": "dot.png"}, "dot.png carries no settings of the edit command"),
    ({"like": "missing.png"}, "there is no picture at missing.png"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=lambda value: str(value)[:40])
def test_bad_input_is_one_plain_line_and_no_file(
    changes: dict, message: str, model_folder: Path, reference: Path, tmp_path: Path,
    monkeypatch, capsys,
) -> None:  # fmt: skip
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    (work / "text.png").write_text("no picture")
    (work / "empty.txt").write_text(" \n")
    (work / "binary.txt").write_bytes(b"\xff\xfe\xfa")
    Image.new("RGB", (1, 1)).save(work / "dot.png")
    before = sorted(work.iterdir())
    assert main(command(model_folder, reference, Path("out.png"), **changes)) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert message in output.err.splitlines()[-1]
    assert output.err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in output.err
    assert sorted(work.iterdir()) == before


def test_options_are_checked_before_anything_loads(capsys) -> None:
    for words in (["edit", "--prompt", "x"], ["edit", "--out", "a.png"], ["nothing"], []):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_inspect_and_quantize_take_an_embedded_models_name(tmp_path: Path, capsys) -> None:
    assert main(["inspect", "tiny"]) == 0
    assert "a FLUX.1 model" in capsys.readouterr().out
    written = tmp_path / "small.gguf"
    assert main(["quantize", "tiny", str(written), "--type", "Q8_0"]) == 0
    said = capsys.readouterr()
    assert f"{written}: Q8_0, 2.37 million parameters, 4.75 -> 2.76 MB, " in said.out
    assert "100%" in said.err
    assert main(["inspect", str(written)]) == 0
    assert main(["quantize", "nothing", str(written), "--type", "Q8_0"]) == 1
    # No half a progress bar before the sentence.
    assert capsys.readouterr().err.startswith("error: there is no file 'nothing'")


def test_a_reader_that_has_read_enough_is_not_an_error() -> None:
    """As `inspect FILE | head -1` has."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        run = subprocess.run(
            [sys.executable, "-m", "kontext_core", "inspect", "tiny"],
            stdout=pipe, stderr=subprocess.PIPE, text=True, timeout=300,
        )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
