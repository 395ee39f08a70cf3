// @ts-check
// Shows in a Kontext: Stitch node where the target and its references stand, as the graph is now and
// before any run; a reference can be moved there. Where only a run can tell the sizes, the last run's
// layout is shown, in grey once the graph is no longer the one that it was drawn for.

import { app } from "../../../scripts/app.js";
import { parts, places, source } from "./chain.js";
import { HEIGHT, describe, draw } from "./drawing.js";
import { nativeModels } from "./models.js";
import { makeMovable } from "./moving.js";
import { overlaps, place } from "./placing.js";
import { planOfStitch, value } from "./plan.js";
import { look, mount, reportOf, watch, whole } from "./watch.js";
import { say } from "./words.js";

/**
 * @typedef {import("./chain.js").Place} Place
 * @typedef {import("./drawing.js").Placed} Placed
 * @typedef {import("./placing.js").Position} Position
 * @typedef {import("./plan.js").Plan} Plan
 * @typedef {import("./plan.js").Seen} Seen
 */

const TYPE = "KontextStitch";
const TOKEN = 16;

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
 * What the graph will be laid out as, before any run.
 * @param {Plan} plan
 * @param {string} method
 * @param {(Position | undefined)[]} [own] places of their own, those of the graph if left out
 * @returns {Placed[]}
 */
function laidOut({ size, seen = [] }, method, own = seen.map(({ position }) => position)) {
  const cells = (/** @type {number} */ pixels) => Math.ceil(pixels / 8);
  const tokens = (/** @type {number} */ pixels) => Math.ceil(pixels / TOKEN);
  const whole = { strength: 1, start: 0, end: 1 };
  const [columns, rows] = size.map(tokens);
  const target = { index: 0, t: 0, h: 0, w: 0, rows, columns, tokens: rows * columns, ...whole };
  const sizes = seen.map((one) => /** @type {[number, number]} */ ([cells(one.size[1]), cells(one.size[0])]));
  const at = place(sizes, method, [rows, columns], own);
  const placed = seen.map(({ size, strength, start, end, name, masked, picture }, number) => {
    const [across, down] = size.map(tokens);
    const [t, h, w] = at[number];
    const count = masked ? undefined : across * down;
    const box = { t, h, w, rows: down, columns: across, tokens: count };
    return { index: number + 1, ...box, strength, start, end, name, picture };
  });
  return [target, ...placed.filter(({ strength }) => strength !== 0)];
}

/** Widgets that say where a picture of a Kontext: Reference, or of a Kontext: References, stands. */
const PLACING = ["placement", "t", "dh", "dw"];
const LINES = "positions";

/**
 * @param {Place} reference
 * @param {Record<string, unknown>} values
 */
function write({ node }, values) {
  for (const widget of node.widgets ?? []) {
    if (!(widget.name in values)) continue;
    widget.value = values[widget.name];
    widget.callback?.(widget.value);
  }
}

/**
 * Gives a picture a place of its own, or gives it back to the method.
 * @param {import("./chain.js").Link} one
 * @param {Position} [at]
 */
function settle(one, at) {
  if (!one.picture) {
    const [t, dh, dw] = at ?? [];
    write(one, at ? { placement: "explicit", t, dh, dw } : { placement: "auto" });
    return;
  }
  const lines = String(value(one, LINES) ?? "").split("\n");
  while (lines.length < one.picture) lines.push("");
  lines[one.picture - 1] = at ? at.join(", ") : "";
  write(one, { [LINES]: lines.join("\n").trimEnd() });
}

/**
 * Writes a change of places into the graph, as one step to undo.
 * @param {any} view
 * @param {() => void} change
 */
function changed(view, change) {
  const graph = whole();
  graph.beforeChange?.();
  change();
  graph.afterChange?.();
  app.canvas?.setDirty?.(true, true);
  const tracker = app.extensionManager?.workflow?.activeWorkflow?.changeTracker;
  (tracker?.captureCanvasState ?? tracker?.checkState)?.call(tracker);
  view.kontextLook();
}

/**
 * @param {any} view
 * @param {Plan} plan
 * @param {string} method
 * @returns {import("./moving.js").Act}
 */
