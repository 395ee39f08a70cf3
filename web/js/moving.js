// @ts-check
// Lets a person move an image of the drawn layout, with a pointer or the keyboard.

import { describe, spot } from "./drawing.js";
import { edges, snapped } from "./placing.js";
import { say } from "./words.js";

/**
 * @typedef {import("./drawing.js").Placed} Placed
 * @typedef {import("./drawing.js").Geometry} Geometry
 * @typedef {import("./placing.js").Position} Position
 */

/**
 * What becomes of a move: told while it lasts, and done at its end; release gives the place back to
 * the method.
 * @typedef {{busy: (busy: boolean) => void, tell: (text: string) => void,
 *   move: (index: number, to: Position) => void, release: (index: number) => void}} Act
 */

// Of the drawing's units, within which an edge attracts.
const REACH = 6;
// Limits of the widgets t, dh and dw.
const TIMES = 64;
const TOKENS = 1024;
/** @type {Record<string, Position>} */
const KEYS = {
  ArrowUp: [0, -1, 0],
  ArrowDown: [0, 1, 0],
  ArrowLeft: [0, 0, -1],
  ArrowRight: [0, 0, 1],
  PageUp: [1, 0, 0],
  PageDown: [-1, 0, 0],
};

/**
 * @param {Position} position
 * @returns {Position}
 */
function within([t, h, w]) {
  const kept = (/** @type {number} */ one, /** @type {number} */ most) =>
    Math.min(Math.max(one, -most), most);
  return [kept(t, TIMES), kept(h, TOKENS), kept(w, TOKENS)];
}

/**
 * First places and lengths of the other images, along rows and columns.
 * @param {Placed} placed
 * @param {Placed[]} layout
 * @returns {{rows: [number, number][], columns: [number, number][]}}
 */
function around(placed, layout) {
  const others = layout.filter(({ index }) => index !== placed.index);
  return {
    rows: others.map(({ h, rows }) => [h, rows]),
    columns: others.map(({ w, columns }) => [w, columns]),
  };
}

/**
 * Where a pointer is in the drawing.
 * @param {SVGSVGElement} svg
 * @param {PointerEvent} event
 */
function pointIn(svg, event) {
  const turned = svg.getScreenCTM()?.inverse();
  return new DOMPoint(event.clientX, event.clientY).matrixTransform(turned ?? undefined);
}

/**
 * The place of an image that was taken at one point and is held at another.
 * @param {Placed} placed
 * @param {Placed[]} layout
 * @param {Geometry} geometry
 * @param {DOMPoint} from
 * @param {DOMPoint} to
 * @returns {Position}
 */
function held(placed, layout, geometry, from, to) {
  const { times, left, top, scale, step, x0, y0 } = geometry;
  const was = spot(geometry, [placed.t, placed.h, placed.w]);
  const column = Math.min(Math.max(Math.floor((to.x - x0 / 2) / step), 0), times.length - 1);
  const h = (was.y + to.y - from.y - y0) / scale + top;
  const w = (was.x + to.x - from.x - x0 - column * step) / scale + left;
  const { rows, columns } = around(placed, layout);
  const reach = Math.min(REACH / scale, 4);
  return within([
    times[column],
    snapped(h, placed.rows, rows, reach),
    snapped(w, placed.columns, columns, reach),
  ]);
}

/**
 * The place that a key leads to; undefined for other keys.
 * @param {KeyboardEvent} event
 * @param {Placed} placed
 * @param {Placed[]} layout
 * @returns {Position | undefined}
 */
function stepped(event, placed, layout) {
  const by = KEYS[event.key];
  if (!by || event.ctrlKey || event.metaKey || event.altKey) return undefined;
  const to = [placed.t + by[0], placed.h + by[1], placed.w + by[2]];
  if (event.shiftKey && !by[0]) {
    // To the next edge.
    const { rows, columns } = around(placed, layout);
    const axis = by[1] ? 1 : 2;
    const found = by[1] ? edges(placed.rows, rows) : edges(placed.columns, columns);
    const at = by[1] ? placed.h : placed.w;
    const ahead = found.filter((one) => (one - at) * by[axis] > 0);
    if (ahead.length) to[axis] = by[axis] > 0 ? Math.min(...ahead) : Math.max(...ahead);
  }
  return within(/** @type {Position} */ (to));
}

/**
 * @param {SVGSVGElement} svg
 * @param {Geometry} geometry
 * @param {Placed[]} layout
 * @param {Placed} placed
 * @param {Act} act
 */
export function makeMovable(svg, geometry, layout, placed, act) {
  const group = /** @type {SVGGElement} */ (svg.querySelector(`[data-index="${placed.index}"]`));
  group.setAttribute("tabindex", "0");
  group.setAttribute("role", "button");
  group.setAttribute("aria-description", say("layout_keys"));
  group.querySelector("title")?.append(`\n${say("layout_keys")}`);
  group.style.cssText = "cursor:grab;touch-action:none";

  group.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    // The editor would move the node.
    event.preventDefault();
    event.stopPropagation();
    group.focus();
    group.setPointerCapture(event.pointerId);
    act.busy(true);
    const from = pointIn(svg, event);
    /** @type {Position} */
    const before = [placed.t, placed.h, placed.w];
    let now = before;
    const move = (/** @type {PointerEvent} */ moved) => {
      moved.stopPropagation();
      now = held(placed, layout, geometry, from, pointIn(svg, moved));
      const [was, is] = [spot(geometry, before), spot(geometry, now)];
      group.setAttribute("transform", `translate(${is.x - was.x} ${is.y - was.y})`);
      act.tell(describe({ ...placed, t: now[0], h: now[1], w: now[2] }));
    };
    const end = (/** @type {PointerEvent} */ ended) => {
      group.removeEventListener("pointermove", move);
      group.removeEventListener("pointerup", end);
      group.removeEventListener("pointercancel", end);
      group.removeAttribute("transform");
      act.busy(false);
      const same = now.every((value, axis) => value === before[axis]);
      if (ended.type === "pointerup" && !same) act.move(placed.index, now);
    };
    group.addEventListener("pointermove", move);
    group.addEventListener("pointerup", end);
    group.addEventListener("pointercancel", end);
  });

  group.addEventListener("keydown", (event) => {
    const back = event.key === "Delete" || event.key === "Backspace";
    const to = stepped(event, placed, layout);
    if (!back && !to) return;
    // The editor would delete the node, or scroll.
    event.preventDefault();
    event.stopPropagation();
    if (to) act.move(placed.index, to);
    else act.release(placed.index);
  });
}
