// @ts-check
// Shows in a Kontext: Stitch node where the target and its references stand, after it has run.
// Each time t gets a panel; inside it, pictures lie at their (h, w), in tokens of 16 pixels.

import { app } from "../../../scripts/app.js";
import { say } from "./words.js";

/**
 * One picture of the layout, as nodes/stitch.py sends it; lengths in tokens, index 0 is the target.
 * @typedef {{index: number, t: number, h: number, w: number, rows: number, columns: number,
 *   tokens: number, strength: number, start: number, end: number}} Placed
 */

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 130;
const GAP = 12;
const COLOURS = ["#7a8291", "#4a90d9", "#d9822b", "#5aa469", "#b565b0", "#c25b56"];

/**
 * @param {string} name
 * @param {Record<string, string | number>} attributes
 * @param {string} [text]
 */
function element(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  if (text !== undefined) made.textContent = text;
  return made;
}

/** @param {number} share */
function percent(share) {
  return `${Math.round(share * 100)}%`;
}

/** @param {Placed} placed */
function describe(placed) {
  if (placed.index === 0) {
    return `${say("target")}: ${placed.columns * 16} x ${placed.rows * 16} ${say("pixels")}`;
  }
  const all = placed.rows * placed.columns;
  const seen = placed.tokens < all ? `, ${placed.tokens} / ${all} ${say("tokens_seen")}` : "";
  const weight = placed.strength === 1 ? "" : `, ${say("strength")} ${placed.strength}`;
  const whole = placed.start === 0 && placed.end === 1;
  const time = whole ? "" : `, ${say("steps")} ${percent(placed.start)} – ${percent(placed.end)}`;
  const place = `t ${placed.t}, h ${placed.h}, w ${placed.w}`;
  return `${say("image")} ${placed.index}: ${place}${seen}${weight}${time}`;
}

/**
 * The drawing of a layout: an SVG that scales with the node.
 * @param {Placed[]} layout
 */
export function draw(layout) {
  const times = [...new Set(layout.map((placed) => placed.t))].sort((a, b) => a - b);
  const top = Math.min(...layout.map((p) => p.h));
  const left = Math.min(...layout.map((p) => p.w));
  const height = Math.max(...layout.map((p) => p.h + p.rows)) - top;
  const width = Math.max(...layout.map((p) => p.w + p.columns)) - left;
  const room = HEIGHT - 2 * GAP - 14;
  // Panels stand side by side; very flat layouts are limited by width instead.
  const scale = Math.min(room / height, (2.4 * room) / (width * times.length));
  const step = width * scale + GAP;
  const svg = element("svg", {
    viewBox: `0 0 ${times.length * step + GAP} ${HEIGHT}`,
    width: "100%",
    height: HEIGHT,
    preserveAspectRatio: "xMidYMid meet",
    role: "img",
  });
  for (const [column, t] of times.entries()) {
    const x0 = GAP + column * step;
    const note = { x: x0, y: 12, "font-size": 10, fill: "#9aa0aa" };
    svg.append(element("text", note, `t = ${t}`));
    for (const placed of layout.filter((one) => one.t === t)) {
      const x = x0 + (placed.w - left) * scale;
      const y = GAP + 6 + (placed.h - top) * scale;
      const box = { x, y, width: placed.columns * scale, height: placed.rows * scale };
      const colour = COLOURS[placed.index % COLOURS.length];
      const group = element("g", {});
      const look = { fill: colour, "fill-opacity": 0.45, stroke: colour, rx: 2 };
      group.append(element("rect", { ...box, ...look }));
      const label = placed.index === 0 ? say("target") : String(placed.index);
      const middle = { x: x + box.width / 2, y: y + box.height / 2 + 4 };
      const font = { "font-size": 12, fill: "#f4f5f7", "text-anchor": "middle" };
      group.append(element("text", { ...middle, ...font }, label));
      group.append(element("title", {}, describe(placed)));
      svg.append(group);
    }
  }
  return svg;
}

app.registerExtension({
  name: "kontext.layout",
  async beforeRegisterNodeDef(nodeType, nodeData) {
    if (nodeData.name !== "KontextStitch") return;

    const created = nodeType.prototype.onNodeCreated;
    nodeType.prototype.onNodeCreated = function (...args) {
      const result = created?.apply(this, args);
      const view = document.createElement("div");
      view.className = "kontext-layout";
      view.style.cssText =
        `width:100%;min-height:${HEIGHT}px;box-sizing:border-box;overflow:hidden;` +
        "display:flex;align-items:center;justify-content:center;" +
        "font:11px sans-serif;color:#9aa0aa";
      view.textContent = say("layout_empty");
      const widget = this.addDOMWidget("layout", "kontext_layout", view, {
        serialize: false,
        // The canvas takes a margin of 10 at both ends.
        getMinHeight: () => HEIGHT + 20,
      });
      // Only a view: neither saved with the workflow nor sent with the prompt.
      widget.serialize = false;
      this.kontextLayout = view;
      return result;
    };

    const executed = nodeType.prototype.onExecuted;
    nodeType.prototype.onExecuted = function (output) {
      executed?.apply(this, arguments);
      const layout = output?.kontext_layout;
      if (Array.isArray(layout) && layout.length > 0 && this.kontextLayout) {
        this.kontextLayout.replaceChildren(draw(layout));
      }
    };
  },
});
