"""The commands themselves: what is printed, written and returned, above all when something is bad."""

from __future__ import annotations

import json
import signal
import socket
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from embedded_host import node
from embedded_nodes import ROOT
from PIL import Image

from standalone.__main__ import main

LOAD_SAVE = {
    "1": node("LoadImage", image="a.png"),
    "2": node("SaveImage", images=["1", 0], filename_prefix="sub/out"),
}
EDITOR_LOAD_SAVE = {
    "nodes": [
        {
            "id": 1,
            "type": "LoadImage",
            "title": "Picture",
            "widgets_values": ["a.png", "image"],
            "inputs": [],
            "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [1]}],
        },
        {
            "id": 2,
            "type": "SaveImage",
            "widgets_values": ["out"],
            "inputs": [{"name": "images", "type": "IMAGE", "link": 1}],
            "outputs": [],
        },
    ],
    "links": [[1, 1, 0, 2, 0, "IMAGE"]],
    "version": 0.4,
}


class Workspace:
    """Folders, a picture and a workflow file to run."""

    def __init__(self, base: Path, capsys: Any) -> None:
        self.base, self.capsys = base, capsys
        self.input, self.output = base / "in", base / "out"
        self.input.mkdir()
        Image.new("RGB", (12, 8), (10, 200, 30)).save(self.input / "a.png")

    def write(self, workflow: Any) -> Path:
        path = self.base / "flow.json"
        path.write_text(workflow if isinstance(workflow, str) else json.dumps(workflow))
        return path

    def run(self, workflow: Any, *options: str) -> tuple[int, str, str]:
        """Runs the command in this process: (exit code, printed, complained)."""
        folders = ["--input", str(self.input), "--output", str(self.output)]
        code = main(["run", str(self.write(workflow)), *folders, *options])
        captured = self.capsys.readouterr()
        return code, captured.out, captured.err

    def written(self) -> list[Path]:
        return [path for path in self.output.rglob("*") if path.is_file()]


@pytest.fixture
def workspace(tmp_path: Path, capsys: Any) -> Workspace:
    return Workspace(tmp_path, capsys)


def test_an_api_workflow_runs(workspace: Workspace) -> None:
    code, out, err = workspace.run(LOAD_SAVE)
    expected = workspace.output / "sub/out_00001_.png"
    assert (code, out, err) == (0, f"{expected}\n", "")
    with Image.open(expected) as picture:
        assert picture.size == (12, 8) and picture.getpixel((5, 5)) == (10, 200, 30)
        assert json.loads(picture.info["prompt"]) == LOAD_SAVE
    assert workspace.run(LOAD_SAVE)[1] == f"{workspace.output / 'sub/out_00002_.png'}\n"


def test_an_editor_workflow_runs_and_stays_in_the_picture(workspace: Workspace) -> None:
    code, out, _ = workspace.run(EDITOR_LOAD_SAVE, "--set", "2.filename_prefix=other")
    assert code == 0 and out == f"{workspace.output / 'other_00001_.png'}\n"
    with Image.open(workspace.output / "other_00001_.png") as picture:
        assert json.loads(picture.info["workflow"]) == EDITOR_LOAD_SAVE
        prompt = json.loads(picture.info["prompt"])
    assert prompt["2"]["inputs"] == {"images": ["1", 0], "filename_prefix": "other"}


def test_the_sheet_shows_inputs_and_result(workspace: Workspace) -> None:
    sheet = workspace.base / "deep/sheet.png"
    code, out, _ = workspace.run(EDITOR_LOAD_SAVE, "--sheet", str(sheet))
    assert code == 0 and out.splitlines()[-1] == str(sheet)
    with Image.open(sheet) as drawn:
        green = sum(n for n, c in drawn.convert("RGB").getcolors(1 << 20) if c == (10, 200, 30))
    # Input and result, each 384 x 256 of the picture's colour.
    assert green == 2 * 384 * 256


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that only says how large it is."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def kontext(**inputs: Any) -> dict[str, Any]:
    path = ROOT / "workflows/api/one_reference_edit.json"
    prompt = json.loads(path.read_text(encoding="utf-8"))
    for value in prompt.values():
        value["inputs"] |= {k: v for k, v in inputs.items() if k in value["inputs"]}
    return prompt


