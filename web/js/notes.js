// @ts-check
// Shows in a node what its last run had to say: which keys of a LoRA matched nothing, say.

import { app } from "../../../scripts/app.js";
import { say } from "./words.js";

// These always report, so their place is there from the start; others get it with the first note.
const REPORTING = ["KontextLoadLora", "KontextQuantize"];
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
      const notes = output?.kontext_notes;
      if (!Array.isArray(notes)) return;
      if (!this.kontextNotes) {
        if (!notes.length) return;
        place(this);
        const [width, height] = this.computeSize();
        this.setSize([Math.max(this.size[0], width), Math.max(this.size[1], height)]);
      }
      this.kontextNotes.textContent = notes.join("\n");
    };
  },
});
