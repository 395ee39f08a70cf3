// @ts-check
// Reads from the graph, before any run, what Kontext: Stitch and Kontext: Edit will make of it: the
// size that comes out, and size and place of every reference.

import { api } from "../../../scripts/api.js";
import { arranged, canvas, page, sameShape } from "./canvas.js";
import { chainOf, source, trace } from "./chain.js";
import { fitted, nearest, scaled } from "./cost.js";

/**
 * @typedef {import("./chain.js").Place} Place
 * @typedef {import("./chain.js").Source} Source
 * @typedef {import("./chain.js").Link} Link
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
    case "KontextBox":
      return through("image");
    case "KontextCanvas":
      return canvasOf(from, depth + 1)?.size;
    case "KontextArrange":
      return arrangementOf(from, depth + 1);
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

/**
 * @param {Place} place
 * @param {string} name of sockets, without their number
 * @param {number} most of them
 * @returns {Source[]} that are connected
 */
function connected(place, name, most) {
  const numbers = Array.from({ length: most }, (_, index) => index + 1);
  return numbers.flatMap((number) => source(place, name + number) ?? []);
}

/**
 * What a Kontext: Canvas paints at, and the size of the picture that it is made for.
 * @param {Source | undefined} place
 * @param {number} depth
 * @returns {{size: Size, original: Size} | undefined}
 */
function canvasOf(place, depth) {
  if (!place) return undefined;
  const known = models();
  const images = connected(place, "image", 3);
  const like = Math.min(Number(value(place, "like_image") ?? 1), images.length);
  const original = sizeOf(images[like - 1], depth + 1);
  if (!known || !original || depth > DEPTH) return undefined;
  const { sizes } = isEmbedded(source(place, "vae")) ? known.embedded : known.published;
  const number = (/** @type {string} */ name) => Number(value(place, name) ?? 0);
  /** @type {Size} */
  const custom = [number("width"), number("height")];
  const policy = String(value(place, "policy"));
  const shape = policy === "custom" ? "width : height" : String(value(place, "aspect"));
  const [across, down] = shape === "width : height" ? custom : shape.split(":").map(Number);
  const shown = page(original, {
    margins: ["left", "top", "right", "bottom"].map(number),
    aspect: down ? across / down : undefined,
    crop: value(place, "other_shape") === "crop",
  });
  const trained = nearest(shown, sizes);
  return { size: canvas(policy, shown, { trained, megapixels: number("megapixels"), custom }), original };
}

/**
 * @param {Source} place a Kontext: Arrange
 * @param {number} depth
 * @returns {Size | undefined}
 */
function arrangementOf(place, depth) {
  const sizes = connected(place, "image_", 8).map((one) => sizeOf(one, depth + 1));
  // How many layers there are, and of what size, only a run knows.
  if (source(place, "layers") || !sizes.length || sizes.some((one) => !one)) return undefined;
  const number = (/** @type {string} */ name) => Number(value(place, name) ?? 0);
  return arranged(/** @type {Size[]} */ (sizes), String(value(place, "layout")), {
    gap: number("gap"),
    columns: number("columns"),
    size: [number("width"), number("height")],
  });
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
 * @typedef {{place: Link, size: Size, strength: number, start: number, end: number, name: string,
 *   masked: boolean, position?: Position, picture?: string}} Seen
 */

/**
 * @typedef {{size: Size, references: Size[], model: Model, given?: Size, seen?: Seen[]}} Plan
 *   size is what is painted; given is what comes out where that is another; references are those
 *   that the model sees, seen all of the chain
 */

/**
 * A line of a Kontext: References that is about one of its pictures.
 * @param {Link} one
 * @param {string} name
 */
function lineOf(one, name) {
  return String(value(one, name) ?? "").split("\n")[(one.picture ?? 1) - 1]?.trim() ?? "";
}

/**
 * A place of its own, as widgets or a line say.
 * @param {Link} one
 * @returns {Position | undefined}
 */
function positionOf(one) {
  if (one.picture) {
    const numbers = lineOf(one, "positions").split(/[\s,]+/).filter(Boolean).map(Number);
    const [t, h, w] = numbers;
    return numbers.length === 3 ? [t, h, w] : undefined;
  }
  if (value(one, "placement") !== "explicit") return undefined;
  const number = (/** @type {string} */ name) => Number(value(one, name) ?? 0);
  return [Number(value(one, "t") ?? 1), number("dh"), number("dw")];
}

/**
 * Where the picture of a reference comes from.
 * @param {Link} one
 */
function imageOf(one) {
  return source(one, one.picture ? `image_${one.picture}` : "image");
}

/**
 * The size at which a picture is seen, before its resolution.
 * @param {Link} one
 * @param {Size} own
 * @param {Size[]} sizes
 * @param {number} depth
 */
function sizeSeen(one, own, sizes, depth) {
  const target = source(one, "target");
  const size = sizeOf(target, depth + 1);
  if (!target || !size) return fitted(own, sizes, String(value(one, "fit")));
  const made = target.node.type === "KontextCanvas" ? canvasOf(target, depth + 1) : undefined;
  const same = made && (String(own) === String(made.original) || String(own) === String(size));
  return same || sameShape(size, own) ? size : fitted(own, sizes, String(value(one, "fit")));
}

/**
 * @param {Link} one
 * @param {Size} size
 * @returns {Seen}
 */
function seenAs(one, size) {
  const number = (/** @type {string} */ name, /** @type {number} */ usual) =>
    Number(value(one, name) ?? usual);
  const image = imageOf(one);
  return {
    place: one,
    size,
    strength: number("strength", 1),
    start: number("start", 0),
    end: number("end", 1),
    name: one.picture ? lineOf(one, "names") : String(value(one, "name") ?? "").trim(),
    masked: !!source(one, "mask"),
    position: positionOf(one),
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
    const image = imageOf(one);
    const own = sizeOf(image ?? source(one, "latent"), depth + 1);
    if (!own) return undefined;
    const size = image ? sizeSeen(one, own, model.sizes, depth) : own;
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
  const pictures = connected(place, "image", 3).map((image) => sizeOf(image, depth + 1));
  if (pictures.some((one) => !one)) return undefined;
  /** @type {Size} */
  const set = [Number(value(place, "width")), Number(value(place, "height"))];
  const painted = /** @type {Size[]} */ (pictures).map((own) =>
    set[0] && sameShape(set, own) ? set : nearest(own, model.sizes),
  );
  const like = Math.min(Number(value(place, "like_image") ?? 1), painted.length) - 1;
  const size = set[0] ? set : painted.length ? painted[like] : nearest([1, 1], model.sizes);
  const own = set[0] ? undefined : pictures[like];
  const references = Number(value(place, "strength") ?? 1) === 0 ? [] : painted;
  return size && { size, references, model, given: own };
}

/**
 * @param {Plan | undefined} plan
 * @returns {Size | undefined} of the picture that comes out
 */
export function outcome(plan) {
  return plan?.given ?? plan?.size;
}
