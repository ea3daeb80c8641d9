// The list of what was found: dense, one line a sound, moved through with keys.

import { h, iconButton, nameAndFolder, relabel, seconds } from "./dom.js";

const HOVER_MS = 200;

export const tagsOf = (hit) => hit.tags ?? hit.metadata?.tags ?? [];

export class Results {
  #section;
  #thumbs;
  #player;
  #act;
  #rows = new Map(); // id -> {item, hit}
  #selected = "";
  #hover = 0;

  /** `act` has `select(id)`, `similar(id)`, `add(id)`, `tag(name)`, `more()`, `play(hit)`, `placeOf(hit)` and
   *  `hoverPlays()`. */
  constructor(section, { thumbs, player, act }) {
    this.#section = section;
    this.#thumbs = thumbs;
    this.#player = player;
    this.#act = act;
    player.addEventListener("change", () => this.#markPlaying());
    player.addEventListener("progress", () => this.#markProgress());
  }

  get hits() {
    return [...this.#rows.values()].map((row) => row.hit);
  }

  hit(id) {
    return this.#rows.get(id)?.hit ?? null;
  }

  /** Show results; `more` says that there may be others. */
  show(hits, { more }) {
    this.#section.setAttribute("aria-busy", "false");
    const best = Math.max(...hits.map((hit) => hit.score ?? 0), 1e-6);
    this.#rows = new Map();
    const items = hits.map((hit) => {
      const item = this.#row(hit, Math.max(0, (hit.score ?? 0) / best));
      this.#rows.set(hit.id, { item, hit });
      return item;
    });
    const list = h("ol", { class: "results" }, items);
    const button = h("button", { type: "button", class: "more", text: "Show more", on: { click: this.#act.more } });
    this.#section.replaceChildren(list, more ? button : "");
    this.select(this.#selected);
    this.#markPlaying();
  }

  /** Show something else than results. */
  message(...content) {
    this.#rows = new Map();
    this.#section.setAttribute("aria-busy", "false");
    this.#section.replaceChildren(h("div", { class: "message" }, ...content));
  }

  /** Show that an answer is awaited: what is there is dimmed, and where nothing is, empty lines stand. */
  loading() {
    this.#section.setAttribute("aria-busy", "true");
    if (this.#rows.size) return;
    const lines = Array.from({ length: 8 }, () => h("div", { class: "skeleton" }));
    this.#section.replaceChildren(h("div", { "aria-hidden": "true" }, lines));
  }

  select(id, { focus = false } = {}) {
    this.#selected = id;
    const first = this.#rows.keys().next().value;
    for (const [one, { item }] of this.#rows) {
      const isIt = one === id;
      item.classList.toggle("selected", isIt);
      const name = item.querySelector(".name");
      if (isIt) name.setAttribute("aria-current", "true");
      else name.removeAttribute("aria-current");
      // One stop for the tab key, not two hundred: the arrows go on from there.
      const isStop = isIt || (!this.#rows.has(id) && one === first);
      for (const control of item.querySelectorAll("button, a")) control.tabIndex = isStop ? 0 : -1;
      if (isIt && focus) {
        name.focus({ preventScroll: true });
        item.scrollIntoView({ block: "nearest" });
      }
    }
  }

  /** The id `step` lines below the selected one, or the first. */
  neighbour(step) {
    const ids = [...this.#rows.keys()];
    const at = ids.indexOf(this.#selected);
    if (at < 0) return ids[0] ?? null;
    return ids[Math.min(ids.length - 1, Math.max(0, at + step))];
  }

  #row(hit, share) {
    const [name, folder] = nameAndFolder(hit.name);
    const bar = h("i", { class: "bar-of-score" });
    bar.style.setProperty("--share", share);
    const picture = h("img", { alt: "", width: 160, height: 34, decoding: "async" });
    this.#thumbs.show(picture, `spectrogram/${encodeURIComponent(hit.id)}.png?width=320&height=68`);
    const thumb = h("div", { class: "thumb" }, picture, h("i", { class: "head" }));
    const play = iconButton("play", `Play ${name}`, () => this.#act.play(hit), { class: "play" });
    const tags = tagsOf(hit)
      .slice(0, 4)
      .map((tag) =>
        h("button", {
          type: "button",
          class: "tag",
          text: tag,
          title: `Only sounds with the tag ${tag}`,
          on: { click: () => this.#act.tag(tag) },
        }),
      );
    const item = h(
      "li",
      { class: "row", "data-id": hit.id },
      play,
      thumb,
      h(
        "button",
        { type: "button", class: "name", title: hit.name, on: { click: () => this.#act.select(hit.id) } },
        h("b", { text: name }),
        folder ? h("small", { text: folder }) : null,
      ),
      h("div", { class: "tags" }, tags),
      h("span", { class: "when", text: whenOf(hit) }),
      h(
        "span",
        { class: "score", title: "How near: 1 is as near as can be" },
        bar,
        h("span", { text: hit.score === null ? "" : hit.score.toFixed(2) }),
      ),
      h(
        "div",
        { class: "actions" },
        iconButton("similar", `Sounds like ${name}`, () => this.#act.similar(hit.id)),
        iconButton("add", `Add ${name} to the query as an example`, () => this.#act.add(hit.id)),
      ),
    );
    const hovered = () => {
      clearTimeout(this.#hover);
      if (this.#act.hoverPlays()) this.#hover = setTimeout(() => this.#player.play(hit.id, this.#act.placeOf(hit)), HOVER_MS);
    };
    thumb.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && hovered());
    thumb.addEventListener("pointerleave", () => {
      clearTimeout(this.#hover);
      if (this.#act.hoverPlays() && this.#player.plays(hit.id)) this.#player.stop();
    });
    thumb.addEventListener("click", () => this.#act.play(hit));
    return item;
  }

  #markPlaying() {
    for (const [id, { item, hit }] of this.#rows) {
      const plays = this.#player.plays(id);
      if (item.classList.contains("playing") === plays) continue;
      item.classList.toggle("playing", plays);
      const [name] = nameAndFolder(hit.name);
      relabel(item.querySelector(".play"), plays ? "pause" : "play", `${plays ? "Stop" : "Play"} ${name}`);
    }
  }

  #markProgress() {
    const row = this.#rows.get(this.#player.id);
    if (!row) return;
    const { start_s, duration_s } = row.hit;
    const share = duration_s ? (this.#player.at_s - start_s) / duration_s : 0;
    row.item.querySelector(".head").style.setProperty("--at", Math.min(1, Math.max(0, share)));
  }
}

/** When a result sounds: how long it is, or from when to when in its file. */
function whenOf(hit) {
  if (hit.start_s < 0.05) return seconds(hit.duration_s);
  return `${seconds(hit.start_s).replace(" s", "")}–${seconds(hit.start_s + (hit.duration_s ?? 0))}`;
}

/** What stands in place of results. */
export const notice = (title, told, ...more) => [h("h2", { text: title }), told ? h("p", { text: told }) : "", ...more];
