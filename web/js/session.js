// @ts-check
// The turns of a session as a row of thumbnails, in the nodes of a session: which turn came from which,
// its words and seed. In Kontext: Session Pick a turn is chosen here, by mouse or keyboard.

import { app } from "../../../scripts/app.js";
import { allReports, mount, reportOf, watch } from "./watch.js";
import { say } from "./words.js";

/**
 * One turn, as nodes/session_files.py sends it.
 * @typedef {{number: number, parent: number | null, prompt: string, seed: string | null,
 *   note: string, chosen: boolean, picture: string}} Turn
 */

const NODES = ["KontextSessionStart", "KontextSessionTurn", "KontextSessionPick"];
const CHOOSING = "KontextSessionPick";
const TURN = "KontextSessionTurn";
const HEIGHT = 118;
const CHOSEN = "#4a90d9";

/** @param {any} node */
function numberOf(node) {
  return node.widgets?.find((/** @type {any} */ widget) => widget.name === "number");
}

/**
 * What a screen reader says of a turn, and the tooltip.
 * @param {Turn} turn
 */
export function describe(turn) {
  const name = `${say("session_turn")} ${turn.number}`;
  const came =
    turn.parent === null
      ? `: ${say("session_start")}`
      : `, ${say("session_from")} ${turn.parent}: ${turn.prompt}. ${say("session_seed")} ${turn.seed}`;
  return `${name}${came}${turn.note ? `. ${turn.note}` : ""}`;
}

/**
 * What stands below the thumbnail: its number, and the turn it came from where that is another than
 * the one on its left.
 * @param {Turn} turn
 * @param {Turn | undefined} before
 */
export function label(turn, before) {
  const branch = turn.parent !== null && turn.parent !== before?.number;
  return branch ? `${turn.number} ← ${turn.parent}` : String(turn.number);
}

/**
 * Reports of a node that ran for several rows stand one behind the other: the last one.
 * @param {Turn[]} turns
 */
export function lastOf(turns) {
  return turns.slice(turns.findLastIndex((turn) => turn.number === turns[0].number));
}

/**
 * @param {any} node
 * @param {Turn[]} turns
 */
function draw(node, turns) {
  const view = node.kontextSession;
  const choosing = node.comfyClass === CHOOSING;
  const list = document.createElement("ol");
  list.setAttribute("aria-label", say("session_turns"));
  list.style.cssText = "display:flex;gap:4px;margin:0;padding:2px;list-style:none";
  for (const [place, turn] of turns.entries()) {
    const item = document.createElement("li");
    const box = document.createElement(choosing ? "button" : "div");
    const text = describe(turn);
    box.title = text;
    box.style.cssText =
      "display:flex;flex-direction:column;align-items:center;gap:2px;padding:2px;border-radius:4px;" +
      "border:2px solid transparent;background:none;color:inherit;font:11px sans-serif;" +
      `width:84px;${choosing ? "cursor:pointer" : ""}`;
    box.dataset.number = String(turn.number);
    const picture = document.createElement("img");
    // Its own name where nothing around it has one.
    picture.alt = choosing ? "" : text;
    picture.draggable = false;
    picture.style.cssText = "width:80px;height:72px;object-fit:contain";
    if (turn.picture.startsWith("data:image/")) picture.src = turn.picture;
    const caption = document.createElement("span");
    caption.textContent = label(turn, turns[place - 1]);
    caption.setAttribute("aria-hidden", "true");
    box.append(picture, caption);
    if (choosing) {
      box.setAttribute("aria-label", text);
      box.setAttribute("type", "button");
      box.addEventListener("click", () => choose(node, turn.number));
    }
    item.append(box);
    list.append(item);
  }
  const held = /** @type {HTMLElement | null} */ (document.activeElement);
  const focused = view.contains(held) ? held?.dataset.number : undefined;
  view.replaceChildren(list);
  view.kontextDrawn = turns;
  // The keyboard stays where it was.
  if (focused !== undefined) view.querySelector(`[data-number="${focused}"]`)?.focus();
}

/**
 * @param {any} node
 * @param {number} number
 */
function choose(node, number) {
  const widget = numberOf(node);
  if (!widget || widget.value === number) return;
  widget.value = number;
  widget.callback?.(number);
  node.graph?.setDirtyCanvas?.(true, true);
  mark(node);
}

