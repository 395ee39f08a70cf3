// @ts-check
// Nodes with many sockets of a kind show as many as are wired, and one more. The sockets are plain
// optional inputs of fixed names, so that prompts, older editors and hosts without growing sockets know
// them all.

import { app } from "../../../scripts/app.js";
import { watch } from "./watch.js";

/**
 * Sockets that come in groups, by node: names without their number, and types; how many there may be.
 * @type {Record<string, {most: number, group: [string, string][]}>}
 */
const GROWING = {
  KontextReferences: { most: 8, group: [["image_", "IMAGE"]] },
  KontextArrange: { most: 8, group: [["image_", "IMAGE"], ["mask_", "MASK"]] },
};
// Two from the start: one alone would not show that there are several.
const FEWEST = 2;
// A hollow circle, for an optional input.
const OPTIONAL = 7;

/**
 * @param {any} node
 * @param {string} name
 */
function slotOf(node, name) {
  return node.inputs.findIndex((/** @type {any} */ one) => one.name === name);
}

// What the editor calls a socket in its language, kept when the socket is taken away.
/** @type {Map<string, string | undefined>} */
const called = new Map();

/** Whether a person holds the end of a link. */
function isWiring() {
  const connector = app.canvas?.linkConnector;
  return !!(connector?.isConnecting || app.canvas?.connecting_links?.length);
}

/**
 * @param {any} node
 * @param {boolean} [isNew] nobody has given it a size yet
 */
function fit(node, isNew = false) {
  const growing = GROWING[node.type ?? node.comfyClass];
  if (!growing || !node.inputs) return;
  const { most, group } = growing;
  const isWired = (/** @type {number} */ number) =>
    group.some(([name]) => node.inputs[slotOf(node, name + number)]?.link != null);
  let last = most;
  while (last > 0 && !isWired(last)) last -= 1;
  const wanted = Math.min(most, Math.max(FEWEST, last + 1));
  let changed = false;
  for (let number = 1; number <= most; number += 1) {
    for (const [name, type] of group) {
      const slot = slotOf(node, name + number);
      if (number <= wanted && slot < 0) {
        const shown = called.get(name + number);
        node.addInput(name + number, type, { shape: OPTIONAL, ...(shown && { localized_name: shown }) });
        changed = true;
      } else if (number > wanted && slot >= 0) {
        called.set(name + number, node.inputs[slot].localized_name);
        node.removeInput(slot);
        changed = true;
      }
    }
  }
  if (!changed) return;
  const [width, height] = node.size;
  const least = node.computeSize();
  if (isNew || least[1] > height) node.setSize([Math.max(width, least[0]), least[1]]);
  node.graph?.setDirtyCanvas?.(true, true);
}

watch((all) => {
  if (isWiring()) return;
  for (const node of new Set(all.map((one) => one.node))) fit(node);
});

app.registerExtension({
  name: "kontext.growing",
  nodeCreated(node) {
    fit(node, true);
  },
  loadedGraphNode(node) {
    fit(node);
  },
});
