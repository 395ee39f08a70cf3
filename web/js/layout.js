// @ts-check
// Shows in a Kontext: Stitch node where its last run put the target and its references. Each time t
// gets a panel; inside it, pictures lie at their (h, w), in tokens of 16 pixels. It turns grey when
// the graph is no longer the one that it was drawn for.

import { app } from "../../../scripts/app.js";
import { parts, places } from "./chain.js";
import { nativeModels } from "./models.js";
import { mount, reportOf, watch, whole } from "./watch.js";
import { say } from "./words.js";

/** @typedef {import("./chain.js").Place} Place */

/**
 * One picture of the layout, as nodes/stitch.py sends it; lengths in tokens, index 0 is the target.
 * @typedef {{index: number, t: number, h: number, w: number, rows: number, columns: number,
 *   tokens: number, strength: number, start: number, end: number, picture?: string | null}} Placed
 */

const TYPE = "KontextStitch";
const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 130;
const GAP = 12;
const TARGET = "#7a8291";
const COLOURS = ["#4a90d9", "#d9822b", "#5aa469", "#b565b0", "#c25b56", "#3fa7a3", "#b59b2a"];
// Of the font's size: how wide a letter is on the average, and those of Chinese and its neighbours.
const LETTER = 0.58;
const WIDE = /[\u1100-\uffdc]/;

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
 * The size in which a word fits a box, at most 12; 0 when nobody could read it.
 * @param {string} word
 * @param {{width: number, height: number}} box
 */
function fontFor(word, box) {
  const letters = [...word].reduce((sum, one) => sum + (WIDE.test(one) ? 1 : LETTER), 0);
  const size = Math.min(12, (box.width - 4) / letters, box.height - 2);
  return size < 5 ? 0 : size;
}

/**
 * One picture: its thumbnail where there is one, its frame, its number.
 * @param {Placed} placed
 * @param {{x: number, y: number, width: number, height: number}} box
 */
function drawn(placed, box) {
  const isTarget = placed.index === 0;
  const colour = isTarget ? TARGET : COLOURS[(placed.index - 1) % COLOURS.length];
  const group = element("g", {});
  if (placed.picture?.startsWith("data:image/")) {
    // Stretched as the picture itself was before it was encoded.
    const whole = { href: placed.picture, preserveAspectRatio: "none" };
    group.append(element("image", { ...box, ...whole }));
    group.append(element("rect", { ...box, fill: "none", stroke: colour, "stroke-width": 2 }));
  } else {
    const look = { fill: colour, "fill-opacity": 0.45, stroke: colour, rx: 2 };
    group.append(element("rect", { ...box, ...look }));
  }
  const label = isTarget ? say("target") : String(placed.index);
  const size = fontFor(label, box);
  if (size) {
    const middle = { x: box.x + box.width / 2, y: box.y + box.height / 2 + size / 3 };
    // A picture is not to be covered.
    const corner = { x: box.x + 4 + size / 3, y: box.y + size + 2 };
    const font = { "font-size": size, fill: "#fff", "text-anchor": "middle", "font-weight": 600 };
    const rim = { stroke: "#16181c", "stroke-width": size / 4, "paint-order": "stroke" };
    const at = placed.picture ? corner : middle;
    group.append(element("text", { ...at, ...font, ...rim }, label));
  }
  group.append(element("title", {}, describe(placed)));
  return group;
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
      svg.append(drawn(placed, box));
    }
  }
  return svg;
}

/**
 * What the layout of a stitch is made from, as a short text.
 * @param {Place} place
 */
function signature(place) {
  const text = parts(place, ["latent", "references"]);
  let hash = 0xcbf29ce484222325n;
  for (const letter of text) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(letter.codePointAt(0) ?? 0)) * 0x100000001b3n);
  }
  return hash.toString(36);
}

/**
 * Reports of a node that ran for several rows stand one behind the other: the last layout.
 * @param {Placed[]} layout
 */
function lastOf(layout) {
  return layout.slice(layout.findLastIndex((placed) => placed.index === 0));
}

/**
 * @param {any} view
 * @param {any} report
 * @param {Place} place
 */
function show(view, report, place) {
  const layout = report?.kontext_layout;
  if (!Array.isArray(layout) || !layout.length) return;
  if (view.kontextDrawn !== layout) {
    view.kontextDrawn = layout;
    view.kontextPicture.replaceChildren(draw(lastOf(layout)));
  }
  const made = report.kontext_made?.at(-1);
  const changed = made !== undefined && made !== signature(place);
  const leftOut = report.kontext_native_leaves_out ?? [];
  const native = leftOut.length && !changed ? nativeModels(place) : [];
  view.kontextPicture.style.filter = changed ? "grayscale(1) opacity(0.45)" : "";
  const lines = [];
  if (changed) lines.push(say("layout_changed"));
  if (native.length) {
    lines.push(`${native.join(", ")}: ${say("native_leaves_out")} ${leftOut.join("; ")}`);
  }
  const text = lines.join("\n");
  if (view.kontextWords.textContent !== text) view.kontextWords.textContent = text;
  view.classList.toggle("kontext-changed", changed);
}

watch((all) => {
  const seen = new Set();
  for (const place of all) {
    const view = place.node.type === TYPE && place.node.kontextLayout;
    // Of a subgraph that is used twice, the first use.
    if (!view || seen.has(place.node)) continue;
    seen.add(place.node);
    mount(place.node, view);
    show(view, reportOf(place, signature(place)), place);
  }
});

/** @param {any} node */
function placeOf(node) {
  return places(whole()).find((place) => place.node === node) ?? { node, path: [] };
}

app.registerExtension({
  name: "kontext.layout",
  getCustomWidgets() {
    return {
      KONTEXT_LAYOUT(node, inputName) {
        const view = document.createElement("div");
        view.className = "kontext-layout";
        view.style.cssText =
          `width:100%;min-height:${HEIGHT}px;box-sizing:border-box;overflow:hidden;` +
          "display:flex;flex-direction:column;align-items:center;justify-content:center;" +
          "position:relative;font:11px sans-serif;color:#9aa0aa;white-space:pre-wrap";
        const picture = document.createElement("div");
        picture.style.cssText = "width:100%;text-align:center";
        picture.textContent = say("layout_empty");
        const words = document.createElement("div");
        words.className = "kontext-layout-words";
        words.style.cssText =
          "position:absolute;left:0;right:0;bottom:0;text-align:center;color:#e3b341;" +
          "text-shadow:0 0 3px #000,0 0 3px #000;user-select:text";
        view.append(picture, words);
        Object.assign(view, { kontextPicture: picture, kontextWords: words });
        const widget = node.addDOMWidget(inputName, "kontext_layout", view, {
          // The canvas takes a margin of 10 at both ends.
          getMinHeight: () => HEIGHT + 20,
        });
        // Only a view, which is not saved with the workflow. The prompt takes along what it will be
        // drawn for, and the run's report brings that back.
        widget.serialize = false;
        widget.serializeValue = () => signature(placeOf(node));
        node.kontextLayout = view;
        return { widget };
      },
    };
  },
  async beforeRegisterNodeDef(nodeType, nodeData) {
    if (nodeData.name !== TYPE) return;
    const executed = nodeType.prototype.onExecuted;
    nodeType.prototype.onExecuted = function (output) {
      executed?.apply(this, arguments);
      if (this.kontextLayout) show(this.kontextLayout, output, placeOf(this));
    };
  },
});