/** Frames the turn that the node stands for. @param {any} node */
function mark(node) {
  const view = node.kontextSession;
  const turns = view.kontextDrawn ?? [];
  const choosing = node.comfyClass === CHOOSING;
  const asked = choosing ? numberOf(node)?.value : undefined;
  const ran = turns.find((/** @type {Turn} */ turn) => turn.chosen)?.number;
  const number = asked === undefined || asked === -1 ? ran : asked;
  if (view.kontextMarked === number && view.kontextMarkedIn === turns) return;
  const first = view.kontextMarkedIn !== turns;
  view.kontextMarked = number;
  view.kontextMarkedIn = turns;
  for (const box of view.querySelectorAll("[data-number]")) {
    const chosen = Number(box.dataset.number) === number;
    box.style.borderColor = chosen ? CHOSEN : "transparent";
    if (choosing) {
      box.setAttribute("aria-pressed", String(chosen));
      // One stop of the Tab key for all of them: arrows go from there.
      box.tabIndex = chosen ? 0 : -1;
    } else if (chosen) {
      box.setAttribute("aria-current", "step");
    }
    if (chosen && first) view.scrollLeft = box.offsetLeft - view.clientWidth + box.offsetWidth + 8;
  }
  const boxes = view.querySelectorAll("button[data-number]");
  if (boxes.length && ![...boxes].some((box) => box.tabIndex === 0)) boxes[0].tabIndex = 0;
}

/** @param {KeyboardEvent} event */
function move(event) {
  const boxes = /** @type {HTMLElement[]} */ ([
    .../** @type {HTMLElement} */ (event.currentTarget).querySelectorAll("button[data-number]"),
  ]);
  const at = boxes.indexOf(/** @type {HTMLElement} */ (document.activeElement));
  if (at < 0) return;
  // The editor's own keys, such as Delete, mean its nodes.
  event.stopPropagation();
  const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: boxes.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  boxes[Math.min(Math.max(to, 0), boxes.length - 1)].focus();
}

/** @param {any} node */
function place(node) {
  const view = document.createElement("div");
  view.className = "kontext-session";
  view.setAttribute("role", "group");
  view.setAttribute("aria-label", say("session_turns"));
  view.style.cssText =
    `width:100%;min-height:${HEIGHT}px;box-sizing:border-box;overflow-x:auto;overflow-y:hidden;` +
    "font:11px sans-serif;color:#9aa0aa;padding:4px";
  view.textContent = say("session_empty");
  view.addEventListener("keydown", move);
  // The wheel goes through the turns instead of zooming the canvas, where there are more than fit.
  view.addEventListener(
    "wheel",
    (event) => {
      if (view.scrollWidth <= view.clientWidth) return;
      event.stopPropagation();
      event.preventDefault();
      view.scrollLeft += event.deltaY || event.deltaX;
    },
    { passive: false },
  );
  const widget = node.addDOMWidget("timeline", "kontext_session", view, {
    serialize: false,
    // The canvas takes a margin of 10 at both ends.
    getMinHeight: () => HEIGHT + 20,
  });
  // Only a view: neither saved with the workflow nor sent with the prompt.
  widget.serialize = false;
  node.kontextSession = view;
}

/**
 * Turns that a report tells of, with those that the file has got since, as other nodes tell: a node
 * answered from the cache repeats what it said when it ran. Turns are never taken away.
 * @param {any} report
 * @param {any[]} others the newest last
 * @returns {Turn[]}
 */
export function withNewer(report, others) {
  const own = lastOf(report.kontext_session);
  const file = report.kontext_session_of?.at(-1);
  if (!file) return own;
  const chosen = own.find((turn) => turn.chosen)?.number;
  const known = new Map(own.map((turn) => [turn.number, turn]));
  for (const other of others) {
    if (other.kontext_session_of?.at(-1) !== file || !other.kontext_session?.length) continue;
    for (const turn of lastOf(other.kontext_session)) known.set(turn.number, turn);
  }
  return [...known.values()]
    .sort((one, other) => one.number - other.number)
    .map((turn) => ({ ...turn, chosen: turn.number === chosen }));
}

/**
 * @param {any} node
 * @param {any} report
 */
function show(node, report) {
  const sent = report?.kontext_session;
  if (Array.isArray(sent) && sent.length) {
    // A turn shows the way to it, which is the same for ever.
    const whole = node.comfyClass !== TURN;
    const turns = whole ? withNewer(report, allReports()) : lastOf(sent);
    const key = JSON.stringify(turns.map(({ number, note, chosen }) => [number, note, chosen]));
    const view = node.kontextSession;
    const file = report.kontext_session_of?.at(-1) ?? sent;
    if (view.kontextKey !== key || view.kontextFile !== file) {
      view.kontextKey = key;
      view.kontextFile = file;
      draw(node, turns);
    }
  }
  mark(node);
}

watch((all) => {
  const seen = new Set();
  for (const one of all) {
    if (!one.node.kontextSession || seen.has(one.node)) continue;
    seen.add(one.node);
    mount(one.node, one.node.kontextSession);
    show(one.node, reportOf(one));
  }
});

app.registerExtension({
  name: "kontext.session",
  async beforeRegisterNodeDef(nodeType, nodeData) {
    if (!NODES.includes(nodeData.name)) return;
    const created = nodeType.prototype.onNodeCreated;
    nodeType.prototype.onNodeCreated = function (...args) {
      const result = created?.apply(this, args);
      place(this);
      return result;
    };
    const executed = nodeType.prototype.onExecuted;
    nodeType.prototype.onExecuted = function (output) {
      executed?.apply(this, arguments);
      if (this.kontextSession) show(this, output);
    };
  },
});
