// The selected sound: waveform, spectrogram, moments, labels, and what sounds like it.

import { isAbort, Refused } from "./api.js";
import { h, iconButton, nameAndFolder, relabel, seconds } from "./dom.js";
import { Part, partOf } from "./part.js";
import { tagsOf } from "./results.js";

const WAIT_MS = 120; // so that running through a list does not load all of it
const NEIGHBOURS = 5;
const ALL = 0.98; // of a sound: a moment that is longer says nothing of where to listen

export class Detail {
  #aside;
  #api;
  #player;
  #waveform;
  #labels;
  #act;
  #hit = null;
  #parts = null;
  #duration_s = 0;
  #running = null;
  #timer = 0;
  #part;

  /**
   * `act` has `close()`, `similar(example)`, `add(example)`, `open(hit)`, `placeOf(hit)` and `text()`, the words that are
   * searched for. An example is the id of a row, or a part of its file.
   */
  constructor(aside, { api, player, waveform, labels, act }) {
    this.#aside = aside;
    this.#api = api;
    this.#player = player;
    this.#waveform = waveform;
    this.#labels = labels;
    this.#act = act;
    this.#part = new Part({
      seek: (time_s) => this.#seek(time_s),
      play: (part) => player.play(this.#hit.id, part),
      similar: (part) => act.similar(partOf(this.#hit.id, part)),
      add: (part) => act.add(partOf(this.#hit.id, part)),
    });
    player.addEventListener("change", () => this.#mark());
    player.addEventListener("progress", () => this.#follow());
    this.nothing();
  }

  nothing() {
    this.#stop();
    this.#hit = null;
    this.#waveform.clear();
    this.#aside.classList.remove("open");
    this.#aside.replaceChildren();
  }

  /** Show a row; what takes time is fetched a moment later, and given up when another one comes. */
  show(hit) {
    if (this.#hit?.id === hit.id && this.#aside.classList.contains("open")) return;
    this.#stop();
    this.#hit = hit;
    this.#build(hit);
    this.#aside.classList.add("open");
    const running = new AbortController();
    this.#running = running;
    this.#timer = setTimeout(() => this.#fill(hit, running.signal), WAIT_MS);
  }

  /** Let the part to search by begin, or end, where the sound is playing now; or search by it. */
  cut(what) {
    if (!this.#hit) return;
    if (what === "search") this.#part.search();
    else if (this.#player.id === this.#hit.id && this.#duration_s) this.#part[what](this.#player.at_s);
  }

  /** The same row, but asked for with other words. */
  async refreshMoments() {
    if (this.#hit && this.#running) await this.#showMoments(this.#hit, this.#running.signal);
  }

  #stop() {
    clearTimeout(this.#timer);
    this.#running?.abort();
    this.#running = null;
  }

  #build(hit) {
    const [name, folder] = nameAndFolder(hit.name);
    const id = encodeURIComponent(hit.id);
    this.#waveform.clear();
    this.#duration_s = 0;
    const parts = {
      wave: h("div", { class: "wave" }),
      picture: h("img", { class: "picture", alt: `Spectrogram of ${name}` }),
      head: h("i", { class: "head" }),
      overlay: h("div", { class: "overlay" }),
      time: h("span", { class: "time", text: seconds(hit.duration_s) }),
      play: iconButton("play", `Play ${name}`, () => this.#toggle(), { class: "play" }),
      moments: h("section", { class: "part", hidden: true }),
      similar: h("section", { class: "part" }),
    };
    this.#parts = parts;
    const view = h("div", { class: "view" }, parts.picture, parts.overlay, parts.head);
    const sight = h("div", { class: "sight" }, parts.wave, view);
    this.#aside.replaceChildren(
      h(
        "header",
        {},
        h("div", {}, h("h2", { text: name }), folder ? h("p", { class: "quiet", text: folder }) : null),
        iconButton("close", "Close", this.#act.close),
      ),
      sight,
      h(
        "div",
        { class: "transport" },
        parts.play,
        parts.time,
        iconButton("similar", `Sounds like ${name}`, () => this.#act.similar(hit.id)),
        iconButton("download", `Download ${name}`, () => this.#download()),
      ),
      this.#part.over(sight),
      facts(hit),
      parts.moments,
      this.#labels.section(),
      parts.similar,
    );
    this.#mark();
    parts.picture.dataset.base = `spectrogram/${id}.png?start_s=0&width=800&height=192`;
  }

  async #fill(hit, signal) {
    const tasks = [this.#showWave(hit, signal), this.#labels.show(hit.id), this.#showSimilar(hit, signal)];
    await Promise.allSettled(tasks);
  }

  async #showWave(hit, signal) {
    const { wave, picture, time } = this.#parts;
    let told = "";
    try {
      const made = await this.#waveform.peaks(hit.id, { signal });
      if (signal.aborted) return;
      if (made) {
        this.#duration_s = made.duration_s;
        this.#waveform.draw(wave, made);
        this.#waveform.at(this.#player.id === hit.id ? this.#player.at_s : hit.start_s);
        time.textContent = seconds(made.duration_s);
      } else told = "Too long for a waveform here.";
    } catch (error) {
      if (isAbort(error) || signal.aborted) return;
      told = error instanceof Refused ? error.message : "This browser cannot decode that kind of file.";
    }
    if (told) wave.replaceChildren(h("p", { class: "quiet", text: told }));
    this.#duration_s ||= hit.start_s + (hit.duration_s ?? 0);
    this.#part.length(this.#duration_s);
    await Promise.allSettled([this.#showPicture(picture, signal), this.#showMoments(hit, signal)]);
  }

  async #showPicture(picture, signal) {
    const answer = await this.#api.fetch(`${picture.dataset.base}&duration_s=${this.#duration_s}`, { signal });
    const address = URL.createObjectURL(await answer.blob());
    picture.addEventListener("load", () => URL.revokeObjectURL(address), { once: true });
    picture.src = address;
  }

  async #showMoments(hit, signal) {
    const text = this.#act.text();
    const { moments: part, overlay } = this.#parts;
    const all = text ? await this.#moments(hit, text, signal) : [];
    const found = all.filter(({ start_s, end_s }) => end_s - start_s < ALL * this.#duration_s);
    if (signal.aborted || this.#hit !== hit) return;
    const best = Math.max(...found.map((one) => one.score));
    const worst = Math.min(...found.map((one) => one.score));
    const stretches = found.map((one) => ({ ...one, strength: (one.score - worst) / (best - worst || 1) }));
    this.#waveform.mark(stretches);
    overlay.replaceChildren(
      ...stretches.map(({ start_s, end_s }) => {
        const mark = h("i", {});
        mark.style.setProperty("--from", start_s / this.#duration_s);
        mark.style.setProperty("--to", Math.min(1, end_s / this.#duration_s));
        return mark;
      }),
    );
    part.hidden = !found.length;
    const buttons = found.slice(0, 8).map(({ start_s, end_s, score }) =>
      h(
        "button",
        { type: "button", class: "moment", on: { click: () => this.#player.play(hit.id, { from_s: start_s, end_s }) } },
        h("span", { text: `${start_s.toFixed(1)}–${end_s.toFixed(1)} s` }),
        h("small", { text: score.toFixed(2) }),
      ),
    );
    part.replaceChildren(h("h3", { text: `Where “${text}” is nearest` }), h("div", { class: "moments" }, buttons));
  }

  async #moments(hit, text, signal) {
    try {
      const answer = await this.#api.get(`moments/${encodeURIComponent(hit.id)}`, [["text", text]], { signal });
      return answer.windows.length > 1 ? answer.moments : [];
    } catch {
      return []; // an index of whole sounds has none
    }
  }

  async #showSimilar(hit, signal) {
    const part = this.#parts.similar;
    const answer = await this.#api.get(`similar/${encodeURIComponent(hit.id)}`, [["k", String(NEIGHBOURS)]], { signal });
    const rows = answer.results.map((other) => {
      const [name] = nameAndFolder(other.name);
      return h(
        "li",
        {},
        iconButton("play", `Play ${name}`, () => this.#player.toggle(other.id, this.#act.placeOf(other))),
        h("button", { type: "button", class: "link", text: name, on: { click: () => this.#act.open(other) } }),
        h("small", { text: other.score.toFixed(2) }),
      );
    });
    part.replaceChildren(h("h3", { text: "Similar sounds" }), h("ul", { class: "neighbours" }, rows));
  }

  async #download() {
    const hit = this.#hit;
    const [name] = nameAndFolder(hit.name);
    try {
      const file = await (await this.#api.fetch(`audio/${encodeURIComponent(hit.id)}`)).blob();
      const address = URL.createObjectURL(file);
      h("a", { href: address, download: name }).click();
      setTimeout(() => URL.revokeObjectURL(address), 1000);
    } catch (error) {
      this.#player.dispatchEvent(new CustomEvent("problem", { detail: error.message }));
    }
  }

  #toggle() {
    this.#player.toggle(this.#hit.id, this.#act.placeOf(this.#hit));
  }

  #seek(time_s) {
    this.#player.play(this.#hit.id, { from_s: Math.max(0, time_s) });
  }

  #mark() {
    if (!this.#hit) return;
    const plays = this.#player.plays(this.#hit.id);
    const [name] = nameAndFolder(this.#hit.name);
    relabel(this.#parts.play, plays ? "pause" : "play", `${plays ? "Stop" : "Play"} ${name}`);
  }

  #follow() {
    if (!this.#hit || this.#player.id !== this.#hit.id || !this.#duration_s) return;
    const at_s = this.#player.at_s;
    this.#waveform.at(at_s);
    this.#parts.head.style.setProperty("--at", at_s / this.#duration_s);
    this.#parts.time.textContent = `${seconds(at_s)} of ${seconds(this.#duration_s)}`;
  }
}

function facts(hit) {
  const about = Object.entries(hit.metadata ?? {}).filter(
    ([name, value]) => !["tags", "window", "path"].includes(name) && ["string", "number"].includes(typeof value),
  );
  const lines = about.slice(0, 6).flatMap(([name, value]) => [h("dt", { text: name }), h("dd", { text: String(value) })]);
  const tags = tagsOf(hit);
  if (tags.length) lines.unshift(h("dt", { text: "tags" }), h("dd", { text: tags.join(", ") }));
  return lines.length ? h("dl", { class: "facts" }, lines) : "";
}
