// @ts-check
// Kontext: Compare: before and after under a slider, where they differ, and the figures; of a batch,
// its candidates side by side, one of which is looked at. Everything can be done by keyboard.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { mount, reportOf, watch } from "./watch.js";
import { say } from "./words.js";

/**
 * @typedef {{filename: string, subfolder: string, type: string}} File
 * @typedef {{before: File, after: File, difference: File, said: string}} Pair
 */

const TYPE = "KontextCompare";
const HEIGHT = 260;
const MODES = /** @type {const} */ (["slider", "difference", "candidates"]);
const NAMES = {
  slider: () => say("compare_slider"),
  difference: () => say("compare_difference"),
  candidates: () => say("compare_candidates"),
};

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} name
 * @param {string} style
 * @param {Record<string, string>} [attributes]
 */
function element(name, style, attributes = {}) {
  const made = document.createElement(name);
  made.style.cssText = style;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** @param {File} file */
function address(file) {
  const query = new URLSearchParams({ ...file });
  return api.apiURL(`/view?${query}`);
}

/** What one node shows. */
class View {
  /** @type {Pair[]} */
  pairs = [];
  index = 0;
  /** @type {(typeof MODES)[number]} */
  mode = "slider";

  constructor() {
    const fill = "position:absolute;inset:0;width:100%;height:100%;object-fit:contain;";
    this.root = element(
      "div",
      `width:100%;min-height:${HEIGHT}px;height:100%;box-sizing:border-box;display:flex;` +
        "flex-direction:column;gap:4px;font:11px sans-serif;color:#9aa0aa",
    );
    this.root.className = "kontext-compare";
    this.bar = element("div", "display:flex;gap:4px;flex-wrap:wrap", { role: "group" });
    this.stage = element(
      "div",
      "position:relative;flex:1;min-height:120px;overflow:hidden;background:#16181c;touch-action:none",
    );
    this.after = element("img", fill, { alt: say("compare_after"), draggable: "false" });
    this.before = element("img", fill, { alt: say("compare_before"), draggable: "false" });
    this.heat = element("img", fill, { alt: say("compare_difference"), draggable: "false" });
    this.line = element(
      "div",
      "position:absolute;top:0;bottom:0;width:2px;margin-left:-1px;background:#fff;" +
        "box-shadow:0 0 3px #000;pointer-events:none",
    );
    this.grid = element(
      "div",
      "position:absolute;inset:0;overflow:auto;display:grid;gap:4px;align-content:start;" +
        "grid-template-columns:repeat(auto-fill,minmax(72px,1fr))",
    );
    this.stage.append(this.after, this.before, this.line, this.heat, this.grid);
    this.range = element("input", "width:100%;margin:0", {
      type: "range", min: "0", max: "100", value: "50", "aria-label": say("compare"),
    }); // prettier-ignore
    this.words = element("div", "white-space:pre-wrap;user-select:text", { role: "status" });
    this.words.textContent = say("compare_empty");
    this.root.append(this.bar, this.stage, this.range, this.words);
    this.range.addEventListener("input", () => this.slide());
    for (const kind of ["pointerdown", "pointermove"]) {
      this.stage.addEventListener(kind, (event) => this.drag(/** @type {PointerEvent} */ (event)));
    }
    // A picture of a server that was started anew is gone.
    this.after.addEventListener("error", () => (this.words.textContent = say("compare_gone")));
    this.draw();
  }

  /** @param {PointerEvent} event */
  drag(event) {
    if (this.mode !== "slider" || !this.pairs.length || !(event.buttons & 1)) return;
    event.preventDefault();
    event.stopPropagation();
    const box = this.stage.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    this.range.value = String(Math.round(100 * share));
    this.slide();
  }

  slide() {
    const at = Number(this.range.value);
    this.before.style.clipPath = `inset(0 ${100 - at}% 0 0)`;
    this.line.style.left = `${at}%`;
  }

  /** @param {Pair[]} pairs */
  show(pairs) {
    this.pairs = pairs;
    this.index = Math.min(this.index, pairs.length - 1);
    if (pairs.length === 1 && this.mode === "candidates") this.mode = "slider";
    this.draw();
  }

  /** @param {number} index */
  pick(index) {
    this.index = index;
    this.mode = "slider";
    this.draw();
    this.range.focus();
  }

  draw() {
    const pair = this.pairs[this.index];
    const several = this.pairs.length > 1;
    this.bar.replaceChildren(
      ...MODES.filter((mode) => several || mode !== "candidates").map((mode) => {
        const chosen = mode === this.mode;
        const button = element(
          "button",
          "border:1px solid #555;border-radius:4px;padding:1px 8px;cursor:pointer;font:inherit;" +
            (chosen ? "background:#4a90d9;color:#fff" : "background:transparent;color:inherit"),
          { type: "button", "aria-pressed": String(chosen) },
        );
        button.textContent = NAMES[mode]();
        button.disabled = !pair;
        button.addEventListener("click", () => {
          this.mode = mode;
          this.draw();
          // The button was made anew.
          const at = MODES.indexOf(mode);
          /** @type {HTMLElement | undefined} */ (this.bar.children[at])?.focus();
        });
        return button;
      }),
    );
    const slider = this.mode === "slider";
    const shown = { before: slider, after: slider, line: slider, heat: this.mode === "difference" };
    for (const [name, visible] of Object.entries(shown)) {
      this[/** @type {"before"} */ (name)].style.display = visible && pair ? "" : "none";
    }
    this.range.style.visibility = slider && pair ? "" : "hidden";
    this.grid.style.display = this.mode === "candidates" ? "grid" : "none";
    if (!pair) return;
    this.before.src = address(pair.before);
    this.after.src = address(pair.after);
    this.heat.src = address(pair.difference);
    const number = several ? `${this.index + 1} / ${this.pairs.length}  ` : "";
    this.words.textContent = number + pair.said;
    this.grid.replaceChildren(...this.pairs.map((one, index) => this.tile(one, index)));
    this.slide();
  }

  /**
   * @param {Pair} pair
   * @param {number} index
   */
  tile(pair, index) {
    const chosen = index === this.index;
    const button = element(
      "button",
      "position:relative;padding:0;border:2px solid;background:none;cursor:pointer;" +
        `border-color:${chosen ? "#4a90d9" : "transparent"}`,
      { type: "button", "aria-label": `${say("compare_candidate")} ${index + 1}: ${pair.said}` },
    );
    const picture = element("img", "width:100%;display:block", { alt: "", draggable: "false" });
    picture.src = address(pair.after);
    const label = element(
      "span",
      "position:absolute;left:3px;top:2px;color:#fff;text-shadow:0 0 3px #000,0 0 3px #000",
    );
    label.textContent = String(index + 1);
    button.append(picture, label);
    button.addEventListener("click", () => this.pick(index));
    return button;
  }
}

/**
 * @param {any} node
 * @param {any} report
 */
function show(node, report) {
  const pairs = report?.kontext_compare;
  const view = node.kontextCompare;
  if (!view || !Array.isArray(pairs) || !pairs.length || view.reported === pairs) return;
  view.reported = pairs;
  view.show(pairs);
}

watch((all) => {
  for (const place of all) {
    const view = place.node.type === TYPE && place.node.kontextCompare;
    if (!view) continue;
    mount(place.node, view.root);
    show(place.node, reportOf(place));
  }
});

app.registerExtension({
  name: "kontext.compare",
  async beforeRegisterNodeDef(nodeType, nodeData) {
    if (nodeData.name !== TYPE) return;
    const created = nodeType.prototype.onNodeCreated;
    nodeType.prototype.onNodeCreated = function (...args) {
      const result = created?.apply(this, args);
      const view = new View();
      const widget = this.addDOMWidget("view", "kontext_compare", view.root, {
        serialize: false,
        // The canvas takes a margin of 10 at both ends.
        getMinHeight: () => HEIGHT + 20,
      });
      // Only a view: neither saved with the workflow nor sent with the prompt.
      widget.serialize = false;
      this.kontextCompare = view;
      return result;
    };
    const executed = nodeType.prototype.onExecuted;
    nodeType.prototype.onExecuted = function (output) {
      executed?.apply(this, arguments);
      show(this, output);
    };
  },
});
