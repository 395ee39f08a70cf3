"""Drives ComfyUI's graph editor in a browser, the same way on old and new frontends."""

from __future__ import annotations

import base64
import json
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Error, Locator, Page

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Names that lead here, for what other sites may do.
    "--host-resolver-rules=MAP *.test 127.0.0.1",
]
# 1.27.10 knows the setting but draws on the canvas all the same; 1.49.6 and later were seen to
# have it in a usable form.
FIRST_WITH_NODES_2 = (1, 49)
# Milliseconds one step may take: 2 cores that also train a model need minutes.
PATIENCE = 120_000
# A newcomer's first visit: every frontend then shows an empty canvas and the template browser,
# while a later visit with an empty browser profile starts with a graph of somebody else's nodes.
SETTINGS = {"Comfy.TutorialCompleted": False, "Comfy.InstalledVersion": "1.99.0"}

# Not app.graph: asked too early, 1.49.6 logs an error.
BOOTED = "() => window.app?.canvas?.graph && window.app.extensionManager?.command"
_GRAPH = """() => app.graph._nodes.map(node => ({
    id: String(node.id),
    type: node.type,
    title: node.title,
    linked: (node.inputs ?? []).filter(input => input.link != null).map(input => input.name),
    widgets: Object.fromEntries((node.widgets ?? []).map(w => [w.name, w.value])),
}))"""
_SET = """([id, name, value]) => {
    const node = app.graph._nodes.find(node => String(node.id) === id);
    node.widgets.find(widget => widget.name === name).value = value;
}"""
# One node of each type in a grid, far enough apart for the highest of them.
_SHOW = """(types) => types.map((type, index) => {
    const node = LiteGraph.createNode(type);
    node.pos = [(index % 5) * 520, Math.floor(index / 5) * 900];
    app.graph.add(node);
    return String(node.id);
})"""
# What the canvas drew of a node: its size, and each widget with the height it was given.
_DRAWN = """() => app.graph._nodes.map(node => ({
    id: String(node.id),
    type: node.type,
    title: node.title,
    size: [...node.size],
    inputs: (node.inputs ?? []).map(input => input.name),
    outputs: (node.outputs ?? []).map(output => output.type),
    widgets: (node.widgets ?? []).map(w => [w.name, w.type, w.last_y ?? null]),
}))"""
# Where in the window the right arrow of a number widget is, which adds one step.
_ARROW = """([id, name]) => {
    const node = app.graph._nodes.find(node => String(node.id) === id);
    const widget = node.widgets.find(widget => widget.name === name);
    const box = app.canvas.canvas.getBoundingClientRect();
    const {scale, offset} = app.canvas.ds;
    const x = node.pos[0] + node.size[0] - 26, y = node.pos[1] + widget.last_y + 10;
    return [box.left + (x + offset[0]) * scale, box.top + (y + offset[1]) * scale];
}"""
_CENTRE = """(id) => {
    const node = app.graph._nodes.find(node => String(node.id) === id);
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [300 - node.pos[0], 200 - node.pos[1]];
    app.canvas.setDirty(true, true);
}"""
_NEAR = """(type) => {
    app.canvas.ds.scale = 0.7;
    app.canvas.centerOnNode(app.graph._nodes.find((node) => node.type === type));
    app.canvas.setDirty(true, true);
}"""
_PICTURE = """(id) => {
    const node = app.graph._nodes.find(node => String(node.id) === id);
    const image = node?.imgs?.[0] ?? document.querySelector(`[data-node-id="${id}"] img`);
    if (!image?.complete || !image.naturalWidth) return null;
    return {width: image.naturalWidth, height: image.naturalHeight, src: image.src};
}"""
_DROP = """([name, encoded]) => {
    const bytes = Uint8Array.from(atob(encoded), c => c.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, {type: 'image/png'}));
    const canvas = app.canvas.canvas ?? document.querySelector('canvas');
    const box = canvas.getBoundingClientRect();
    // An empty place: a picture dropped on a Load Image node goes into that node.
    const at = {clientX: box.right - 40, clientY: box.top + box.height / 2};
    const options = {dataTransfer: transfer, bubbles: true, cancelable: true, ...at};
    for (const kind of ['dragenter', 'dragover', 'drop']) {
        canvas.dispatchEvent(new DragEvent(kind, options));
    }
}"""


