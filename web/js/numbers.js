// @ts-check
// Writes into the title of each Kontext: Reference which image of the instruction it is, and of each
// Kontext: References which ones, from the chain as it is wired now. What a person has called a node stays, and is what is saved.

import { app } from "../../../scripts/app.js";
import { chainOf, hasPicture, isOn, picturesOf, source } from "./chain.js";
import { watch } from "./watch.js";
import { say } from "./words.js";

/** @typedef {import("./chain.js").Place} Place */

const ONE = "KontextReference";
const TYPES = [ONE, "KontextReferences"];
const BETWEEN = " · ";
// Titles of earlier templates, which the wiring of a graph has made false.
const FIXED = /^Reference: image \d+$/;

/**
 * What one node is in one run: a number, or why it has none.
 * @param {Place} place
 */
function standing(place) {
  if (!isOn(place)) return "";
  const one = place.node.type === ONE;
  const own = one ? Number(hasPicture(place)) : picturesOf(place).length;
  if (!own) return say("no_picture");
  const before = chainOf(source(place, "references"));
  if (!before) return `${say("image")} ?`;
  const first = before.length + 1;
  return `${say("image")} ${own === 1 ? first : `${first}–${first + own - 1}`}`;
}

/** @param {any} node */
function given(node) {
  const title = String(node.title ?? "");
  const shown = node.kontextStanding;
  const bare = shown && title.endsWith(shown) ? title.slice(0, -shown.length) : title;
  return FIXED.test(bare) ? node.constructor.title : bare;
}

/**
 * @param {any} node
 * @param {string} standing
 */
function show(node, standing) {
  const bare = given(node);
  const shown = standing && BETWEEN + standing;
  node.kontextStanding = shown;
  if (node.title === bare + shown) return;
  node.title = bare + shown;
  node.graph?.setDirtyCanvas?.(true, true);
}

watch((all) => {
  /** @type {Map<any, Set<string>>} */
  const standings = new Map();
  for (const place of all.filter(({ node }) => TYPES.includes(node.type))) {
    const found = standings.get(place.node) ?? new Set();
    standings.set(place.node, found.add(standing(place)));
  }
  // A node inside of a subgraph that is used twice is two images.
  for (const [node, found] of standings) show(node, [...found].filter(Boolean).join(" / "));
});

app.registerExtension({
  name: "kontext.numbers",
  async beforeRegisterNodeDef(nodeType, nodeData) {
    if (!TYPES.includes(nodeData.name)) return;
    const serialized = nodeType.prototype.onSerialize;
    nodeType.prototype.onSerialize = function (data) {
      serialized?.apply(this, arguments);
      const bare = given(this);
      if (bare === this.constructor.title) delete data.title;
      else data.title = bare;
    };
  },
});
