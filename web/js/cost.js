// @ts-check
// Size and price of a run before it runs: the figures of kontext_core/cost.py, framing.py and
// resolutions.py once more; tests/web/test_cost.py holds them together.

/** @typedef {[number, number]} Size width and height in pixels */

/**
 * What the core knows of a model; nodes/stitch.py sends it along with the node's description.
 * @typedef {{sizes: Size[], hidden: number, text: number}} Model
 */

const TOKEN = 16;
// From so many times the trained area on a picture counts as far above it.
const ROOM = 1.5;
// Numbers a forward holds at once for each token and hidden unit.
const HELD = 17.7;

/** @param {Size} size */
const area = ([width, height]) => width * height;

/**
 * The trained size with the closest shape; of equals the narrowest.
 * @param {Size} size
 * @param {Size[]} sizes
 * @returns {Size}
 */
export function nearest([width, height], sizes) {
  const off = (/** @type {Size} */ [w, h]) => Math.abs(width / height - w / h);
  return [...sizes].sort((a, b) => off(a) - off(b) || a[0] - b[0] || a[1] - b[1])[0];
}

/**
 * What a picture becomes.
 * @param {Size} size
 * @param {Size[]} sizes
 * @param {string} fit
 * @returns {Size}
 */
export function fitted(size, sizes, fit) {
  const trained = nearest(size, sizes);
  if (fit === "trained size" || (fit === "shrink" && area(size) > area(trained))) return trained;
  const whole = fit === "exact" ? Math.ceil : Math.floor;
  return [whole(size[0] / TOKEN) * TOKEN, whole(size[1] / TOKEN) * TOKEN];
}

/**
 * A size with fewer pixels, in whole tokens.
 * @param {Size} size
 * @param {number} share of each side's pixels
 * @returns {Size}
 */
export function scaled(size, share) {
  const side = (/** @type {number} */ one) =>
    Math.max(1, Math.floor((one * share) / TOKEN + 0.5)) * TOKEN;
  return share < 1 ? [side(size[0]), side(size[1])] : size;
}

/** @param {Size} size */
export function tokensOf([width, height]) {
  return Math.ceil(width / TOKEN) * Math.ceil(height / TOKEN);
}

/**
 * @param {number} tokens
 * @param {number} hidden
 */
function step(tokens, hidden) {
  return tokens * (6 * hidden + tokens);
}

/**
 * Cost of a step in steps of a plain edit: one reference and a target of the squarest trained size.
 * @param {Size} size
 * @param {number[]} references tokens of each
 * @param {Model} model
 */
export function relative(size, references, { sizes, hidden, text }) {
  const all = references.reduce((sum, one) => sum + one, text + tokensOf(size));
  return step(all, hidden) / step(text + 2 * tokensOf(nearest([1, 1], sizes)), hidden);
}

/**
 * Cost of a step in steps of the same run without references.
 * @param {Size} size
 * @param {number[]} references tokens of each
 * @param {Model} model
 */
export function alone(size, references, { hidden, text }) {
  const bare = text + tokensOf(size);
  return step(references.reduce((sum, one) => sum + one, bare), hidden) / step(bare, hidden);
}

/**
 * Bytes that a step takes beside the weights.
 * @param {Size} size
 * @param {number[]} references tokens of each
 * @param {Model} model
 */
export function memory(size, references, { hidden, text }) {
  const all = references.reduce((sum, one) => sum + one, text + tokensOf(size));
  return Math.floor(HELD * all * hidden * (hidden >= 3072 ? 2 : 4));
}

/**
 * How many times the trained area a size has, if that is far above it; else 0.
 * @param {Size} size
 * @param {Size[]} sizes
 */
export function beyond(size, sizes) {
  const times = area(size) / area(nearest(size, sizes));
  return times > ROOM ? times : 0;
}
