// @ts-check
// Says which MODEL gets what a node has written into a CONDITIONING, and whether ComfyUI's own nodes
// have loaded it.

import { isOn, places, source } from "./chain.js";
import { whole } from "./watch.js";

/** @typedef {import("./chain.js").Place} Place */

const OURS = "KontextLoadModel";
// It says itself what a MODEL can't do.
const SPEAKS = "KontextSampler";

/**
 * Where the inputs of one type come from.
 * @param {Place} place
 * @param {string} type
 */
function sources(place, type) {
  return (place.node.inputs ?? []).flatMap((/** @type {any} */ input, /** @type {number} */ slot) => {
    const from = input.type === type ? source(place, slot) : undefined;
    return from ? [from] : [];
  });
}

/**
 * Whether a node's inputs of a type lead back to another node.
 * @param {Place} from
 * @param {any} node
 * @param {string} type
 * @param {Set<any>} seen
 * @returns {boolean}
 */
function leads(from, node, type, seen) {
  if (from.node === node) return true;
  if (seen.has(from.node)) return false;
  seen.add(from.node);
  return sources(from, type).some((/** @type {Place} */ one) => leads(one, node, type, seen));
}

/**
 * The node that loaded the MODEL of a place, through LoRAs and patches.
 * @param {Place} place
 * @returns {Place | undefined}
 */
function loaderOf(place) {
  /** @type {Place | undefined} */
  let at = place;
  for (let steps = 0; at && steps < 100; steps += 1) {
    const [before] = sources(at, "MODEL");
    if (!before) return at === place ? undefined : at;
    at = before;
  }
  return undefined;
}

/**
 * Titles of the nodes that loaded a MODEL without us and get this node's CONDITIONING.
 * @param {Place} place
 * @returns {string[]}
 */
export function nativeModels(place) {
  const users = places(whole()).filter(
    (one) => one.node !== place.node && one.node.type !== SPEAKS && isOn(one),
  );
  const loaders = users
    .filter((user) => leads(user, place.node, "CONDITIONING", new Set()))
    .map(loaderOf)
    .filter((loader) => loader && loader.node.type !== OURS)
    .map((loader) => String(loader?.node.title));
  return [...new Set(loaders)];
}
