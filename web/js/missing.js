// @ts-check
// Says which GGUF files a loaded workflow needs, and the folder each belongs into. ComfyUI's own
// dialog offers safetensors only. Addresses come from the node's properties.downloads, which the
// pack's templates carry.

import { app } from "../../../scripts/app.js";
import { watch, whole } from "./watch.js";
import { say } from "./words.js";

/** Widgets that name model files, and the folder below models/ that they look into. */
const WIDGETS = {
  KontextLoadModel: { model_name: "diffusion_models" },
  KontextLoadTextEncoders: { t5_name: "text_encoders", clip_l_name: "text_encoders" },
  KontextLoadVAE: { model_name: "vae" },
  KontextQuantize: { model_name: "diffusion_models" },
};
const MUTED = 2;
const BYPASSED = 4;

/**
 * @typedef {{name: string, folder: string, url: string}} Missing
 */

/**
 * Every node, those inside of subgraphs too.
 * @param {any} graph
 * @returns {any[]}
 */
function all(graph) {
  return (graph?._nodes ?? []).flatMap((/** @type {any} */ node) =>
    node.subgraph ? [node, ...all(node.subgraph)] : [node],
  );
}

/** @param {any} widget */
function offered(widget) {
  const values = widget.options?.values;
  return typeof values === "function" ? values(widget) : (values ?? []);
}

/**
 * The GGUF files that the graph names and the host does not have.
 * @param {any} graph
 * @returns {Missing[]}
 */
export function missing(graph) {
  /** @type {Map<string, Missing>} */
  const found = new Map();
  for (const node of all(graph)) {
    /** @type {Record<string, string> | undefined} */
    const named = WIDGETS[/** @type {keyof typeof WIDGETS} */ (node.type)];
    if (!named || node.mode === MUTED || node.mode === BYPASSED) continue;
    for (const widget of node.widgets ?? []) {
      const value = widget.value;
      if (!(widget.name in named) || typeof value !== "string") continue;
      if (!value.toLowerCase().endsWith(".gguf") || offered(widget).includes(value)) continue;
      // A label before the name is a folder that several loaders share: "checkpoints: a.gguf".
      const [, label, name] = value.match(/^(?:(\w+): )?(.+)$/) ?? [];
      const folder = `models/${label ?? named[widget.name]}`;
      const listed = (node.properties?.downloads ?? []).find(
        (/** @type {any} */ one) => one.name === value,
      );
      const url = String(listed?.url ?? "");
      found.set(`${folder}/${name}`, { name, folder, url });
    }
  }
  return [...found.values()];
}

/**
 * @param {string} tag
 * @param {string} style
 * @param {...(Node | string)} children
 */
function element(tag, style, ...children) {
  const made = document.createElement(tag);
  made.style.cssText = style;
  made.append(...children);
  return made;
}

/** @param {Missing} one */
function row({ name, folder, url }) {
  const code = "font-family:monospace;overflow-wrap:anywhere";
  const line = element("li", "margin:6px 0", element("b", code, name), " → ");
  line.append(element("span", code, folder));
  // Workflows come from anywhere: only web addresses become links.
  if (url.startsWith("https://")) {
    const link = element("a", "color:#7ab7ff", say("download"));
    // The file's page: a browser shows there how large it is and what its licence says.
    link.setAttribute("href", url.replace("/resolve/", "/blob/"));
    link.setAttribute("target", "_blank");
    link.setAttribute("rel", "noopener noreferrer");
    line.append(" ", link);
  }
  return line;
}

/** What the panel lists, to see when a person has chosen another file. */
let shown = "[]";

/** @param {Missing[]} files */
function show(files) {
  shown = JSON.stringify(files);
  document.querySelector(".kontext-missing")?.remove();
  if (!files.length) return;
  const close = element(
    "button",
    "float:right;padding:4px 12px;cursor:pointer;color:inherit;background:#3a3f47;" +
      "border:1px solid #565c66;border-radius:4px",
    say("close"),
  );
  // Above a dialog of the editor's own, which old frontends open at the same time.
  const panel = element(
    "div",
    // At the left: newer frontends list a graph's faults at the right.
    "position:fixed;left:88px;bottom:72px;z-index:10000;width:min(520px,90vw);max-height:60vh;" +
      "overflow:auto;padding:14px 18px;border-radius:8px;border:1px solid #565c66;" +
      "background:#24272c;color:#e6e8eb;font:13px/1.5 sans-serif;" +
      "box-shadow:0 6px 24px rgb(0 0 0 / 50%);user-select:text",
    close,
    element("h3", "margin:0 0 8px;font-size:15px;font-weight:bold", say("gguf_title")),
    element("p", "margin:0 0 8px", say("gguf_text")),
    element("ul", "margin:0;padding-left:18px;list-style:disc", ...files.map(row)),
  );
  panel.className = "kontext-missing";
  panel.setAttribute("role", "status");
  close.addEventListener("click", () => panel.remove());
  document.body.append(panel);
}

watch(() => {
  if (!document.querySelector(".kontext-missing")) return;
  const files = missing(whole());
  if (JSON.stringify(files) !== shown) show(files);
});

app.registerExtension({
  name: "kontext.missing",
  async afterConfigureGraph() {
    show(missing(app.graph));
  },
  // After R: what has arrived leaves the list, and the last one closes the panel.
  async refreshComboInNodes() {
    if (document.querySelector(".kontext-missing")) show(missing(app.graph));
  },
});
