// @ts-check
// Where references stand: the figures of kontext_core/stitcher.py and overlap.py once more, which
// tests/web/test_placing.py holds together, and the edges that a dragged one snaps to. In tokens.

/** @typedef {[number, number, number]} Position t, h and w of an image's first token */

/** @typedef {{h: number, w: number, rows: number, columns: number}} Box */

/**
 * First-token position of each reference.
 * @param {[number, number][]} sizes rows and columns of each reference's latent, in cells of 8 pixels
 * @param {string} method
 * @param {[number, number]} target rows and columns in tokens
 * @param {(Position | undefined | null)[]} explicit positions of their own, which take no place
 * @returns {Position[]}
 */
export function place(sizes, method, target, explicit) {
  let h = 0;
  let w = 0;
  let index = 0;
  return sizes.map(([rows, columns], number) => {
    const own = explicit[number];
    if (own) return own;
    index += 1;
    let [t, down, right] = [1, 0, 0];
    if (method === "offset") {
      if (rows + h > columns + w) right = w;
      else down = h;
      h = Math.max(h, rows + down);
      w = Math.max(w, columns + right);
    } else if (method === "uxo") {
      [t, down, right] = [0, target[0] * 2 + h, target[1] * 2 + w];
      h += rows;
      w += columns;
    } else {
      t = index;
    }
    return [t, Math.floor((down + 1) / 2), Math.floor((right + 1) / 2)];
  });
}

/**
 * Pairs of images that share places, with how many.
 * @template {Box & {t: number, index: number}} T
 * @param {T[]} layout
 * @returns {[number, number, number][]}
 */
export function overlaps(layout) {
  return layout.flatMap((a, number) =>
    layout.slice(number + 1).flatMap((b) => {
      const rows = Math.min(a.h + a.rows, b.h + b.rows) - Math.max(a.h, b.h);
      const columns = Math.min(a.w + a.columns, b.w + b.columns) - Math.max(a.w, b.w);
      const meet = a.t === b.t && rows > 0 && columns > 0;
      return meet ? [/** @type {[number, number, number]} */ ([a.index, b.index, rows * columns])] : [];
    }),
  );
}

/**
 * Places along one axis at which an image's edge meets an edge of another one.
 * @param {number} own its length
 * @param {[number, number][]} others first place and length of each
 */
export function edges(own, others) {
  const all = others.flatMap(([at, length]) => [
    at, at + length, at - own, at + length - own,
  ]);
  return [...new Set(all)].sort((a, b) => a - b);
}

/**
 * A place as it is dropped: on the nearest edge within reach, else on a whole token.
 * @param {number} at
 * @param {number} own
 * @param {[number, number][]} others
 * @param {number} reach
 */
export function snapped(at, own, others, reach) {
  const off = (/** @type {number} */ edge) => Math.abs(edge - at);
  const [nearest] = edges(own, others).sort((a, b) => off(a) - off(b));
  return nearest !== undefined && off(nearest) <= reach ? nearest : Math.round(at);
}
