// The page: its parts, and how they hear of each other.

import { Api, Gone, isAbort } from "./api.js";
import { Detail } from "./detail.js";
import { h, icon, iconButton, nameAndFolder, remember, remembered } from "./dom.js";
import { listenToDrops } from "./drop.js";
import { Filters } from "./filters.js";
import { listenToKeys, showKeys } from "./keys.js";
import { Labels } from "./labels.js";
import { MapView } from "./mapview.js";
import { readPart } from "./part.js";
import { Player } from "./player.js";
import { notice, Results } from "./results.js";
import { Search } from "./search.js";
import { isEmpty, sameQuery, State } from "./state.js";
import { listenToTheme } from "./theme.js";
import { Thumbs } from "./thumbs.js";
import { Waveform } from "./waveform.js";

const KNOCK_MS = 1500;
const MOST = 500;
const PAGE = 50;
const IDEAS = ["glass breaking", "a dog barks far away", "rain on a roof", "footsteps on gravel", "a door creaks", "crowd"];

const at = (id) => document.getElementById(id);
const state = new State();
const api = new Api();
const player = new Player(api, at("player"));
const thumbs = new Thumbs(api);
const labels = new Labels(api);
let sound = null; // the file that was dropped: it is no part of the address
let known = null; // what the server says of its library
let isKnocking = false;

/** From where a result plays: a moment ends, and other rows go on to the end of their file. */
const placeOf = (hit) => ({ from_s: hit.start_s, end_s: state.now.moments ? (hit.end_s ?? null) : null });

const results = new Results(at("list"), {
  thumbs,
  player,
  act: {
    select: (id) => state.set({ sel: id }),
    play: (hit) => {
      state.set({ sel: hit.id });
      player.toggle(hit.id, placeOf(hit));
    },
    similar,
    add,
    tag: (name) => state.set({ tags: [name] }, { step: true }),
    more: () => state.set({ k: Math.min(MOST, state.now.k + PAGE) }),
    placeOf,
    hoverPlays: () => at("hover-play").checked,
  },
});
const detail = new Detail(at("detail"), {
  api,
  player,
  waveform: new Waveform(api),
  labels,
  act: {
    close: () => state.set({ sel: "" }),
    similar,
    add,
    open: (hit) => state.set({ sel: hit.id }),
    placeOf,
    text: () => state.now.q.trim(),
  },
});
const map = new MapView(at("map"), {
  api,
  act: {
    select: (id) => state.set({ sel: id }),
    play: (point) => player.play(point.id),
    hoverPlays: () => at("hover-play").checked,
  },
});
const filters = new Filters(at("filters"), state);
const search = new Search(api, {
  loading: () => results.loading(),
  found: showFound,
  failed: showFailure,
  nothing: showNothing,
});

/** What sounds like an example: the id of a row, or a part of its file. */
function similar(example) {
  setSound(null);
  const sheet = isNarrow() ? { sel: "" } : {}; // it lies over the results
  state.set({ q: "", without: "", like: [example], view: "list", ...sheet }, { step: true });
}

function add(example) {
  if (!state.now.like.includes(example)) state.set({ like: [...state.now.like, example] }, { step: true });
}

const isNarrow = () => matchMedia("(max-width: 1099px)").matches;

function setSound(file) {
  if (sound === file) return;
  sound = file;
  showExamples();
}

function showFound({ results: rows, rows: count }, took_ms) {
  hideBanner();
  const hits = state.now.moments ? rows : bestOfFiles(rows);
  const all = (known?.files ?? count).toLocaleString("en");
  at("summary").textContent = `${hits.length} of ${all} sounds · ${Math.round(took_ms)} ms`;
  if (hits.length) results.show(hits, { more: rows.length >= state.now.k && state.now.k < MOST });
  else results.message(...notice("Nothing found", "No sound meets all of the filters."));
  map.highlight(hits.map((hit) => hit.id));
  const chosen = results.hit(state.now.sel);
  if (chosen) detail.show(chosen);
  detail.refreshMoments();
  showExamples();
}

