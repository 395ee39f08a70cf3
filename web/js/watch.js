// @ts-check
// Looks at the graph a few times a second, so that what a node shows is true however the graph was
// changed; and finds what a node last reported, as long as the server remembers the run.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { idOf, places } from "./chain.js";

/** @typedef {import("./chain.js").Place} Place */

const MILLISECONDS = 300;
const RUNS_LOOKED_AT = 24;
const UNNAMED = "00000000-0000-0000-0000-000000000000";

/** @type {((all: Place[]) => void)[]} */
const watchers = [];

/** The graph that a run would take, whichever subgraph is open. */
export function whole() {
  return app.rootGraph ?? app.graph?.rootGraph ?? app.graph;
}

/**
 * Has every node handed over again and again.
 * @param {(all: Place[]) => void} watcher
 */
export function watch(watcher) {
  watchers.push(watcher);
}

/**
 * Nodes 2.0 go on showing the element of a node that an undo has replaced by one with the same id:
 * puts the new node's element in its place.
 * @param {any} node
 * @param {HTMLElement} view of the node
 */
export function mount(node, view) {
  if (view.isConnected || node.graph !== app.canvas?.graph) return;
  const kind = view.className.split(" ")[0];
  document.querySelector(`[data-node-id="${node.id}"] .${kind}`)?.replaceWith(view);
}

/** Hands every node to the watchers now. */
export function look() {
  const all = places(whole());
  if (!all.some(({ node }) => node.type?.startsWith("Kontext"))) return;
  for (const watcher of watchers) watcher(all);
}

/** Runs that have ended since the page was opened, in whichever way. */
let ended = 0;

/** How many of them had ended when the server was last asked what it remembers. */
let asked = -1;

/**
 * Reports of the runs that the server remembers, newest first.
 * @typedef {{workflow?: string, id: string, type?: string, output: any}} Report
 * @type {Report[]}
 */
let remembered = [];

/** @returns {Promise<Report[]>} */
async function recall() {
  const answer = await api.fetchApi(`/history?max_items=${RUNS_LOOKED_AT}`);
  /** @type {any[]} */
  const runs = Object.values(await answer.json());
  runs.sort((a, b) => (b.prompt?.[0] ?? 0) - (a.prompt?.[0] ?? 0));
  return runs.flatMap((run) => {
    const [, , prompt, extra] = run.prompt ?? [];
    const workflow = extra?.extra_pnginfo?.workflow?.id;
    return Object.entries(run.outputs ?? {})
      .filter(([, output]) => isReport(output))
      .map(([id, output]) => ({ workflow, id, type: prompt?.[id]?.class_type, output }));
  });
}

/** @param {any} output */
function isReport(output) {
  return Object.keys(output ?? {}).some((key) => key.startsWith("kontext_"));
}

/** Asks the server for its reports, once after each run. */
function remember() {
  if (asked === ended) return;
  asked = ended;
  recall().then(
    (found) => (remembered = found),
    (error) => console.warn("kontext: no history", error),
  );
}

/**
 * Everything that nodes of this graph, and runs that the server remembers, have reported, the newest
 * last. What a node answered from the cache says is as old as the run that it stems from.
 * @returns {any[]}
 */
export function allReports() {
  remember();
  const kept = Object.values(app.nodeOutputs ?? {}).filter(isReport);
  return [...remembered.map(({ output }) => output).reverse(), ...kept];
}

/**
 * What a node reported last: the host's own copy, which it keeps with its result pictures; where
 * that is gone, as after a reload, or never came, as after a run from the cache, the server's.
 * @param {Place} place
 * @param {string} [made] what the node's report would be made for now: then one of another workflow
 *   that was made for the same will do
 * @returns {any}
 */
export function reportOf(place, made) {
  const { node } = place;
  const graph = whole();
  const id = idOf(place);
  const outputs = app.nodeOutputs ?? {};
  const kept = outputs[place.path.length ? `${node.graph?.id}:${node.id}` : id] ?? outputs[id];
  if (isReport(kept)) return kept;
  remember();
  const ofType = remembered.filter(({ type }) => type === node.type);
  // Graphs that were never saved nor came from a file may all bear the same id.
  const own = graph.id === UNNAMED ? undefined : graph.id;
  const found =
    ofType.find((one) => own && one.workflow === own && one.id === id) ??
    ofType.find((one) => made && one.output.kontext_made?.at(-1) === made);
  return found?.output;
}

app.registerExtension({
  name: "kontext.watch",
  async setup() {
    for (const end of ["execution_success", "execution_error", "execution_interrupted"]) {
      api.addEventListener(end, () => (ended += 1));
    }
    setInterval(() => document.hidden || look(), MILLISECONDS);
  },
  async afterConfigureGraph() {
    look();
  },
});
