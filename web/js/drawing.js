// @ts-check
// Draws a layout. Each time t gets a panel; inside it, pictures lie at their (h, w), in tokens of 16
// pixels.

import { say } from "./words.js";

/** @typedef {import("./placing.js").Position} Position */

/**
 * One picture of the layout, as nodes/stitch.py sends it; lengths in tokens, index 0 is the target.
 * Tokens are unknown before a run where there is a mask.
 * @typedef {{index: number, t: number, h: number, w: number, rows: number, columns: number,
 *   tokens?: number, strength: number, start: number, end: number, name?: string | null,
 *   picture?: string | null}} Placed
 */

const SVG = "http://www.w3.org/2000/svg";
export const HEIGHT = 130;
const GAP = 12;
// Which image the keyboard moves.
const FOCUS = "g:focus{outline:none}g:focus rect{stroke:#fff;stroke-width:3}";
const TARGET = "#7a8291";
// Addresses of this server, and pictures in the report itself.
const SAFE = /^(data:image\/|\/(?!\/))/;
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

/**
 * An image in words, for a pointer that rests on it and for a screen reader.
 * @param {Placed} placed
 */
export function describe(placed) {
  const pixels = `${placed.columns * 16} x ${placed.rows * 16} ${say("pixels")}`;
  const all = placed.rows * placed.columns;
  if (placed.index === 0) return `${say("target")}: ${pixels}, ${all} ${say("tokens")}`;
  const number = `${say("image")} ${placed.index}${placed.name ? ` (${placed.name})` : ""}`;
  const place = `t ${placed.t}, h ${placed.h}, w ${placed.w}`;
  const count = placed.tokens === undefined ? `${say("masked")}, ≤ ${all} ${say("tokens")}` : "";
  const seen = placed.tokens === all ? `${all} ${say("tokens")}` : `${placed.tokens} / ${all} ${say("tokens_seen")}`;
  const weight = placed.strength === 1 ? "" : `, ${say("strength")} ${placed.strength}`;
  const whole = placed.start === 0 && placed.end === 1;
  const time = whole ? "" : `, ${say("steps")} ${percent(placed.start)} – ${percent(placed.end)}`;
  return `${number}: ${place}, ${pixels}, ${count || seen}${weight}${time}`;
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
 * A word in a box, with a dark rim.
 * @param {string} word
 * @param {number} x of its middle
 * @param {number} y of its foot
 * @param {number} size
 */
function lettering(word, x, y, size) {
  const font = { "font-size": size, fill: "#fff", "text-anchor": "middle", "font-weight": 600 };
  const rim = { stroke: "#16181c", "stroke-width": size / 4, "paint-order": "stroke" };
  return element("text", { x, y, ...font, ...rim, "pointer-events": "none" }, word);
}

/**
 * One picture: its thumbnail where there is one, its frame, its number and name.
 * @param {Placed} placed
 * @param {{x: number, y: number, width: number, height: number}} box
 */
function drawn(placed, box) {
  const isTarget = placed.index === 0;
  const colour = isTarget ? TARGET : COLOURS[(placed.index - 1) % COLOURS.length];
  const group = element("g", { "data-index": placed.index, role: "img" });
  if (placed.picture && SAFE.test(placed.picture)) {
    // A picture keeps its shape; what is left of its place is padding.
    const whole = { href: placed.picture, preserveAspectRatio: "xMidYMid meet" };
    group.append(element("image", { ...box, ...whole }));
    const frame = { fill: colour, "fill-opacity": 0, stroke: colour, "stroke-width": 2 };
    group.append(element("rect", { ...box, ...frame }));
  } else {
    const look = { fill: colour, "fill-opacity": 0.45, stroke: colour, rx: 2 };
    group.append(element("rect", { ...box, ...look }));
  }
  const number = isTarget ? say("target") : String(placed.index);
  const full = placed.name ? `${number} ${placed.name}` : number;
  const label = fontFor(full, box) >= 7 ? full : number;
  const size = fontFor(label, box);
  const centre = box.x + box.width / 2;
  // A picture is not to be covered.
  const foot = placed.picture ? box.y + size + 2 : box.y + box.height / 2 + size / 3;
  if (size) group.append(lettering(label, centre, foot, size));
  const count = `${placed.tokens ?? "≤ " + placed.rows * placed.columns}`;
  const small = Math.min(9, fontFor(count, box));
  if (small && box.height > 3 * small + size) {
    group.append(lettering(count, centre, box.y + box.height - 3, small));
  }
  group.setAttribute("aria-label", describe(placed));
  group.append(element("title", {}, describe(placed)));
  return group;
}

/**
 * From tokens to the drawing: image (t, h, w) stands at x0(t) + (w - left) * scale.
 * @typedef {{times: number[], left: number, top: number, scale: number, step: number,
 *   x0: number, y0: number}} Geometry
 */

/**
 * The drawing of a layout: an SVG that scales with the node, and where things stand in it.
 * @param {Placed[]} layout
 * @returns {{svg: SVGSVGElement, geometry: Geometry}}
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
  const geometry = { times, left, top, scale, step, x0: GAP, y0: GAP + 6 };
  const svg = /** @type {SVGSVGElement} */ (
    element("svg", {
      viewBox: `0 0 ${times.length * step + GAP} ${HEIGHT}`,
      width: "100%",
      height: HEIGHT,
      preserveAspectRatio: "xMidYMid meet",
      role: "group",
      "aria-label": `${say("layout")}: ${layout.map(describe).join("; ")}`,
    })
  );
  svg.append(element("style", {}, FOCUS));
  for (const [column, t] of times.entries()) {
    const note = { x: GAP + column * step, y: 12, "font-size": 10, fill: "#9aa0aa" };
    svg.append(element("text", note, `t = ${t}`));
    for (const placed of layout.filter((one) => one.t === t)) {
      const { x, y } = spot(geometry, [t, placed.h, placed.w]);
      svg.append(drawn(placed, { x, y, width: placed.columns * scale, height: placed.rows * scale }));
    }
  }
  return { svg, geometry };
}

/**
 * Where in the drawing a place is.
 * @param {Geometry} geometry
 * @param {Position} position
 */
export function spot({ times, left, top, scale, step, x0, y0 }, [t, h, w]) {
  const x = x0 + times.indexOf(t) * step + (w - left) * scale;
  return { x, y: y0 + (h - top) * scale };
}
