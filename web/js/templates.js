// @ts-check
// The pack's templates in the editor: in the order of their names, with notes and titles in the
// editor's language (web/templates/<language>.json), and with ComfyUI's own Compare
// Images at the end where there is something to compare and the editor can show that node.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { language, say } from "./words.js";

const TRANSLATED = ["ja", "ko", "zh"];
const COMPARE = "ImageCompare";
const SIZE = [300, 300];
// /extensions/NAME/js/templates.js
const PACK = decodeURIComponent(new URL(import.meta.url).pathname.split("/").at(-3) ?? "");

/** The host lists files as its disk does. */
function inOrder() {
  const ask = api.getWorkflowTemplates;
  if (typeof ask !== "function") return;
  api.getWorkflowTemplates = async function (...args) {
    const found = await ask.apply(this, args);
    found?.[PACK]?.sort();
    return found;
  };
}

/**
 * Puts a template into the editor's language; what a person has written since stays.
 * @param {any} graph in the editor's format, changed in place
 */
async function translate(graph) {
  const name = graph.extra.kontext_template;
  // Asked once, like the comparison below.
  delete graph.extra.kontext_template;
  if (!TRANSLATED.includes(language())) return;
  const answer = await fetch(new URL(`../templates/${language()}.json`, import.meta.url));
  const { titles, notes } = await answer.json();
  for (const one of [...graph.nodes, ...graph.groups]) {
    if (one.type === "MarkdownNote") one.widgets_values = [notes[name] ?? one.widgets_values[0]];
    if (one.title in titles) one.title = titles[one.title];
  }
}

/**
 * Adds the node to a template that asks for it: a file that held it would not open everywhere.
 * @param {any} graph in the editor's format, changed in place
 */
function addCompare(graph) {
  const wanted = graph.extra.kontext_compare;
  // Asked once: taken away by a person, it stays away.
  delete graph.extra.kontext_compare;
  const id = graph.last_node_id + 1;
  const [x, y] = wanted.pos;
  const inputs = ["before", "after"].map((key, place) => {
    const [from, slot] = wanted[key];
    const link = (graph.last_link_id += 1);
    graph.links.push([link, from, slot, id, place, "IMAGE"]);
    const output = graph.nodes.find((/** @type {any} */ one) => one.id === from).outputs[slot];
    output.links = [...(output.links ?? []), link];
    return { name: place ? "image_b" : "image_a", type: "IMAGE", shape: 7, link };
  });
  graph.last_node_id = id;
  graph.nodes.push({
    id,
    type: COMPARE,
    pos: [x, y],
    size: SIZE,
    flags: {},
    order: graph.nodes.length,
    mode: 0,
    inputs,
    outputs: [],
    properties: { "Node name for S&R": COMPARE },
    widgets_values: [],
  });
  graph.groups.push({
    id: graph.groups.length + 1,
    title: say("compare"),
    bounding: [x - 15, y - 80, SIZE[0] + 30, SIZE[1] + 102],
    color: "#a1309b",
    font_size: 24,
    flags: {},
  });
}

app.registerExtension({
  name: "kontext.templates",
  async init() {
    inOrder();
  },
  async beforeConfigureGraph(graph) {
    if (graph?.extra?.kontext_template) await translate(graph);
    // The node has nothing to show on the older canvas.
    const drawn = app.extensionManager?.setting?.get("Comfy.VueNodes.Enabled");
    if (!graph?.extra?.kontext_compare || !drawn) return;
    if (LiteGraph.registered_node_types[COMPARE]) addCompare(graph);
  },
});
