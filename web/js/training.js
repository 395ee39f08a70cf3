// @ts-check
// The panel of Kontext: Train LoRA: how far it is, the curve of its loss, and what the LoRA paints by now.
// Live while it runs, by a message of nodes/training.py's own; afterwards from the node's report.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { idOf } from "./chain.js";
import { mount, reportOf, watch } from "./watch.js";
import { say } from "./words.js";

/**
 * As nodes/training.py sends it; `curve` holds [step, mean loss].
 * @typedef {{node?: string, state: string, step: number, steps: number, curve: [number, number][],
 *   rows: {step: number, pictures: string[]}[]}} Training
 */

const NODE = "KontextTrainLora";
const EVENT = "kontext.training";
const HEIGHT = 210;
const WIDE = 320;
const TALL = 90;
const SVG = "http://www.w3.org/2000/svg";

/** What the server said last of a node that runs, by the node's id. @type {Map<string, Training>} */
const live = new Map();

/**
 * A curve that is easier to read than its noise: an exponential mean over a tenth of the points.
 * @param {[number, number][]} curve
 * @returns {[number, number][]}
 */
export function smoothed(curve) {
  const share = 1 / Math.max(1, curve.length / 10);
  let mean = curve[0]?.[1] ?? 0;
  return curve.map(([step, loss]) => {
    mean += share * (loss - mean);
    return [step, mean];
  });
}

/**
 * Points of a polyline in a box of WIDE x TALL.
 * @param {[number, number][]} curve
 * @param {number} steps of the whole run
 * @param {number} most the largest loss that is drawn
 */
export function line(curve, steps, most) {
  return curve
    .map(([step, loss]) => {
      const x = (step / Math.max(1, steps)) * WIDE;
      const y = TALL - (Math.min(loss, most) / (most || 1)) * (TALL - 4) - 2;
      return `${x.toFixed(1)},${y.toFixed(1)}`;
    })
    .join(" ");
}

/** @param {Training} training */
export function describe(training) {
  const { state, step, steps, curve } = training;
  const loss = smoothed(curve).at(-1)?.[1];
  let said = say("train_running");
  if (state === "stopped") said = say("train_stopped");
  if (state === "done") said = say("train_done");
  const lost = loss === undefined ? "" : `, ${say("train_loss")} ${loss.toPrecision(3)}`;
  return `${said}: ${step} / ${steps} ${say("steps")}${lost}`;
}

/**
 * @param {[number, number][]} curve
 * @param {string} colour
 * @param {number} steps
 * @param {number} most
 */
function drawn(curve, colour, steps, most) {
  const made = document.createElementNS(SVG, "polyline");
  made.setAttribute("points", line(curve, steps, most));
  made.setAttribute("fill", "none");
  made.setAttribute("stroke", colour);
  made.setAttribute("stroke-width", "1.5");
  made.setAttribute("vector-effect", "non-scaling-stroke");
  return made;
}

/**
 * @param {HTMLElement} view
 * @param {Training} training
 */
function draw(view, training) {
  const text = document.createElement("div");
  text.textContent = describe(training);
  text.setAttribute("role", "status");
  const chart = document.createElementNS(SVG, "svg");
  chart.setAttribute("viewBox", `0 0 ${WIDE} ${TALL}`);
  chart.setAttribute("preserveAspectRatio", "none");
  chart.setAttribute("role", "img");
  chart.setAttribute("aria-label", describe(training));
  chart.style.cssText = `width:100%;height:${TALL}px;flex:none;background:#0003;border-radius:4px`;
  const { curve, steps } = training;
  if (curve.length) {
    // One wild step must not flatten all the others.
    const sorted = curve.map(([, loss]) => loss).sort((a, b) => a - b);
    const most = sorted[Math.floor((sorted.length - 1) * 0.97)] * 1.1;
    chart.append(drawn(curve, "#6b7280", steps, most), drawn(smoothed(curve), "#4a90d9", steps, most));
  }
  const rows = document.createElement("div");
  rows.style.cssText = "display:flex;gap:6px;overflow-x:auto;min-height:0";
  for (const row of [...training.rows].reverse()) {
    const figure = document.createElement("figure");
    figure.style.cssText = "margin:0;display:flex;flex-direction:column;gap:2px;align-items:center";
    const pictures = document.createElement("div");
    pictures.style.cssText = "display:flex;gap:2px";
    for (const [place, source] of row.pictures.entries()) {
      const picture = document.createElement("img");
      picture.alt = `${say("train_sample")} ${place + 1}, ${say("train_step")} ${row.step}`;
      picture.draggable = false;
      picture.style.cssText = "width:64px;height:64px;object-fit:contain;image-rendering:auto";
      if (source.startsWith("data:image/")) picture.src = source;
      pictures.append(picture);
    }
    const caption = document.createElement("figcaption");
    caption.textContent = `${say("train_step")} ${row.step}`;
    figure.append(pictures, caption);
    rows.append(figure);
  }
  view.replaceChildren(text, chart, rows);
}

/** @param {any} node */
function place(node) {
  const view = document.createElement("div");
  view.className = "kontext-training";
  view.setAttribute("role", "group");
  view.setAttribute("aria-label", say("train_panel"));
  view.style.cssText =
    `width:100%;min-height:${HEIGHT}px;box-sizing:border-box;overflow:hidden;padding:4px;` +
    "display:flex;flex-direction:column;gap:4px;font:11px sans-serif;color:#9aa0aa";
  view.textContent = say("train_empty");
  const widget = node.addDOMWidget("training", "kontext_training", view, {
    serialize: false,
    // The canvas takes a margin of 10 at both ends.
    getMinHeight: () => HEIGHT + 20,
  });
  // Only a view: neither saved with the workflow nor sent with the prompt.
  widget.serialize = false;
  node.kontextTraining = view;
}

/**
 * @param {any} node
 * @param {Training | undefined} training
 */
function show(node, training) {
  const view = node.kontextTraining;
  if (!training || view.kontextDrawn === training) return;
  view.kontextDrawn = training;
  draw(view, training);
}

/** A report of the last run: of several, the last. @param {any} report */
function reported(report) {
  return /** @type {Training | undefined} */ (report?.kontext_training?.at?.(-1));
}

watch((all) => {
  const seen = new Set();
  for (const one of all) {
    if (!one.node.kontextTraining || seen.has(one.node)) continue;
    seen.add(one.node);
    mount(one.node, one.node.kontextTraining);
    show(one.node, live.get(idOf(one)) ?? reported(reportOf(one)));
  }
});

api.addEventListener(EVENT, (event) => {
  const training = /** @type {Training} */ (/** @type {CustomEvent} */ (event).detail);
  if (training?.node !== undefined) live.set(String(training.node), training);
});

app.registerExtension({
  name: "kontext.training",
  async beforeRegisterNodeDef(nodeType, nodeData) {
    if (nodeData.name !== NODE) return;
    const created = nodeType.prototype.onNodeCreated;
    nodeType.prototype.onNodeCreated = function (...args) {
      const result = created?.apply(this, args);
      place(this);
      return result;
    };
    const executed = nodeType.prototype.onExecuted;
    nodeType.prototype.onExecuted = function (output) {
      executed?.apply(this, arguments);
      // What it ended with is the report's to tell.
      live.delete(String(this.id));
      if (this.kontextTraining) show(this, reported(output));
    };
  },
});
