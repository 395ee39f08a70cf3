// @ts-check
// Says on Kontext: Stitch and Kontext: Edit, before any run, which size comes out, how many tokens a
// step has and what it costs; anew whenever the graph changes.

import { app } from "../../../scripts/app.js";
import { source } from "./chain.js";
import { alone, beyond, memory, relative, tokensOf } from "./cost.js";
import { outcome, planOfEdit, planOfStitch } from "./plan.js";
import { mount, watch } from "./watch.js";
import { say } from "./words.js";

/**
 * @typedef {import("./chain.js").Place} Place
 * @typedef {import("./cost.js").Size} Size
 * @typedef {import("./plan.js").Plan} Plan
 */

const HEIGHT = 58;

/** @param {Size} size */
const written = ([width, height]) => `${width} x ${height}`;

/** @param {number} count */
function bytes(count) {
  return count < 1e9 ? `${Math.ceil(count / 1e6)} MB` : `${(count / 1e9).toFixed(1)} GB`;
}

/**
 * @param {Plan | undefined} plan
 * @returns {string[]} the plan's line, then warnings
 */
function lines(plan) {
  if (!plan) return [say("size_unknown")];
  const { size, references, model } = plan;
  const seen = references.map(tokensOf);
  const parts = [tokensOf(size), ...seen].join(" + ");
  const cost = relative(size, seen, model).toFixed(1);
  const out = outcome(plan) ?? size;
  const painted = String(out) === String(size) ? written(size) : `${written(size)} → ${written(out)}`;
  const price = [`${cost} x ${say("plain_edit")}`];
  if (seen.length) price.push(`${alone(size, seen, model).toFixed(1)} x ${say("no_references")}`);
  price.push(`${bytes(memory(size, seen, model))} ${say("beside_weights")}`);
  const first = `${painted} · ${parts} ${say("tokens")} · ${price.join(" · ")}`;
  // By the numbers that the instruction uses: those of strength 0 keep theirs.
  const all = plan.seen ?? references.map((one) => ({ size: one, strength: 1 }));
  const large = all.map((one) => (one.strength === 0 ? 0 : beyond(one.size, model.sizes)));
  const warnings = [beyond(size, model.sizes), ...large].flatMap((times, index) => {
    if (!times) return [];
    const name = index ? `${say("image")} ${index}` : say("target");
    return [`${name}: ${times.toFixed(1)} x ${say("trained_area")}`];
  });
  return [first, ...warnings];
}

/**
 * Pictures of Kontext: Edit whose input has another number than the instruction has to use.
 * @param {Place} place
 */
function moved(place) {
  const there = [1, 2, 3].filter((number) => source(place, `image${number}`));
  return there.flatMap((number, index) =>
    number === index + 1 ? [] : [`image${number} → ${say("image")} ${index + 1}`],
  );
}

/** @param {any} node */
function place(node) {
  const view = document.createElement("div");
  view.className = "kontext-size";
  view.style.cssText =
    `width:100%;min-height:${HEIGHT}px;box-sizing:border-box;overflow:auto;padding:2px 6px;` +
    "white-space:pre-wrap;font:11px sans-serif;color:#9aa0aa;user-select:text";
  const widget = node.addDOMWidget("size", "kontext_size", view, {
    serialize: false,
    // The canvas takes a margin of 10 at both ends.
    getMinHeight: () => HEIGHT + 20,
  });
  // Only a view: neither saved with the workflow nor sent with the prompt.
  widget.serialize = false;
  node.kontextSize = view;
}

const PLANS = { KontextStitch: planOfStitch, KontextEdit: planOfEdit };

watch((all) => {
  const seen = new Set();
  for (const one of all) {
    const plan = PLANS[/** @type {keyof typeof PLANS} */ (one.node.type)];
    const view = one.node.kontextSize;
    if (!plan || !view || seen.has(one.node)) continue;
    seen.add(one.node);
    mount(one.node, view);
    const said = lines(plan(one));
    if (one.node.type === "KontextEdit") said.push(...moved(one));
    const text = said.join("\n");
    if (view.textContent === text) continue;
    const [first, ...warnings] = said;
    const warning = document.createElement("div");
    warning.style.color = "#e3b341";
    warning.textContent = warnings.join("\n");
    view.replaceChildren(`${first}${warnings.length ? "\n" : ""}`, warning);
  }
});

app.registerExtension({
  name: "kontext.size",
  async beforeRegisterNodeDef(nodeType, nodeData) {
    if (!(nodeData.name in PLANS)) return;
    const created = nodeType.prototype.onNodeCreated;
    nodeType.prototype.onNodeCreated = function (...args) {
      const result = created?.apply(this, args);
      place(this);
      return result;
    };
  },
});
