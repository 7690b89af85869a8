// The page: what the address says is what is shown, so that a reload keeps it.

import { at, count, counted, getJson, harmless, make, milliseconds, showError, significant } from "./common.js";
import { Grid, pageSize } from "./grid.js";
import { HealthPanel } from "./health.js";
import { Labels } from "./labels.js";
import { Layouts } from "./layouts.js";
import { PixelPanel } from "./pixel.js";
import { nextMethod, Player } from "./player.js";

const FILTERS = ["label", "split", "camera"];
const PLAYER = ["method", "window", "step", "speed", "white", "tick"];
const DEFAULTS = { method: "tfp", window: "32", step: "8", speed: "25", tick: "0" };
const HELP = [
  ["/", "search"],
  ["arrows, Enter", "in the grid: choose a tile, open it"],
  ["Page up, Page down", "turn the grid's page"],
  ["+ −", "in the grid: larger and smaller tiles"],
  ["1 … 9", "give one of the first nine classes"],
  ["t v e x", "split: train, validation, test, none"],
  ["l c g", "type label, captions, group; Enter saves, Esc does not"],
  ["u, Ctrl+Z", "take the last change back"],
  ["n p", "next and previous clip"],
  ["space", "play, pause"],
  ["← →", "one step back and on; with Shift ten"],
  ["Home End", "first and last tick"],
  ["m", "TFP, TFI, adaptive"],
  ["[ ]", "shorter and longer window"],
  ["i h f", "pixel, health, facts"],
  ["Esc", "back to the grid"],
];

let set = null; // what the server says of the whole set
let clip = null; // the one that is open
let first = null; // the first page of the grid, asked for before the set is known
let params = new URLSearchParams(location.search);

const grid = new Grid((chosen) => go({ clip: chosen.id, tick: null }));
const pixel = new PixelPanel();
const health = new HealthPanel((marks) => player.mark(marks));
const player = new Player({ onChange: remember, onPick: pick });
const labels = new Labels({
  onChanged: (changed) => {
    grid.tell(changed);
    if (clip?.id === changed.id) tellFacts();
  },
  onNew: loadSet,
  onAdvance: () => beside("next"),
});
labels.onTorn = (torn) => {
  Object.assign(set, torn);
  tellBanner();
};
const layouts = new Layouts(async (opened, told) => {
  if (told) await loadSet();
  at("saved").textContent = told ?? "";
  go({ file: null, clip: opened });
});

// --- the address -----------------------------------------------------------------------------

function query() {
  const chosen = {};
  for (const name of FILTERS) if (params.has(name)) chosen[name] = params.get(name);
  if (params.get("text")) chosen.text = params.get("text");
  return chosen;
}

function change(changes) {
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === undefined || DEFAULTS[name] === String(value)) params.delete(name);
    else params.set(name, value);
  }
  return `${location.pathname}?${params}`;
}

// Show something else: the browser's back button comes back.
function go(changes) {
  history.pushState(null, "", change(changes));
  return show();
}

// Note what is shown already.
function note(changes) {
  history.replaceState(null, "", change(changes));
}

function remember() {
  clearTimeout(remember.later);
  remember.later = setTimeout(() => {
    if (!clip) return;
    note(Object.fromEntries(PLAYER.map((name) => [name, player.chosen[name]])));
    if (pixel.pixel) pixel.follow(player.chosen.tick);
  }, 150);
}

// --- showing ---------------------------------------------------------------------------------

async function show() {
  const [id, file] = [params.get("clip"), params.get("file")];
  at("grid-view").hidden = id !== null || file !== null;
  at("clip-view").hidden = id === null;
  at("layout-view").hidden = file === null || id !== null;
  at("banner").hidden = at("grid-view").hidden;
  fillFilters();
  if (id === null && clip) closeClip();
  try {
    if (id !== null) await showClip(id);
    else if (file !== null) await layouts.show(Number(file), set);
    else await showGrid();
  } catch (error) {
    if (error.name !== "AbortError") showError(error.message);
  }
}

function askClips() {
  show.asked?.abort();
  show.asked = new AbortController();
  const about = { ...query(), page: params.get("page") ?? 0, size: pageSize(tile()) };
  return getJson("api/clips", about, show.asked.signal);
}

async function showGrid() {
  const asked = first ?? askClips();
  first = null;
  const listed = await asked;
  at("total").textContent = `${count(listed.total)} of ${count(set.clips)} clips`;
  grid.show(listed, { tilePx: tile(), plays: at("plays").checked });
  if (show.focus) grid.focus(show.focus);
  show.focus = null;
}