function acts(view, plan, method) {
  const seen = plan.seen ?? [];
  const before = laidOut(plan, method);
  const of = (/** @type {number} */ index) => before.find((one) => one.index === index);
  return {
    busy: (busy) => (view.kontextBusy = busy),
    tell: (text) => (view.kontextSpoken.textContent = text),
    move(index, to) {
      const own = seen.map(({ position }) => position);
      own[index - 1] = to;
      // What the method would now put elsewhere stays where it was: only what is dragged moves.
      for (let moved = true; moved; ) {
        const stray = laidOut(plan, method, own).find(({ index: other, t, h, w }) => {
          const was = of(other);
          return other && !own[other - 1] && was && (was.t !== t || was.h !== h || was.w !== w);
        });
        const was = stray && of(stray.index);
        moved = !!was;
        if (was) own[was.index - 1] = [was.t, was.h, was.w];
      }
      changed(view, () =>
        own.forEach((at, number) => {
          if (at && at !== seen[number].position) settle(seen[number].place, at);
        }),
      );
    },
    release: (index) =>
      changed(view, () => settle(seen[index - 1].place)),
  };
}

/**
 * Whether a person may move it: its place comes from its own widgets.
 * @param {Seen | undefined} one
 */
function isFree(one) {
  return !!one && ![...PLACING, LINES].some((name) => source(one.place, name));
}

/**
 * Draws anew, and leaves the keyboard where it was.
 * @param {any} view
 * @param {Placed[]} layout
 * @param {Plan | undefined} plan
 * @param {string} method
 */
function redraw(view, layout, plan, method) {
  const focused = view.contains(document.activeElement) && document.activeElement?.getAttribute("data-index");
  const { svg, geometry } = draw(layout);
  view.kontextPicture.replaceChildren(svg);
  const act = plan && acts(view, plan, method);
  for (const placed of layout) {
    const free = placed.index && isFree(plan?.seen?.[placed.index - 1]);
    if (act && free) makeMovable(svg, geometry, layout, placed, act);
  }
  if (!focused) return;
  svg.querySelector(`[data-index="${focused}"]`)?.focus();
  const now = layout.find(({ index }) => String(index) === focused);
  if (now) view.kontextSpoken.textContent = describe(now);
}

/** @param {number} index */
function called(index) {
  return index ? `${say("image")} ${index}` : say("target");
}

/**
 * @param {any} view
 * @param {any} given the last run's report, if anybody still has it
 * @param {Place} place
 */
function show(view, given, place) {
  if (view.kontextBusy) return;
  // The server forgets; what was shown stays.
  const report = given ?? view.kontextReport;
  view.kontextReport = report;
  const found = report?.kontext_layout;
  const reported = Array.isArray(found) && found.length ? lastOf(found) : undefined;
  const made = report?.kontext_made?.at(-1);
  const isOld = made !== undefined && made !== signature(place);
  const plan = planOfStitch(place);
  const method = String(value(place, "method"));
  const planned = plan && laidOut(plan, method);
  // A run knows more, as what a mask leaves; but only of the graph that it ran.
  const known = reported && made !== undefined && !isOld;
  const layout = known ? reported : planned?.length ? planned : reported;
  if (!layout) {
    if (view.kontextKey) view.kontextPicture.textContent = say("layout_empty");
    view.kontextKey = "";
    return;
  }
  const isGrey = !known && !planned && isOld;
  const key = JSON.stringify([layout, plan && planned, plan?.seen?.map(isFree)]);
  if (view.kontextKey !== key) {
    view.kontextKey = key;
    redraw(view, layout, plan, method);
  }
  const leftOut = report?.kontext_native_leaves_out ?? [];
  const native = leftOut.length && !isOld ? nativeModels(place) : [];
  view.kontextPicture.style.filter = isGrey ? "grayscale(1) opacity(0.45)" : "";
  const lines = [];
  if (isGrey) lines.push(say("layout_changed"));
  for (const [one, other, tokens] of overlaps(layout)) {
    lines.push(`${called(one)} + ${called(other)}: ${tokens} ${say("overlap")}`);
  }
  if (native.length) {
    lines.push(`${native.join(", ")}: ${say("native_leaves_out")} ${leftOut.join("; ")}`);
  }
  const text = lines.join("\n");
  if (view.kontextWords.textContent !== text) view.kontextWords.textContent = text;
  view.classList.toggle("kontext-changed", isGrey);
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
        words.setAttribute("role", "status");
        words.style.cssText =
          "position:absolute;left:0;right:0;bottom:0;text-align:center;color:#e3b341;" +
          "text-shadow:0 0 3px #000,0 0 3px #000;user-select:text";
        const spoken = document.createElement("div");
        spoken.setAttribute("aria-live", "polite");
        spoken.style.cssText =
          "position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)";
        view.append(picture, words, spoken);
        const parts = { kontextPicture: picture, kontextWords: words, kontextSpoken: spoken };
        Object.assign(view, parts, { kontextLook: look });
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