/** One row a file: windows of a file sound alike, and the first one is the best. */
function bestOfFiles(rows) {
  const best = new Map();
  for (const row of rows) if (!best.has(row.name)) best.set(row.name, row);
  return [...best.values()];
}

function showNothing() {
  at("summary").textContent = "";
  map.highlight([]);
  const ideas = (known?.tags?.length ? known.tags.slice(0, 12).map(({ tag }) => tag) : IDEAS).map((idea) =>
    h("button", { type: "button", class: "chip", text: idea, on: { click: () => write(idea) } }),
  );
  const told = "Write what it sounds like, in your own words, or drop a sound to find others like it.";
  results.message(...notice("What are you listening for?", told, h("div", { class: "chips" }, ideas)));
}

function showFailure(error) {
  at("list").setAttribute("aria-busy", "false");
  if (error instanceof Gone) {
    showBanner("The server does not answer. Trying again…");
    if (!results.hits.length) results.message(...notice("No answer", "Is the server still running?"));
    knock();
    return;
  }
  at("summary").textContent = "";
  const failed = error.status >= 500 ? "The server could not answer" : "That cannot be searched for";
  const title = error.status === 429 ? "The server is busy" : failed;
  const again = h("button", { type: "button", class: "primary", text: "Try again", on: { click: ask } });
  results.message(...notice(title, error.message, again));
}

/** Knock until the server is there again, and then ask again. */
async function knock() {
  if (isKnocking) return;
  isKnocking = true;
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, KNOCK_MS));
    try {
      await api.get("healthz");
      break;
    } catch (error) {
      if (!(error instanceof Gone) && error.status < 500) break;
    }
  }
  isKnocking = false;
  hideBanner();
  if (!known) await meet();
  ask();
}

function showBanner(told) {
  at("banner").replaceChildren(h("span", { text: told }), iconButton("close", "Dismiss", hideBanner));
  at("banner").hidden = false;
}

function hideBanner() {
  at("banner").hidden = true;
}

function write(text) {
  at("query").value = text;
  state.set({ q: text }, { step: true });
  at("query").focus();
}

function ask() {
  search.now(state.now, sound);
}

/** The sounds that the query holds, as chips before its words. */
function showExamples() {
  const nameOf = (id) => nameAndFolder(results.hit(id)?.name ?? map.point(id)?.name ?? names.get(id) ?? "a sound")[0];
  const chip = (name, remove) =>
    h("span", { class: "chip held" }, h("span", { text: name }), iconButton("close", `Remove ${name} from the query`, remove));
  const chips = state.now.like.map((example) => {
    const { id, seconds } = readPart(example);
    const without = state.now.like.filter((one) => one !== example);
    return chip(`${nameOf(id)} ${seconds}`.trim(), () => state.set({ like: without }, { step: true }));
  });
  if (sound) {
    chips.push(
      chip(sound.name, () => {
        setSound(null);
        ask();
      }),
    );
  }
  at("examples").replaceChildren(...chips);
}

const names = new Map(); // of rows that no list shows now

async function learnName(id) {
  if (names.has(id)) return names.get(id);
  const row = results.hit(id) ?? (await api.get(`sounds/${encodeURIComponent(id)}`));
  names.set(id, row.name);
  return row.name;
}

async function showSelected(id) {
  results.select(id);
  map.select(id);
  if (!id) {
    detail.nothing();
    return;
  }
  try {
    const hit = results.hit(id) ?? (await api.get(`sounds/${encodeURIComponent(id)}`));
    if (state.now.sel === id) detail.show(hit);
  } catch (error) {
    if (!isAbort(error)) showBanner(error.message);
  }
}

function showView(view) {
  const isMap = view === "map";
  at("as-list").setAttribute("aria-pressed", String(!isMap));
  at("as-map").setAttribute("aria-pressed", String(isMap));
  at("list").hidden = isMap;
  at("map").hidden = !isMap;
  if (isMap) map.open().then(showExamples);
}

