"""Takes the pictures of the help pages: small graphs in the real editor, cropped.

    python tools/help_pictures.py [NODE ...]

Needs Chromium and the packages of tests/requirements.txt. The graphs stand in
graphs/pages.py; a page's own node has a blue frame.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "web/docs/images"
# Where the graph stands on the canvas, clear of the editor's own panels; and how much around it.
LEFT, TOP, MARGIN, SCALE = 160, 160, 16, 0.8
# A drawing without photographs: this many colours look the same and take a third of the bytes.
COLOURS = 96
FILES_SHOWN = (
    "loras/style.safetensors",
    "loras/character.safetensors",
    "diffusion_models/flux1-kontext-dev.safetensors",
    "diffusion_models/flux1-kontext-dev-Q4_K_M.gguf",
)
_LOAD = """async ([graph, left, top, scale]) => {
    await app.loadGraphData(graph);
    app.canvas.ds.scale = scale;
    app.canvas.ds.offset[0] = left / scale;
    app.canvas.ds.offset[1] = top / scale;
    app.canvas.setDirty(true, true);
}"""
_LAYOUT = """(layout) => {
    const node = app.graph._nodes.find((one) => one.type === 'KontextStitch');
    node?.onExecuted({ kontext_layout: layout });
}"""
_TURNS = """(turns) => {
    for (const node of app.graph._nodes.filter((one) => one.type.startsWith('KontextSession'))) {
        const own = node.type === 'KontextSessionPick' ? turns
            : turns.slice(0, node.title === 'Turn 2' ? 3 : node.title === 'Turn 1' ? 2 : 1);
        const last = own.map((turn, at) => ({ ...turn, chosen: at === own.length - 1 }));
        const shown = node.type === 'KontextSessionPick' ? turns : last;
        if (node.title !== 'Another way') node.onExecuted({ kontext_session: shown });
    }
}"""
_TRAINING = """(training) => {
    const node = app.graph._nodes.find((one) => one.type === 'KontextTrainLora');
    node?.onExecuted({ kontext_training: [training], kontext_notes: [] });
}"""
_BOX = """() => app.graph._nodes.map((node) => [
    node.pos[0], node.pos[1] - 30, node.pos[0] + node.size[0], node.pos[1] + node.size[1]
])"""
LAYOUT = [
    {"index": i, "t": t, "h": 0, "w": w, "rows": 64, "columns": 64, "tokens": 4096,
     "strength": 1, "start": 0, "end": 1}
    for i, t, w in ((0, 0, 0), (1, 1, 0), (2, 1, 64))
]  # fmt: skip


def turns() -> list[dict[str, Any]]:
    """A timeline: the sample picture, and what its instructions ask for."""
    first = np.asarray(Image.open(ROOT / "workflows/input/kontext_shapes.png").convert("RGB"))
    red, green, blue = (first[..., at].astype(int) for at in range(3))
    ground, circle = (green > red) & (green > blue), (red > 180) & (green > 120) & (blue < 110)
    blues = (ground, (110, 140, 220))
    asked = (
        (None, "", ()),
        (0, "make the background blue", (blues,)),
        (1, "make the circle purple", (blues, (circle, (150, 60, 190)))),
        (1, "make the circle red", (blues, (circle, (220, 40, 40)))),
    )
    made = []
    for number, (parent, prompt, areas) in enumerate(asked):
        pixels = first.copy()
        for area, colour in areas:
            pixels[area] = colour
        picture = Image.fromarray(pixels)
        picture.thumbnail((112, 112))
        data = io.BytesIO()
        picture.save(data, "JPEG", quality=80)
        url = "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
        made.append({
            "number": number, "parent": parent, "prompt": prompt, "seed": "1", "note": "",
            "chosen": number == 1, "picture": url,
        })  # fmt: skip
    return made


def training() -> dict[str, Any]:
    """A training that is done: its curve and the examples it learned from, as its samples."""
    noise = np.random.default_rng(0).normal(0, 0.012, 200)
    curve = [[5 * n, 0.02 + 0.12 * float(np.exp(-n / 40)) + float(noise[n])] for n in range(1, 200)]
    urls = []
    for number in (1, 3):
        path = ROOT / f"workflows/input/kontext_crescent/{number:03d}_target.png"
        urls.append("data:image/png;base64," + base64.b64encode(path.read_bytes()).decode())
    row = {"step": 1000, "pictures": urls}
    return {"state": "done", "step": 1000, "steps": 1000, "curve": curve, "rows": [row]}


def graph_of(node_id: str, known: dict[str, Any]) -> dict[str, Any]:
    """The page's graph in the editor's format, without note and groups, its own node marked."""
    from graphs import PAGES
    from templates import Drawing

    editor, _ = Drawing(node_id, PAGES[node_id], known).draw()
    nodes = [node for node in editor["nodes"] if node["type"] != "MarkdownNote"]
    own = next(node for node in nodes if node["type"] == node_id)
    own |= {"color": "#1c5a8c", "bgcolor": "#23415a"}
    return editor | {"nodes": nodes, "groups": [], "extra": {}}


def main(names: list[str]) -> int:
    sys.path += [str(ROOT / "tests/support")]
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        # The editor frames nodes whose file is not there.
        for path in FILES_SHOWN:
            (Path(folder) / "models" / path).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / "models" / path).touch()
        take_all(names, Path(folder))
    return 0


def take_all(names: list[str], folder: Path) -> None:
    from editor import FLAGS, Editor
    from graphs import PAGES
    from hosts import all_hosts, frontends, running
    from playwright.sync_api import sync_playwright
    from templates import schemas

    known = schemas()
    newest = next(iter(frontends().values()))
    with running(all_hosts()[0], folder, newest) as host, sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), headless=True, args=FLAGS
        )
        editor = Editor.open(browser, host.url, folder)
        editor.close_dialog()
        for name in names or PAGES:
            picture = take(editor, json.loads(json.dumps(graph_of(name, known))))
            picture.save(IMAGES / f"{name}.png", optimize=True)
        browser.close()


def take(editor: Any, graph: dict[str, Any]) -> Image.Image:
    """The graph as the editor draws it, cropped."""
    page = editor.page
    page.evaluate(_LOAD, [graph, LEFT, TOP, SCALE])
    page.wait_for_load_state("networkidle")
    page.evaluate("() => document.querySelector('.kontext-missing')?.remove()")
    page.evaluate(_LAYOUT, LAYOUT)
    page.evaluate(_TURNS, turns())
    page.evaluate(_TRAINING, training())
    page.wait_for_timeout(1500)
    boxes = page.evaluate(_BOX)
    right, bottom = max(box[2] for box in boxes), max(box[3] for box in boxes)
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    clip = {
        "x": LEFT + left * SCALE - MARGIN,
        "y": TOP + top * SCALE - MARGIN,
        "width": (right - left) * SCALE + 2 * MARGIN,
        "height": (bottom - top) * SCALE + 2 * MARGIN,
    }
    shot = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
    return shot.quantize(COLOURS, dither=Image.Dither.NONE)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