async function showClip(id) {
  if (clip?.id === id) return;
  show.asked?.abort();
  show.asked = new AbortController();
  let found;
  try {
    found = await getJson("api/clip", { id, ...query() }, show.asked.signal);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    go({ clip: null });
    throw new Error(`${id}: ${error.message}`);
  }
  clip = found;
  document.title = `${id} – ${set.name}`;
  at("clip-id").textContent = id;
  at("clip-previous").disabled = clip.previous === null;
  at("clip-next").disabled = clip.next === null;
  const chosen = Object.fromEntries(
    PLAYER.filter((name) => params.has(name)).map((name) => [name, params.get(name)]),
  );
  player.picked = null;
  pixel.open(clip);
  health.open(clip, found.version);
  labels.open(clip);
  player.open(clip, found.version, chosen);
  tellFacts();
  showTab(params.get("tab") ?? "pixel");
  if (params.has("x")) pick({ x: Number(params.get("x")), y: Number(params.get("y")) });
}

function closeClip() {
  show.focus = clip.id;
  player.close();
  labels.open(null);
  clip = null;
  document.title = set.name;
}

function beside(side) {
  if (clip?.[side]) go({ clip: clip[side], tick: null, x: null, y: null });
}

function pick(chosen) {
  player.picked = chosen;
  player.mark();
  note({ ...chosen, tab: null });
  showTab("pixel");
  pixel.show(chosen, player.chosen.tick);
}

function showTab(name) {
  for (const one of ["pixel", "health", "facts"]) {
    at(one).hidden = one !== name;
    at(`tab-${one}`).setAttribute("aria-selected", one === name);
  }
  if (name === "health") health.show();
  if (clip) note({ tab: name === "pixel" ? null : name });
}

function tellFacts() {
  const rate = clip.tick_rate_hz;
  const lost = clip.lost.reduce((sum, [, ticks]) => sum + ticks, 0);
  const short = [
    ["size", `${clip.height_px} × ${clip.width_px} px (rows × columns)`],
    ["ticks", `${count(clip.ticks)} at ${count(rate)} Hz, ${milliseconds(clip.ticks, rate)}`],
    ["camera", clip.camera || (clip.attributes.sensor ? "none: simulated" : "–")],
    ["firing rate", clip.firing_rate === null ? "not counted yet" : significant(clip.firing_rate)],
    ["lost", lost ? `about ${counted(lost, "tick")} in ${counted(clip.lost.length, "place")}` : "nothing"],
    ["file", String(clip.source.name ?? "–")],
    ["licence", clip.licence ?? "–"],
  ];
  at("short-facts").replaceChildren(
    ...short.flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { text: value })]),
  );
  const all = { source: clip.source, losses: clip.losses, attributes: clip.attributes };
  at("facts").replaceChildren(make("pre", { text: JSON.stringify(all, null, 2) }));
}

// --- the set ---------------------------------------------------------------------------------

async function loadSet() {
  set = await getJson("api/set");
  at("name").textContent = set.name;
  at("name").title = `${set.path} (${set.format})`;
  if (!clip) document.title = set.name;
  labels.setSet(set);
  fillFilters();
  tellBanner();
}

function fillFilters() {
  const none = { label: "unlabelled", split: "no split", camera: "no camera" };
  const any = { label: "all classes", split: "all splits", camera: "all cameras" };
  for (const name of FILTERS) {
    const options = set.counts[`${name}s`].map(([value, clips]) =>
      make("option", { value: `=${value}`, text: `${value || none[name]} (${count(clips)})` }),
    );
    at(name).replaceChildren(make("option", { value: "", text: any[name] }), ...options);
    at(name).value = params.has(name) ? `=${params.get(name)}` : "";
    at(name).hidden = options.length < 2 && !params.has(name);
  }
  if (document.activeElement !== at("text")) at("text").value = params.get("text") ?? "";
}

function tellBanner() {
  const lines = set.notes.map((text) => make("div", { className: "note", text }));
  if (set.torn_groups) {
    const some = Object.keys(set.torn).slice(0, 5).map(harmless).join(", ");
    const text = `${counted(set.torn_groups, "group is", "groups are")} on several sides of a split: ${some}`;
    lines.push(make("div", { className: "note warning", text }));
  }
  if (set.left_out) {
    const listed = make("details", { className: "note warning" });
    const text = `${counted(set.left_out, "file")} could not be opened`;
    listed.append(make("summary", { text }));
    listed.append(...set.failures.map(failureLine));
    listed.open = set.clips === 0 || set.failures.some(({ guess }) => guess);
    lines.push(listed);
  }
  at("banner").replaceChildren(...lines);
}

function failureLine({ file, id, error, guess }) {
  const line = make("div", { className: "failure" }, make("strong", { text: id }));
  if (guess) {
    const button = make("button", { text: "find its layout" });
    button.addEventListener("click", () => go({ file }));
    line.append(" ", button);
  }
  line.append(make("div", { className: "quiet", text: error }));
  return line;
}

// --- what is done ----------------------------------------------------------------------------

function tile() {
  return Math.min(380, Math.max(20, Number(params.get("tile")) || 168));
}

function setTile(px) {
  const before = pageSize(tile());
  note({ tile: px === 168 ? null : px });
  at("tile").value = tile();
  if (pageSize(tile()) === before) grid.resize(tile());
  else go({ page: null });
}

