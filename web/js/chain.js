// @ts-check
// Follows a graph's links as the editor does when it makes a prompt: through reroutes and other nodes
// that exist in the editor alone, bypassed nodes and subgraphs; a muted node ends them.

export const MUTED = 2;
export const BYPASSED = 4;
// What the links of a subgraph name as its own inputs; text on some frontends.
const SUBGRAPH_INPUT = -10;
// Deeper than any graph; a circle ends here.
const DEPTH = 500;

/**
 * A node, and the subgraph nodes around it, outermost first.
 * @typedef {{node: any, path: any[]}} Place
 * @typedef {Place & {slot: number}} Source an output of a node
 */

/**
 * Every node, those inside of subgraphs once for each subgraph node that leads to them.
 * @param {any} graph
 * @param {any[]} [path]
 * @returns {Place[]}
 */
export function places(graph, path = []) {
  return (graph?._nodes ?? []).flatMap((/** @type {any} */ node) =>
    node.subgraph && path.length < DEPTH
      ? [{ node, path }, ...places(node.subgraph, [...path, node])]
      : [{ node, path }],
  );
}

/**
 * The id under which a prompt and the server know a node: "4", and "7:4" inside of subgraph node 7.
 * @param {Place} place
 */
export function idOf({ node, path }) {
  return [...path, node].map((one) => one.id).join(":");
}

/**
 * Whether a node takes part in a run: neither it nor a subgraph around it is switched off.
 * @param {Place} place
 */
export function isOn({ node, path }) {
  return [...path, node].every((one) => one.mode !== MUTED && one.mode !== BYPASSED);
}

/**
 * The output that an input gets its value from, undefined without one.
 * @param {Place} place
 * @param {string | number} input name or index
 * @param {number} [depth]
 * @returns {Source | undefined}
 */
export function source({ node, path }, input, depth = 0) {
  const slot =
    typeof input === "number"
      ? input
      : (node.inputs ?? []).findIndex((/** @type {any} */ one) => one.name === input);
  // Subgraph nodes and virtual ones answer this with what stands behind an output instead.
  const plain = globalThis.LiteGraph?.LGraphNode?.prototype.getInputLink ?? node.getInputLink;
  const link = slot < 0 ? null : plain.call(node, slot);
  return follow(link, node.graph, path, depth + 1);
}

/**
 * @param {any} link
 * @param {any} graph
 * @param {any[]} path
 * @param {number} depth
 * @returns {Source | undefined}
 */
function follow(link, graph, path, depth) {
  if (!link || depth > DEPTH) return undefined;
  if (Number(link.origin_id) === SUBGRAPH_INPUT) {
    const around = path.at(-1);
    if (!around) return undefined;
    const name = graph.inputs?.[link.origin_slot]?.name;
    const outer = { node: around, path: path.slice(0, -1) };
    return source(outer, name ?? link.origin_slot, depth);
  }
  const node = graph.getNodeById(link.origin_id);
  return node ? output({ node, path, slot: link.origin_slot }, depth) : undefined;
}

/**
 * @param {Source} from
 * @param {number} depth
 * @returns {Source | undefined}
 */
function output({ node, path, slot }, depth) {
  if (node.mode === MUTED) return undefined;
  if (node.mode === BYPASSED) {
    const input = passed(node, slot);
    return input < 0 ? undefined : source({ node, path }, input, depth);
  }
  if (node.subgraph) {
    const id = node.subgraph.outputs?.[slot]?.linkIds?.[0];
    const link = id === undefined ? null : node.subgraph.getLink(id);
    return follow(link, node.subgraph, [...path, node], depth + 1);
  }
  // Reroutes, and pairs that set and get: they know what stands for their output.
  if (node.isVirtualNode) return follow(node.getInputLink?.(slot), node.graph, path, depth + 1);
  return { node, path, slot };
}

/**
 * The input that a bypassed node hands on at an output: the one opposite if its type fits, else the
 * first of the same type; -1 without one.
 * @param {any} node
 * @param {number} slot
 */
function passed(node, slot) {
  const inputs = node.inputs ?? [];
  const type = node.outputs?.[slot]?.type;
  const fits = (/** @type {any} */ input) =>
    input && (input.type === type || input.type === "*" || type === "*");
  if (fits(inputs[slot])) return slot;
  const same = inputs.findIndex((/** @type {any} */ input) => input.type === type);
  return same >= 0 ? same : inputs.findIndex(fits);
}

/**
 * Whether a Kontext: Reference gets something to look at; without it is left out.
 * @param {Place} place
 */
export function hasPicture(place) {
  return !!(source(place, "image") ?? source(place, "latent"));
}

// Sockets for pictures of a Kontext: References.
const MOST = 8;

/**
 * A picture of a chain: its node, and which of the node's pictures it is, where that has several.
 * @typedef {Source & {picture?: number}} Link
 */

/**
 * The numbers of the pictures that a Kontext: References gets.
 * @param {Place} place
 */
export function picturesOf(place) {
  const numbers = Array.from({ length: MOST }, (_, index) => index + 1);
  return numbers.filter((number) => source(place, `image_${number}`));
}

/**
 * The references of a chain in the order in which an instruction numbers them; null when something
 * that is not ours stands in it and may add any number.
 * @param {Source | undefined} end
 * @returns {Link[] | null}
 */
export function chainOf(end) {
  /** @type {Link[]} */
  const chain = [];
  for (let at = end; at && chain.length < DEPTH; at = source(at, "references")) {
    const from = at;
    if (at.node.type === "KontextReferences") {
      chain.unshift(...picturesOf(at).map((picture) => ({ ...from, picture })));
    } else if (at.node.type !== "KontextReference") return null;
    else if (hasPicture(at)) chain.unshift(at);
  }
  return chain;
}

/** Widgets that change a picture and not what it is made of. */
const SEEDS = ["seed", "noise_seed", "control_after_generate"];

/**
 * Everything a value is made from, as text: the same for the same, whatever the ids of the nodes.
 * @param {Source | undefined} from
 * @param {number} [depth]
 * @returns {string}
 */
export function trace(from, depth = 0) {
  if (!from || depth > DEPTH) return "-";
  const inputs = (from.node.inputs ?? []).map((/** @type {any} */ input) => input.name);
  return `${from.node.type}.${from.slot}(${parts(from, inputs, depth)})`;
}

/**
 * Widgets and named inputs of a node, as `trace` writes them.
 * @param {Place} place
 * @param {string[]} inputs
 * @param {number} [depth]
 */
export function parts(place, inputs, depth = 0) {
  const linked = inputs.flatMap((name) => {
    const from = source(place, name);
    return from ? [[name, trace(from, depth + 1)]] : [];
  });
  const given = new Set(linked.map(([name]) => name));
  const values = (place.node.widgets ?? [])
    .filter((/** @type {any} */ widget) => widget.serialize !== false && widget.type !== "button")
    .filter((/** @type {any} */ widget) => !SEEDS.includes(widget.name) && !given.has(widget.name))
    .map((/** @type {any} */ widget) => [widget.name, JSON.stringify(widget.value) ?? ""]);
  return [...linked, ...values].map(([name, text]) => `${name}=${text}`).join(",");
}