state.onChange((now, before) => {
  for (const { id } of now.like.map(readPart)) {
    const name = results.hit(id)?.name;
    if (name) names.set(id, name);
    else learnName(id).then(showExamples, () => {});
  }
  if (document.activeElement !== at("query")) at("query").value = now.q;
  if (document.activeElement !== at("without")) at("without").value = now.without;
  if (now.sel !== before.sel) showSelected(now.sel);
  if (now.view !== before.view) showView(now.view);
  if (!sameQuery(now, before)) {
    filters.update();
    showExamples();
    const isTyped = now.q !== before.q || now.without !== before.without;
    if (isTyped) search.soon(now, sound);
    else search.now(now, sound);
  }
});

function toggleFilters() {
  const show = at("filters").hidden;
  at("filters").hidden = !show;
  at("show-filters").setAttribute("aria-expanded", String(show));
  remember("filters", show ? "shown" : "hidden");
}

function selectedHit() {
  return results.hit(state.now.sel);
}

function escape() {
  if (!at("banner").hidden) hideBanner();
  else if (state.now.sel && isNarrow()) state.set({ sel: "" });
  else if (!isEmpty(state.now) || sound) {
    player.stop();
    setSound(null);
    at("query").value = at("without").value = "";
    state.clear();
    ask();
  } else state.set({ sel: "" });
}

listenToKeys({
  focus: () => {
    at("query").focus();
    at("query").select();
  },
  move: (step) => {
    const id = results.neighbour(step);
    if (!id) return;
    state.set({ sel: id });
    results.select(id, { focus: state.now.view === "list" });
  },
  play: () => {
    const hit = selectedHit();
    if (hit) player.toggle(hit.id, placeOf(hit));
    else if (state.now.sel) player.toggle(state.now.sel);
  },
  similar: () => state.now.sel && similar(state.now.sel),
  add: () => state.now.sel && add(state.now.sel),
  cut: (what) => detail.cut(what),
  map: () => state.set({ view: state.now.view === "map" ? "list" : "map" }, { step: true }),
  filters: toggleFilters,
  escape,
});
listenToDrops({
  veil: at("drop"),
  button: at("upload"),
  field: at("file"),
  take: (file) => {
    setSound(file);
    ask();
  },
});
listenToTheme(at("theme"), () => map.repaint());

for (const [id, name] of Object.entries({ upload: "upload", "show-filters": "filters", "show-keys": "keys" }))
  at(id).append(icon(name));
at("show-keys").addEventListener("click", showKeys);
at("show-filters").addEventListener("click", toggleFilters);
at("as-list").addEventListener("click", () => state.set({ view: "list" }, { step: true }));
at("as-map").addEventListener("click", () => state.set({ view: "map" }, { step: true }));
at("query").addEventListener("input", (event) => state.set({ q: event.target.value }));
at("without").addEventListener("input", (event) => state.set({ without: event.target.value }));
at("search").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
at("hover-play").checked = remembered("hover", "off") === "on";
at("hover-play").addEventListener("change", (event) => remember("hover", event.target.checked ? "on" : "off"));
player.addEventListener("problem", (event) => showBanner(event.detail));

/** What the server says of its library: filters, and the number of sounds. */
async function meet() {
  try {
    known = await api.get("filters");
    filters.show(known);
    labels.suggest((known.tags ?? []).map(({ tag }) => tag));
  } catch (error) {
    if (error instanceof Gone) {
      showFailure(error);
      return;
    }
    if (error.status !== 404) showBanner(error.message);
    filters.show(null);
    known = { rows: (await api.get("healthz")).rows };
  }
  at("library").textContent = known.files ? `${known.files.toLocaleString("en")} sounds` : "Sounds";
  document.title = known.rows ? `Sound search · ${known.rows.toLocaleString("en")}` : "Sound search";
}

async function start() {
  if (!isNarrow() && remembered("filters", "shown") === "shown") toggleFilters();
  at("query").value = state.now.q;
  at("without").value = state.now.without;
  showExamples();
  showView(state.now.view);
  await Promise.all([meet(), isEmpty(state.now) ? null : ask()]);
  if (isEmpty(state.now)) ask();
  if (state.now.sel) showSelected(state.now.sel);
  for (const { id } of state.now.like.map(readPart)) learnName(id).then(showExamples, () => {});
  document.documentElement.dataset.ready = "yes";
}

start();