function turn(pages) {
  const page = Math.max(0, Number(params.get("page") ?? 0) + pages);
  if (!at(pages > 0 ? "page-on" : "page-back").disabled) {
    go({ page: page || null }).then(() => window.scrollTo(0, 0));
  }
}

function connect() {
  for (const name of FILTERS) {
    at(name).addEventListener("change", () => {
      const { value } = at(name);
      go({ [name]: value === "" ? null : value.slice(1), page: null, clip: null });
    });
  }
  let later;
  at("text").addEventListener("input", () => {
    clearTimeout(later);
    later = setTimeout(() => go({ text: at("text").value || null, page: null, clip: null }), 150);
  });
  at("tile").addEventListener("input", () => setTile(Number(at("tile").value)));
  at("plays").addEventListener("change", () => {
    note({ plays: at("plays").checked ? null : "hover" });
    grid.setPlays(at("plays").checked);
  });
  at("advance").addEventListener("change", () => note({ advance: at("advance").checked ? 1 : null }));
  at("page-back").addEventListener("click", () => turn(-1));
  at("page-on").addEventListener("click", () => turn(1));
  at("back").addEventListener("click", () => go({ clip: null, x: null, y: null }));
  at("clip-previous").addEventListener("click", () => beside("previous"));
  at("clip-next").addEventListener("click", () => beside("next"));
  for (const name of ["pixel", "health", "facts"]) {
    at(`tab-${name}`).addEventListener("click", () => showTab(name));
  }
  at("help-open").addEventListener("click", () => at("help").showModal());
  at("help").append(
    make("h2", { text: "Keys" }),
    make("dl", {}, ...HELP.flatMap(([key, text]) => [make("dt", { text: key }), make("dd", { text })])),
    make("p", { className: "quiet", text: "Everything is saved at once. Esc closes this." }),
  );
  at("help").addEventListener("click", () => at("help").close());
  window.addEventListener("popstate", () => {
    params = new URLSearchParams(location.search);
    if (clip && clip.id !== params.get("clip")) closeClip();
    show();
  });
  document.addEventListener("keydown", (event) => {
    if (at("help").open || event.defaultPrevented) return;
    const isTyping = event.target.matches("input:not([type=range], [type=checkbox]), textarea");
    if (isTyping) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (event.target.matches("select") && event.key.length === 1) return;
    const isDone = (clip ? clipKey(event) : gridKey(event)) || labelKey(event);
    if (isDone) event.preventDefault();
  });
}

function labelKey(event) {
  return labels.key(event, clip ?? grid.focused()?.clip);
}

function gridKey(event) {
  const keys = {
    "/": () => at("text").select(),
    "?": () => at("help").showModal(),
    ArrowLeft: () => grid.move(-1, 0),
    ArrowRight: () => grid.move(1, 0),
    ArrowUp: () => grid.move(0, -1),
    ArrowDown: () => grid.move(0, 1),
    PageUp: () => turn(-1),
    PageDown: () => turn(1),
    "+": () => setTile(Math.min(380, Math.round(tile() * 1.25))),
    "-": () => setTile(Math.max(20, Math.round(tile() / 1.25))),
  };
  if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return false;
  if (event.target.matches("[type=range]") && event.key.startsWith("Arrow")) return false;
  keys[event.key]();
  return true;
}

function clipKey(event) {
  const many = event.shiftKey ? 10 : 1;
  const window = player.chosen?.window;
  const keys = {
    " ": () => player.toggle(),
    ArrowLeft: () => player.move(-many),
    ArrowRight: () => player.move(many),
    Home: () => player.go(0),
    End: () => player.go(player.last),
    m: () => player.set({ method: nextMethod(player.chosen.method) }),
    "[": () => player.set({ window: Math.max(1, Math.round(window / 1.5)) }),
    "]": () => player.set({ window: Math.ceil(window * 1.5) }),
    n: () => beside("next"),
    p: () => beside("previous"),
    l: () => at("edit-label").select(),
    c: () => at("edit-captions").select(),
    g: () => at("edit-group").select(),
    i: () => showTab("pixel"),
    h: () => showTab("health"),
    f: () => showTab("facts"),
    "/": () => at("text").select(),
    "?": () => at("help").showModal(),
    Escape: () => go({ clip: null, x: null, y: null }),
  };
  if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return false;
  if (event.target.id === "white" && event.key.startsWith("Arrow")) return false;
  keys[event.key]();
  return true;
}

connect();
at("tile").value = tile();
at("plays").checked = params.has("plays")
  ? params.get("plays") !== "hover"
  : !window.matchMedia("(prefers-reduced-motion: reduce)").matches;
at("advance").checked = params.has("advance");
try {
  // The set and its first page are asked for together.
  if (!params.has("clip") && !params.has("file")) first = askClips();
  await loadSet();
  await show();
} catch (error) {
  showError(error.message);
}