BAD: dict[str, tuple[Any, list[str], str]] = {
    "no JSON": ("{", [], "flow.json is not JSON"),
    "no workflow": ({"a": 1}, [], "this JSON is not a workflow"),
    "unknown node": ({"1": node("NoSuchNode")}, [], "Node 'NoSuchNode' not found"),
    "cut link": (
        {"2": node("SaveImage", images=["1", 0], filename_prefix="x")},
        [],
        "node 2 (SaveImage): Bad linked input, the node it comes from is not in the workflow",
    ),
    "cut link in the editor's format": (
        EDITOR_LOAD_SAVE | {"links": []},
        [],
        "link 1 is cut",
    ),
    "missing picture": (LOAD_SAVE, ["--set", "1.image=b.png"], "Invalid image file: b.png"),
    "picture outside": (LOAD_SAVE, ["--set", "1.image=../flow.json"], "leads out of its folder"),
    "unreadable picture": (
        LOAD_SAVE,
        ["--set", "1.image=text.png"],
        "text.png can't be read as a picture",
    ),
    "half a picture": (LOAD_SAVE, ["--set", "1.image=half.png"], "image file is truncated"),
    "picture too large": (
        LOAD_SAVE,
        ["--set", "1.image=huge.png"],
        "is 20000x20000 px; at most 16384",
    ),
    "empty prompt file": (LOAD_SAVE, ["--set", "2.filename_prefix=@{empty}"], "is empty"),
    "saving outside": (LOAD_SAVE, ["--set", "2.filename_prefix=../x"], "leads out of its folder"),
    "unknown model": (
        kontext(model_name="no such model"),
        [],
        "model_name - there is no diffusion_models file 'no such model'; put it into",
    ),
    "no steps": (kontext(steps=0), [], "smaller than min of 1"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_in_one_line_and_leaves_nothing(workspace: Workspace, case: str) -> None:
    workflow, options, words = BAD[case]
    (workspace.input / "text.png").write_text("this is text")
    noise = Image.effect_noise((64, 64), 90)
    noise.save(workspace.input / "half.png")
    content = (workspace.input / "half.png").read_bytes()
    (workspace.input / "half.png").write_bytes(content[: len(content) // 2])
    (workspace.input / "huge.png").write_bytes(png_of_size(20000, 20000))
    (workspace.base / "empty.txt").write_text("\n")
    options = [option.format(empty=workspace.base / "empty.txt") for option in options]
    code, out, err = workspace.run(workflow, "--quiet", *options)
    assert (code, out) == (1, "")
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert words in err
    assert workspace.written() == []


def test_a_file_that_is_not_there(capsys: Any) -> None:
    assert main(["run", "no/such/flow.json"]) == 1
    assert capsys.readouterr().err.startswith("error: the workflow no/such/flow.json can't be read")


def command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    full = [sys.executable, "-m", "standalone", *arguments]
    return subprocess.run(full, cwd=ROOT, capture_output=True, text=True, timeout=300, **options)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_ctrl_c_stops_a_run_and_leaves_nothing(tmp_path: Path) -> None:
    flow = str(ROOT / "workflows/api/text_to_image.json")
    options = ["--set", "KontextSampler.steps=1000", "--output", str(tmp_path / "out")]
    running = subprocess.Popen(
        [sys.executable, "-m", "standalone", "run", flow, *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A suite started in a shell's background inherits an ignored Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert running.stderr is not None
    seen = b""
    # The bar's second drawing: the first step is done.
    while seen.count(b"\r") < 2:
        piece = running.stderr.read(1)
        assert piece, f"the run ended before its first step: {seen!r}"
        seen += piece
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=300)
    assert (running.returncode, out) == (130, b"")
    assert err.endswith(b"stopped\n") and b"Traceback" not in err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = command("serve", "--port", port, "--base-directory", str(tmp_path))
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(f"error: port {port} on 127.0.0.1 is in use")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("options", [["--listen", "203.0.113.1"], ["--port", "70000"]])
def test_an_impossible_address_is_told(options: list[str], capsys: Any, tmp_path: Path) -> None:
    assert main(["serve", *options, "--base-directory", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: the server can't listen on ")


def test_a_folder_without_editor_is_told(tmp_path: Path) -> None:
    done = command("serve", "--port", "0", "--front-end-root", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: there is no graph editor in {tmp_path}")


def test_the_pack_loads_from_a_folder_of_any_name(tmp_path: Path) -> None:
    """As in custom_nodes: hyphens and dots in the name, and nothing of the checkout on the path."""
    folder = tmp_path / "My-Pack.v1"
    folder.symlink_to(ROOT, target_is_directory=True)
    code = (
        "from pathlib import Path; from standalone.loader import load_pack; "
        f"pack = load_pack(Path({str(folder)!r})); "
        "print(pack.name, 'KontextEdit' in pack.nodes, pack.module.__name__.endswith('My-Pack_x_v1'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.stdout == "My-Pack.v1 True True\n", done.stderr
