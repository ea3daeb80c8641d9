// Which of some labels fits a sound, with probabilities; the labels are the listener's own.

import { isAbort } from "./api.js";
import { h, remember, remembered } from "./dom.js";

const GENERAL =
  "speech, laughter, crying baby, footsteps, applause, music, drums, guitar, piano, singing, dog, cat, birds, insects, " +
  "rain, thunder, wind, water, fire, car, train, aircraft, engine, siren, bell, door, glass breaking, tools, clock, noise";
const SHOWN = 6;
const WAIT_MS = 500;

export class Labels {
  #api;
  #kinds = "";
  #list = h("ol", { class: "labels", "aria-label": "Labels with probabilities" });
  #field = h("textarea", { id: "label-field", rows: 3, spellcheck: "false" });
  #running = null;
  #timer = 0;
  #id = null;

  constructor(api) {
    this.#api = api;
    this.#field.addEventListener("input", () => {
      remember("labels", this.#field.value);
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.show(this.#id), WAIT_MS);
    });
  }

  /** Labels that the library itself has: they are the first choice of who has not written any. */
  suggest(tags) {
    this.#kinds = tags.slice(0, 60).join(", ");
  }

  /** The part of the page; `show` fills it. */
  section() {
    this.#field.value = remembered("labels", "") || this.#kinds || GENERAL;
    return h(
      "section",
      { class: "part" },
      h("h3", { text: "What it sounds like" }),
      this.#list,
      h(
        "details",
        {},
        h("summary", { text: "Edit labels" }),
        h("label", { for: "label-field", text: "Labels, parted by commas. Probabilities are among these." }),
        this.#field,
      ),
    );
  }

  async show(id) {
    this.#id = id;
    this.#running?.abort();
    const running = new AbortController();
    this.#running = running;
    const labels = [...new Set(this.#field.value.split(/[,\n]/).map((label) => label.trim()))].filter(Boolean);
    if (!labels.length) {
      this.#list.replaceChildren(h("li", { class: "quiet", text: "Write some labels below." }));
      return;
    }
    this.#list.setAttribute("aria-busy", "true");
    const params = [["id", id], ["top_k", String(Math.min(SHOWN, labels.length))], ...labels.map((name) => ["labels", name])];
    try {
      const { labels: found } = await this.#api.post("classify", params, { signal: running.signal });
      this.#list.replaceChildren(...found.map(line));
    } catch (error) {
      if (isAbort(error)) return;
      this.#list.replaceChildren(h("li", { class: "quiet", text: error.message }));
    }
    this.#list.removeAttribute("aria-busy");
  }
}

function line({ label, probability }) {
  const bar = h("i", {});
  bar.style.setProperty("--share", probability);
  const percent = 100 * probability;
  const share = percent < 0.1 ? "< 0.1 %" : `${percent.toFixed(percent < 9.95 ? 1 : 0)} %`;
  return h("li", {}, h("span", { class: "label", text: label }), bar, h("span", { class: "share", text: share }));
}
