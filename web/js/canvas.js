// @ts-check
// Sizes of Kontext: Canvas and Kontext: Arrange before a run: the figures of kontext_core/pages.py,
// fit.py, framing.py and arrange.py once more; tests/web/test_cost.py holds them together.

/** @typedef {[number, number]} Size width and height in pixels */

const TOKEN = 16;
const MEGAPIXEL = 1024 * 1024;
const MAX_SIDE = 16384;
// Pixels that a side may be off when a shape was rounded to whole tokens.
const ROUNDED = 8;

/**
 * To the nearest whole number, halves to the even one, as Python rounds.
 * @param {number} value
 */
function rounded(value) {
  const below = Math.floor(value);
  const off = value - below;
  if (off === 0.5) return below % 2 ? below + 1 : below;
  return off < 0.5 ? below : below + 1;
}

/**
 * What is to be shown: the picture with margins, extended or cut off to an aspect.
 * @param {Size} picture
 * @param {{margins: number[], aspect?: number, crop: boolean}} how margins left, top, right, bottom
 * @returns {Size}
 */
export function page([width, height], { margins, aspect, crop }) {
  const across = width + margins[0] + margins[2];
  const down = height + margins[1] + margins[3];
  if (aspect === undefined) return [across, down];
  const pick = crop ? Math.min : Math.max;
  return [
    Math.max(1, pick(across, rounded(down * aspect))),
    Math.max(1, pick(down, rounded(across / aspect))),
  ];
}

/**
 * The size to paint at.
 * @param {string} policy
 * @param {Size} shown
 * @param {{trained: Size, megapixels: number, custom: Size}} sizes trained is the nearest to shown
 * @returns {Size}
 */
export function canvas(policy, shown, { trained, megapixels, custom }) {
  if (policy === "custom") return custom;
  if (policy === "trained size") return trained;
  const whole = (/** @type {number} */ side) => Math.ceil(side / TOKEN) * TOKEN;
  if (policy === "exact") return [whole(shown[0]), whole(shown[1])];
  const scale = Math.sqrt((megapixels * MEGAPIXEL) / (shown[0] * shown[1]));
  const side = (/** @type {number} */ one) =>
    Math.min(MAX_SIDE, Math.max(1, rounded((one * scale) / TOKEN)) * TOKEN);
  return [side(shown[0]), side(shown[1])];
}

/**
 * Whether one is the other resized, with sides of b up to half a token off.
 * @param {Size} a
 * @param {Size} b
 */
export function sameShape(a, b) {
  const low = Math.max((b[0] - ROUNDED) / a[0], (b[1] - ROUNDED) / a[1]);
  const high = Math.min((b[0] + ROUNDED) / a[0], (b[1] + ROUNDED) / a[1]);
  return low <= high;
}

/**
 * The canvas of pictures that are arranged.
 * @param {Size[]} sizes
 * @param {string} layout
 * @param {{gap: number, columns: number, size: Size}} how 0 for what follows from the pictures
 * @returns {Size}
 */
export function arranged(sizes, layout, { gap, columns, size }) {
  const natural = layout === "places" ? sizes[0] : spread(sizes, layout, gap, columns);
  const scales = [0, 1].filter((axis) => size[axis]).map((axis) => size[axis] / natural[axis]);
  const scale = scales.length ? Math.min(...scales) : 1;
  const side = (/** @type {number} */ axis) =>
    size[axis] || Math.max(1, rounded(natural[axis] * scale));
  return [side(0), side(1)];
}

/**
 * @param {Size[]} sizes
 * @param {string} layout
 * @param {number} gap
 * @param {number} columns
 * @returns {Size}
 */
function spread(sizes, layout, gap, columns) {
  const [width, height] = sizes[0];
  if (layout === "grid") {
    const count = Math.min(columns || Math.ceil(Math.sqrt(sizes.length)), sizes.length);
    const rows = Math.ceil(sizes.length / count);
    return [count * (width + gap) - gap, rows * (height + gap) - gap];
  }
  const axis = layout === "row" ? 0 : 1;
  const across = sizes[0][1 - axis];
  const length = sizes.reduce((sum, own) => sum + (own[axis] * across) / own[1 - axis] + gap, -gap);
  return axis ? [across, length] : [length, across];
}
