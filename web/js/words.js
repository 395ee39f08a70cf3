// @ts-check
// What the pack's own panels say, in the editor's language: locales/<language>/main.json.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

/** The English of locales/en/main.json, for languages the pack does not speak. */
const ENGLISH = {
  close: "Close",
  compare: "Before and after",
  compare_after: "after",
  compare_before: "before",
  compare_candidate: "candidate",
  compare_candidates: "Candidates",
  compare_difference: "Difference",
  compare_empty: "The pictures appear here after a run.",
  compare_gone: "The pictures are gone with the server that made them; run the graph again.",
  compare_slider: "Slider",
  download: "Download page",
  gguf_text:
    "This workflow uses GGUF files that are not here. ComfyUI's own list of missing models does not " +
    "offer such files. Download each one, put it into the folder named beside it, then press R to " +
    "refresh the lists.",
  gguf_title: "GGUF files are missing",
  beside_weights: "beside the weights",
  image: "image",
  layout: "Layout",
  layout_changed: "The graph has changed since this was drawn.",
  layout_keys:
    "Drag it, or press arrow keys: by a token; with Shift: to the next edge; Page Up and Page Down: t; " +
    "Delete: back to auto.",
  layout_empty: "The layout is drawn here after a run.",
  masked: "masked",
  native_leaves_out: "loaded by ComfyUI itself, leaves out",
  no_references: "that without references",
  no_picture: "no picture",
  plain_edit: "the cost of a plain edit",
  notes_empty: "The report stands here after a run.",
  overlap: "places shared: the model may take them for one picture",
  pixels: "pixels",
  session_empty: "The turns are shown here after a run.",
  session_from: "from turn",
  session_seed: "seed",
  session_start: "start",
  session_turn: "turn",
  session_turns: "Turns of the session",
  size_unknown: "The size is known after a run.",
  steps: "steps",
  strength: "strength",
  target: "target",
  tokens: "tokens",
  tokens_seen: "tokens seen",
  train_done: "Done",
  train_empty: "The curve and the sample pictures appear here while it trains.",
  train_loss: "loss",
  train_panel: "Training",
  train_running: "Training",
  train_sample: "sample",
  train_step: "step",
  train_stopped: "Stopped; run again to go on",
  trained_area: "the area that the model was trained at: slow, and it may not be understood",
};

/** @type {Record<string, string>} */
let words = ENGLISH;
/** Choices by their value; a value without an entry is a name, or English. */
/** @type {Record<string, string>} */
let choices = {};

/**
 * A word or sentence in the editor's language; after `setup` of this module's extension.
 * @param {keyof typeof ENGLISH} key
 * @returns {string}
 */
export function say(key) {
  return words[key] ?? ENGLISH[key];
}

/** The editor's language, "en" for instance. */
export function language() {
  return app.extensionManager?.setting?.get("Comfy.Locale") ?? "en";
}

app.registerExtension({
  name: "kontext.words",
  // Awaited by the editor before any node is made.
  async init() {
    try {
      const answer = await api.fetchApi("/i18n");
      const texts = (await answer.json())[language()];
      words = { ...ENGLISH, ...texts?.kontext };
      choices = texts?.kontextOptions ?? {};
    } catch (error) {
      // A host without that route speaks English.
      console.warn("kontext: no translations", error);
    }
  },
  /** Choices are shown in the editor's language, and saved and sent as they are. */
  async nodeCreated(node) {
    if (!node.comfyClass?.startsWith("Kontext")) return;
    for (const widget of node.widgets ?? []) {
      const { values } = widget.options ?? {};
      if (!Array.isArray(values) || !values.some((value) => value in choices)) continue;
      widget.options.getOptionLabel = (/** @type {string | null} */ value) =>
        choices[value ?? ""] ?? value ?? "";
    }
  },
});