@dataclass
class Editor:
    """The open page. `errors` collects what the browser logged as an error, with its origin."""

    page: Page
    url: str
    folder: Path
    errors: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, browser: Browser, url: str, folder: Path, *, vue_nodes: bool = False) -> Editor:
        """Opens a page of its own and waits until the editor has booted."""
        for name, value in (SETTINGS | {"Comfy.VueNodes.Enabled": vue_nodes}).items():
            body = json.dumps(value).encode()
            kind = {"Content-Type": "application/json"}
            request = urllib.request.Request(f"{url}/settings/{name}", body, kind, method="POST")
            urllib.request.urlopen(request, timeout=PATIENCE / 1000).close()
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.set_default_timeout(PATIENCE)
        editor = cls(page, url, folder)
        page.on("console", editor._on_console)
        page.on("pageerror", editor._on_page_error)
        page.goto(url)
        page.wait_for_function(BOOTED)
        editor.dialog().wait_for()
        page.wait_for_load_state("networkidle")
        return editor

    def version(self) -> tuple[int, ...]:
        """The frontend's version as numbers."""
        text: str = self.page.evaluate("() => window.__COMFYUI_FRONTEND_VERSION__")
        return tuple(int(part) for part in text.split(".")[:3])

    def close(self) -> None:
        self.page.close()

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(f"{message.text} @ {message.location.get('url', '')}")

    def _on_page_error(self, error: Error) -> None:
        self.errors.append(f"{error.message} @ {error.stack or ''}")

    def screenshot(self, name: str) -> Path:
        """Saves what the window shows; the file's path."""
        path = self.folder / f"{name}.png"
        self.page.screenshot(path=path)
        return path

    def graph(self) -> list[dict[str, Any]]:
        """The nodes on the canvas: id, type, title, linked input names, widget values."""
        return self.page.evaluate(_GRAPH)

    def node(self, node_type: str) -> dict[str, Any]:
        """The first node of a type. Raises LookupError when there is none."""
        for node in self.graph():
            if node["type"] == node_type:
                return node
        raise LookupError(f"no {node_type} on the canvas: {[n['type'] for n in self.graph()]}")

    def set_widget(self, node_type: str, name: str, value: object) -> None:
        """Gives a widget a value as it is, without the limits that a person's mouse meets."""
        self.page.evaluate(_SET, [self.node(node_type)["id"], name, value])

    def clear(self) -> None:
        self.page.evaluate("() => app.graph.clear()")

    def dialog(self) -> Locator:
        return self.page.get_by_role("dialog").first

    def close_dialog(self) -> None:
        """Leaves the template browser that a first visit opens."""
        self.page.keyboard.press("Escape")
        self.dialog().wait_for(state="hidden")

    def load_template(self, pack: str, name: str) -> None:
        """Picks the pack's section and the template's card in the open template browser."""
        section = self.dialog().get_by_text(pack, exact=False).first
        section.scroll_into_view_if_needed()
        section.click()
        card = self.page.locator(f'[data-testid="template-workflow-{name}"]')
        card.first.wait_for()
        self.page.wait_for_load_state("networkidle")
        self.screenshot("templates")
        card.first.click()
        self.page.wait_for_function("() => app.graph._nodes.length > 1")
        self.dialog().wait_for(state="hidden")
        self.page.wait_for_load_state("networkidle")

    def load(self, workflow: dict[str, Any]) -> None:
        """Opens a workflow in the editor's format."""
        self.page.evaluate("async (graph) => { await app.loadGraphData(graph) }", workflow)

    def prompt(self) -> dict[str, Any]:
        """The graph as the Run button would send it."""
        return self.page.evaluate("async () => (await app.graphToPrompt()).output")

    def show(self, types: list[str]) -> list[str]:
        """Puts one node of each type on an empty canvas; their ids."""
        self.clear()
        return self.page.evaluate(_SHOW, types)

    def drawn(self) -> list[dict[str, Any]]:
        """The nodes with their size, sockets and widgets [name, kind, where it was drawn]."""
        return self.page.evaluate(_DRAWN)

    def add_one_step(self, node_id: str, name: str) -> None:
        """Clicks the right arrow of a number widget on the canvas."""
        self.page.evaluate(_CENTRE, node_id)
        self.page.wait_for_timeout(500)
        x, y = self.page.evaluate(_ARROW, [node_id, name])
        self.page.mouse.click(x, y)

    def fit(self) -> None:
        """Zooms so that every node is in the window: canvas nodes off screen load no picture."""
        self.page.evaluate("() => { app.extensionManager.command.execute('Comfy.Canvas.FitView') }")
        self.page.wait_for_timeout(1000)

    def near(self, node_type: str) -> None:
        """Zooms to a node: below half size, which a wide graph has after `fit`, widgets are left out."""
        self.page.evaluate(_NEAR, node_type)

    def queue(self) -> None:
        """Clicks the Run button."""
        self.page.get_by_role("button", name="Run", exact=True).first.click()

    def wait_for_picture(self, node_id: str) -> dict[str, Any]:
        """Waits until a node shows a loaded picture: {width, height, src}."""
        return self.page.wait_for_function(_PICTURE, arg=node_id).json_value()

    def wait_for_node_errors(self) -> dict[str, Any]:
        """What the page knows of a refused prompt: {node id: {errors: [...]}}."""
        errors = "() => app.lastNodeErrors && Object.keys(app.lastNodeErrors).length && app.lastNodeErrors"
        return self.page.wait_for_function(errors).json_value()

    def drop_file(self, name: str, content: bytes) -> None:
        """Drops a PNG on an empty place of the canvas, with the events a person's drop makes."""
        self.page.evaluate(_DROP, [name, base64.b64encode(content).decode()])
