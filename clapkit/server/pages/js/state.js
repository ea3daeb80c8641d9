// What the page shows, in one object that can be written into the address and read back from it.

const DEFAULTS = Object.freeze({
  q: "", // words
  without: "", // words that the results should not sound like, parted by commas
  like: Object.freeze([]), // ids of rows, and parts of their files (part.js)
  tags: Object.freeze([]),
  folder: "",
  min: "", // seconds, as typed
  max: "",
  where: Object.freeze([]), // further conditions, as typed
  words: false, // look the words up in names and tags too
  moments: false,
  variety: 0,
  k: 50,
  view: "list",
  sel: "", // id of the selected row
});
const QUERY = ["q", "without", "like", "tags", "folder", "min", "max", "where", "words", "moments", "variety", "k"];

/** Whether two states ask the same of the server. */
export const sameQuery = (a, b) => QUERY.every((name) => JSON.stringify(a[name]) === JSON.stringify(b[name]));

/** Whether there is anything to look for. */
export const isEmpty = (state) => !state.q.trim() && !state.like.length;

/** The filters of a state as conditions of the server. */
export function conditions(state) {
  const found = [...state.where];
  if (state.tags.length === 1) found.push(`tags=${state.tags[0]}`);
  if (state.tags.length > 1) found.push(`tags in ${state.tags.join(",")}`);
  if (state.folder) found.push(`folder under ${state.folder}`);
  if (state.min !== "") found.push(`duration_s>=${state.min}`);
  if (state.max !== "") found.push(`duration_s<=${state.max}`);
  return found;
}

/** The query of a state as [name, value] pairs for /search. */
export function searchParams(state) {
  const text = state.q.trim();
  const params = text ? [["text", text]] : [];
  for (const part of state.without.split(",")) if (part.trim()) params.push(["without", part.trim()]);
  for (const id of state.like) params.push(["like", id]);
  for (const condition of conditions(state)) params.push(["where", condition]);
  if (state.words && text) params.push(["words", text]);
  if (state.moments) params.push(["moments", "true"]);
  if (state.variety > 0) params.push(["variety", String(state.variety)]);
  params.push(["k", String(state.k)]);
  return params;
}

/** The state that an address stands for; what cannot be read is as if it were not there. */
export function fromAddress(search) {
  const given = new URLSearchParams(search);
  const state = { ...DEFAULTS };
  for (const [name, value] of Object.entries(DEFAULTS)) {
    if (!given.has(name)) continue;
    if (Array.isArray(value)) state[name] = given.getAll(name);
    else if (typeof value === "boolean") state[name] = given.get(name) === "1";
    else if (typeof value === "number") state[name] = Number(given.get(name)) || value;
    else state[name] = given.get(name);
  }
  return state;
}

export function toAddress(state) {
  const params = new URLSearchParams();
  for (const [name, value] of Object.entries(DEFAULTS)) {
    const now = state[name];
    if (JSON.stringify(now) === JSON.stringify(value)) continue;
    for (const one of Array.isArray(now) ? now : [now === true ? "1" : now]) params.append(name, String(one));
  }
  const query = params.toString();
  return query ? `?${query}` : location.pathname;
}

/** The state of the page; whoever asked is told of every change with the state before. */
export class State {
  #now = fromAddress(location.search);
  #listeners = [];

  constructor() {
    addEventListener("popstate", () => this.#become(fromAddress(location.search)));
  }

  get now() {
    return this.#now;
  }

  onChange(listener) {
    this.#listeners.push(listener);
  }

  /** Change some of it. `step`: as a step that the browser's back button undoes. */
  set(changes, { step = false } = {}) {
    const next = { ...this.#now, ...changes };
    const address = toAddress(next);
    if (address !== toAddress(this.#now)) history[step ? "pushState" : "replaceState"](null, "", address);
    this.#become(next);
  }

  /** Everything as on an empty page, except how it is shown. */
  clear() {
    this.set({ ...DEFAULTS, view: this.#now.view }, { step: true });
  }

  #become(next) {
    const before = this.#now;
    this.#now = next;
    for (const listener of this.#listeners) listener(next, before);
  }
}
