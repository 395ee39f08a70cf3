// @ts-check
// Shows in a node what its last run had to say: which keys of a LoRA matched nothing, say. It stays
// as long as the host keeps result pictures: through undo, other tabs and a reload.

import { app } from "../../../scripts/app.js";
import { mount, reportOf, watch } from "./watch.js";
import { say } from "./words.js";

// These always report, so their place is there from the start; others get it with the first note.
const REPORTING = ["KontextAccelerate", "KontextLoadLora", "KontextQuantize", "KontextTrainLora"];
const HEIGHT = 64;

/** @param {any} node */
function place(node) {
  const view = document.createElement("div");
  view.className = "kontext-notes";
  view.style.cssText =
    `width:100%;min-height:${HEIGHT}px;box-sizing:border-box;overflow:auto;` +
    "padding:4px 6px;white-space:pre-wrap;overflow-wrap:anywhere;" +
    "font:11px sans-serif;color:#9aa0aa;user-select:text";
  const widget = node.addDOMWidget("notes", "kontext_notes", view, {
    serialize: false,
    // The canvas takes a margin of 10 at both ends.
    getMinHeight: () => HEIGHT + 20,
  });
  // Only a view: neither saved with the workflow nor sent with the prompt.
  widget.serialize = false;
  node.kontextNotes = view;
}

/**
 * @param {any} node
 * @param {any} report
 */
function show(node, report) {
  const notes = report?.kontext_notes;
  if (!Array.isArray(notes)) return;
  if (!node.kontextNotes) {
    if (!notes.length) return;
    place(node);
    const [width, height] = node.computeSize();
    node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], height)]);
  }
  const text = notes.join("\n");
  if (node.kontextNotes.textContent !== text) node.kontextNotes.textContent = text;
}

watch((all) => {
  const seen = new Set();
  for (const one of all) {
    if (!one.node.type?.startsWith("Kontext") || seen.has(one.node)) continue;
    seen.add(one.node);
    show(one.node, reportOf(one));
    if (one.node.kontextNotes) mount(one.node, one.node.kontextNotes);
  }
});

app.registerExtension({
  name: "kontext.notes",
  async beforeRegisterNodeDef(nodeType, nodeData) {
    if (!nodeData.name.startsWith("Kontext")) return;

    if (REPORTING.includes(nodeData.name)) {
      const created = nodeType.prototype.onNodeCreated;
      nodeType.prototype.onNodeCreated = function (...args) {
        const result = created?.apply(this, args);
        place(this);
        this.kontextNotes.textContent = say("notes_empty");
        return result;
      };
    }

    const executed = nodeType.prototype.onExecuted;
    nodeType.prototype.onExecuted = function (output) {
      executed?.apply(this, arguments);
      show(this, output);
    };
  },
});
