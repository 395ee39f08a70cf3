// @ts-check
// Reads from the graph, before any run, what Kontext: Stitch and Kontext: Edit will make of it: the
// size that comes out, and size and place of every reference.

import { api } from "../../../scripts/api.js";
import { chainOf, source, trace } from "./chain.js";
import { fitted, nearest, scaled } from "./cost.js";

/**
 * @typedef {import("./chain.js").Place} Place
 * @typedef {import("./chain.js").Source} Source
 * @typedef {import("./cost.js").Size} Size
 * @typedef {import("./cost.js").Model} Model
 * @typedef {import("./placing.js").Position} Position
 */

const DEPTH = 50;

/**
 * @param {Place} place
 * @param {string} name
 */
export function value(place, name) {
  return place.node.widgets?.find((/** @type {any} */ one) => one.name === name)?.value;
}

/** @type {Map<string, Size | undefined>} */
const files = new Map();

/**
 * Where the browser finds a file of the host's input folder.
 * @param {unknown} name "folder/name.png [input]", the last part only where it is another folder
 */
function addressOf(name) {
  const [, path, type] = String(name ?? "").match(/^(.*?)(?: \[(\w+)\])?$/) ?? [];
  if (!path) return undefined;
  const cut = path.lastIndexOf("/");
  const asked = { filename: path.slice(cut + 1), subfolder: path.slice(0, Math.max(cut, 0)) };
  return api.apiURL(`/view?${new URLSearchParams({ ...asked, type: type ?? "input" })}`);
}

/**
 * The size of a file in the host's input folder, undefined until the browser has it.
 * @param {unknown} name
 * @returns {Size | undefined}
 */
function sizeOfFile(name) {
  const url = addressOf(name);
  if (!url) return undefined;
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
 * One reference as it will be seen. `picture` is the address of its file, where it comes from one.
 * @typedef {{place: Source, size: Size, strength: number, start: number, end: number, name: string,
 *   masked: boolean, position?: Position, picture?: string}} Seen
 */

/**
 * @typedef {{size: Size, references: Size[], model: Model, given?: Size, seen?: Seen[]}} Plan
 *   size is what is painted; given is what comes out where that is another; references are those
 *   that the model sees, seen all of the chain
 */

/**
 * @param {Source} one a Kontext: Reference
 * @param {Size} size
 * @returns {Seen}
 */
function seenAs(one, size) {
  const number = (/** @type {string} */ name, /** @type {number} */ usual) =>
    Number(value(one, name) ?? usual);
  const image = source(one, "image");
  const explicit = value(one, "placement") === "explicit";
  return {
    place: one,
    size,
    strength: number("strength", 1),
    start: number("start", 0),
    end: number("end", 1),
    name: String(value(one, "name") ?? "").trim(),
    masked: !!source(one, "mask"),
    position: explicit ? [number("t", 1), number("dh", 0), number("dw", 0)] : undefined,
    picture: image?.node.type === "LoadImage" ? addressOf(value(image, "image")) : undefined,
  };
}

/**
 * @param {Place} place
 * @param {number} depth
 * @returns {Plan | undefined}
 */
export function planOfStitch(place, depth = 0) {
  const known = models();
  const chain = chainOf(source(place, "references"));
  if (!known || !chain || depth > DEPTH) return undefined;
  const vae = chain.map((one) => source(one, "vae")).find(Boolean);
  const text = source(place, "conditioning");
  const model = isEmbedded(vae ?? text) ? known.embedded : known.published;
  const whole = [];
  const seen = [];
  for (const one of chain) {
    const image = source(one, "image");
    const own = sizeOf(image ?? source(one, "latent"), depth + 1);
    if (!own) return undefined;
    const size = image ? fitted(own, model.sizes, String(value(one, "fit"))) : own;
    whole.push(size);
    seen.push(seenAs(one, image ? scaled(size, Number(value(one, "resolution") ?? 1)) : size));
  }
  const latent = source(place, "latent");
  const like = whole[Math.min(Number(value(place, "like_image") ?? 1), whole.length) - 1];
  const size = latent ? sizeOf(latent, depth + 1) : like;
  const references = seen.filter(({ strength }) => strength !== 0).map((one) => one.size);
  return size && { size, references, model, seen };
}

/**
 * @param {Place} place
 * @param {number} depth
 * @returns {Plan | undefined}
 */
export function planOfEdit(place, depth = 0) {
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
export function outcome(plan) {
  return plan?.given ?? plan?.size;
}
