// @ts-check
// Shows in a node what its last run had to say: which keys of a LoRA matched nothing, say.

import { app } from "../../../scripts/app.js";

const NODES = ["KontextLoadLora", "KontextQuantize"];
const HEIGHT = 64;

app.registerExtension({
  name: "kontext.notes",
  async beforeRegisterNodeDef(nodeType, nodeData) {
    if (!NODES.includes(nodeData.name)) return;

    const created = nodeType.prototype.onNodeCreated;
    nodeType.prototype.onNodeCreated = function (...args) {
      const result = created?.apply(this, args);
      const view = document.createElement("div");
      view.className = "kontext-notes";
      view.style.cssText =
        `width:100%;min-height:${HEIGHT}px;box-sizing:border-box;overflow:auto;` +
        "padding:4px 6px;white-space:pre-wrap;overflow-wrap:anywhere;" +
        "font:11px sans-serif;color:#9aa0aa;user-select:text";
      view.textContent = "The report stands here after a run.";
      const widget = this.addDOMWidget("notes", "kontext_notes", view, {
        serialize: false,
        // The canvas takes a margin of 10 at both ends.
        getMinHeight: () => HEIGHT + 20,
      });
      // Only a view: neither saved with the workflow nor sent with the prompt.
      widget.serialize = false;
      this.kontextNotes = view;
      return result;
    };

    const executed = nodeType.prototype.onExecuted;
    nodeType.prototype.onExecuted = function (output) {
      executed?.apply(this, arguments);
      const notes = output?.kontext_notes;
      if (Array.isArray(notes) && this.kontextNotes) {
        this.kontextNotes.textContent = notes.join("\n");
      }
    };
  },
});
