// @ts-check
// Says on Kontext: Stitch and Kontext: Edit, before any run, which size comes out, how many tokens a
// step has and what it costs; anew whenever the graph changes.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { chainOf, source, trace } from "./chain.js";
import { beyond, fitted, nearest, relative, tokensOf } from "./cost.js";
import { mount, watch } from "./watch.js";
import { say } from "./words.js";

/**
 * @typedef {import("./chain.js").Place} Place
 * @typedef {import("./chain.js").Source} Source
 * @typedef {import("./cost.js").Size} Size
 * @typedef {import("./cost.js").Model} Model
 */

const HEIGHT = 44;
const DEPTH = 50;

/**
 * @param {Place} place
 * @param {string} name
 */
function value(place, name) {
  return place.node.widgets?.find((/** @type {any} */ one) => one.name === name)?.value;
}

/** @type {Map<string, Size | undefined>} */
const files = new Map();

/**
 * The size of a file in the host's input folder, undefined until the browser has it.
 * @param {unknown} name "folder/name.png [input]", the last part only where it is another folder
 * @returns {Size | undefined}
 */
function sizeOfFile(name) {
  const [, path, type] = String(name ?? "").match(/^(.*?)(?: \[(\w+)\])?$/) ?? [];
  if (!path) return undefined;
  const cut = path.lastIndexOf("/");
  const asked = { filename: path.slice(cut + 1), subfolder: path.slice(0, Math.max(cut, 0)) };
  const url = api.apiURL(`/view?${new URLSearchParams({ ...asked, type: type ?? "input" })}`);
  if (!files.has(url)) {
    files.set(url, undefined);
    const image = new Image();
    image.onload = () => files.set(url, [image.naturalWidth, image.naturalHeight]);
    image.src = url;
  }
  return files.get(url);
}

/**
 * The size of the picture or latent at an output, undefined where only a run can tell.
 * @param {Source | undefined} from
 * @param {number} [depth]
 * @returns {Size | undefined}
 */
function sizeOf(from, depth = 0) {
  if (!from || depth > DEPTH) return undefined;
  const through = (/** @type {string} */ input) => sizeOf(source(from, input), depth + 1);
  switch (from.node.type) {
    case "LoadImage":
      return sizeOfFile(value(from, "image"));
    case "EmptySD3LatentImage":
    case "EmptyLatentImage":
    case "EmptyImage":
      return [Number(value(from, "width")), Number(value(from, "height"))];
    case "KontextSampler":
    case "KSampler":
      return through("latent_image");
    case "VAEEncode":
      return through("pixels");
    case "VAEDecode":
    case "VAEDecodeTiled":
      return through("samples");
    case "KontextFinish":
      return source(from, "original") ? through("original") : through("samples");
    case "KontextStitch":
      return planOfStitch(from, depth + 1)?.size;
    case "KontextEdit":
      return outcome(planOfEdit(from, depth + 1));
    default:
      return undefined;
  }
}

/** @returns {{embedded: Model, published: Model}} */
function models() {
  const data = LiteGraph.registered_node_types.KontextStitch?.nodeData;
  return (data?.input?.optional?.layout ?? data?.inputs?.layout)?.[1]?.models;
}

/**
 * @param {Source | undefined} from a loader, or what stands behind it
 */
function isEmbedded(from) {
  return trace(from).includes('"embedded: ');
}

/**
 * @typedef {{size: Size, references: Size[], model: Model, given?: Size}} Plan
 *   size is what is painted; given is what comes out where that is another
 */

/**
 * @param {Place} place
 * @param {number} depth
 * @returns {Plan | undefined}
 */
function planOfStitch(place, depth = 0) {
  const known = models();
  const chain = chainOf(source(place, "references"));
  if (!known || !chain || depth > DEPTH) return undefined;
  const vae = chain.map((one) => source(one, "vae")).find(Boolean);
  const text = source(place, "conditioning");
  const model = isEmbedded(vae ?? text) ? known.embedded : known.published;
  const references = [];
  for (const one of chain) {
    const image = source(one, "image");
    const seen = sizeOf(image ?? source(one, "latent"), depth + 1);
    if (!seen) return undefined;
    references.push(image ? fitted(seen, model.sizes, String(value(one, "fit"))) : seen);
  }
  const latent = source(place, "latent");
  const like = references[Number(value(place, "like_image") ?? 1) - 1];
  const size = latent ? sizeOf(latent, depth + 1) : like;
  const shown = references.filter((_, index) => value(chain[index], "strength") !== 0);
  return size && { size, references: shown, model };
}

/**
 * @param {Place} place
 * @param {number} depth
 * @returns {Plan | undefined}
 */
function planOfEdit(place, depth = 0) {
  const known = models();
  if (!known || depth > DEPTH) return undefined;
  const given = source(place, "model");
  const model = !given || isEmbedded(given) ? known.embedded : known.published;
  const references = [];
  const pictures = [];
  for (const name of ["image1", "image2", "image3"]) {
    const image = source(place, name);
    if (!image) continue;
    const seen = sizeOf(image, depth + 1);
    if (!seen) return undefined;
    pictures.push(seen);
    references.push(nearest(seen, model.sizes));
  }
  const set = [Number(value(place, "width")), Number(value(place, "height"))];
  const like = Number(value(place, "like_image") ?? 1) - 1;
  const size = set[0] ? set : references.length ? references[like] : nearest([1, 1], model.sizes);
  const own = set[0] ? undefined : pictures[like];
  return size && { size: /** @type {Size} */ (size), references, model, given: own };
}

/**
 * @param {Plan | undefined} plan
 * @returns {Size | undefined} of the picture that comes out
 */
function outcome(plan) {
  return plan?.given ?? plan?.size;
}

/** @param {Size} size */
const written = ([width, height]) => `${width} x ${height}`;

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
  const first = `${painted} · ${parts} ${say("tokens")} · ${cost} x ${say("plain_edit")}`;
  const large = [size, ...references].map((one) => beyond(one, model.sizes));
  const warnings = large.flatMap((times, index) => {
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
